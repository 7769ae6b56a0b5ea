// The head of the page: reward, trust, what else is known, and the map.

function totals() {
  let tokens = 0, trained = 0, sampledTurns = 0;
  for (const segment of segments) {
    tokens += segment.tokens.length - segment.shared;
    for (let at = 0; at < segment.origin.length; at++) if (segment.origin[at] === 115) trained++;
    sampledTurns += segment.turns.filter((turn) => turn.origin === "sampled").length;
  }
  return { tokens, trained, sampledTurns };
}

function headNode() {
  const { tokens, trained, sampledTurns } = totals();
  const end = episode.failure ? badge("bad", "failed") : episode.terminated ? badge("", "terminated") : episode.truncated ? badge("note", "truncated") : badge("", episode.view.is_gone ? "gone" : "not over");
  const worst = episode.findings[0] ? episode.findings[0].level : "good";
  const trust = { good: "tokens exact", note: "tokens sound, with notes", bad: "look before you train" }[worst];
  return el("header", "head",
    episode.view.index_href ? link(episode.view.index_href, "back", "‹ all") : "",
    el("h1", "", textOf(episode.episode_id, "mono")), end,
    el("span", "worth", "reward ", el("b", episode.reward > 0 ? "up" : episode.reward < 0 ? "down" : "", episode.reward === null ? "none" : signed(episode.reward))),
    badge(worst, trust),
    episode.view.is_gone ? badge("note", "no longer on the server: as it was last seen") : "",
    el("span", "soft", `${count(tokens, "token")} · ${trained.toLocaleString("en")} trained on · ${count(sampledTurns, "sampled turn")}` + (segments.length > 1 ? ` · ${segments.length} segments` : "")));
}

function rewardCard() {
  const rewarded = segments.flatMap((segment) => segment.turns).filter((turn) => turn.reward !== undefined);
  const names = [...new Set(rewarded.flatMap((turn) => Object.keys(turn.rewards)))];
  const card = el("section", "card", el("h2", "", "Why this reward"));
  if (episode.failure) {
    card.append(el("p", "failure", badge("bad", episode.failure.kind), " ", textOf(episode.failure.reason || "no reason was given")),
      el("p", "soft", "It failed, so its reward is none, whatever its turns earned. Leave it out, or play it again."));
  }
  if (!rewarded.length) { if (!episode.failure) card.append(el("p", "soft", "No turn was rewarded. A judge may still come (set_reward).")); return card; }
  const head = el("tr", "", el("th", "", "turn"), el("th", "", "reward"), ...names.map((name) => el("th", "", textOf(name))));
  const body = rewarded.map((turn) => el("tr", "", el("td", "", link("#" + idOf(turn), "", label(turn)), el("span", "faint", ` step ${turn.step ?? 0}`)),
    el("td", "", signed(turn.reward)), ...names.map((name) => el("td", "", Object.hasOwn(turn.rewards, name) ? signed(turn.rewards[name]) : ""))));
  const sum = (values) => values.reduce((total, value) => total + value, 0);
  const total = el("tr", "total", el("td", "", "sum"), el("td", "", signed(sum(rewarded.map((turn) => turn.reward)))),
    ...names.map((name) => el("td", "", signed(sum(rewarded.map((turn) => Object.hasOwn(turn.rewards, name) ? turn.rewards[name] : 0))))));
  card.append(el("div", "scroll", el("table", "table", el("thead", "", head), el("tbody", "", total, ...body))));
  if (rewarded.some((turn) => names.length && Math.abs(sum(Object.values(turn.rewards)) - turn.reward) > 1e-9)) {
    card.append(el("p", "soft", "Parts are shown without their weights: a reward is their weighted sum, and what came without a name."));
  }
  return card;
}

function idOf(turn) { return `s${turn.segment.number}t${turn.number}`; }

function label(turn) { return segments.length > 1 ? `${turn.segment.number}.${turn.number}` : String(turn.number); }

const MOST_PLACES = 8;

function trustCard() {
  const card = el("section", "card", el("h2", "", "Can its tokens be trusted"));
  for (const finding of episode.findings) {
    const line = el("div", "finding", badge(finding.level, { good: "✓", note: "note", bad: "look" }[finding.level]), " ", finding.text);
    let turns = finding.turns.map(([segment, turn]) => segments[segment].turns[turn]);
    if (finding.kind) {
      const meaning = episode.meanings[finding.kind];
      line.append(" ", el("span", "soft", code(`For training: ${meaning.training}. What to do: ${meaning.advice}.`)));
      turns = reportsOf(finding.kind).map(([turn]) => turn).filter(Boolean);
    }
    for (const turn of turns.slice(0, MOST_PLACES)) line.append(" ", link("#" + idOf(turn), "place", "turn " + label(turn)));
    if (turns.length > MOST_PLACES) line.append(el("span", "soft", ` and ${(turns.length - MOST_PLACES).toLocaleString("en")} more`));
    card.append(line);
  }
  return card;
}

function reportsOf(kind) {
  return segments.flatMap((segment) => segment.reports.filter((report) => report.kind === kind).map((report) => [turnOfReport(segment, report), report]));
}

// How many ids the tokenizer that was given knows no text of.
function unknownIds() {
  const ids = new Set(segments.flatMap((segment) => [...segment.tokens]));
  return [...ids].filter((id) => episode.texts[id] === undefined && episode.bytes[id] === undefined).length;
}

function aboutCard() {
  const { view } = episode;
  const facts = { group: episode.group, seed: episode.seed, task: view.task, tokenizer: view.tokenizer_name };
  const card = el("section", "card", el("h2", "", "About it"));
  const list = el("dl", "facts");
  for (const [name, value] of Object.entries(facts)) if (value) list.append(el("dt", "", name), el("dd", "", textOf(value)));
  if (view.forked_from) list.append(el("dt", "", "forked from"), el("dd", "", textOf(view.forked_from.episode_id, "mono"), ` after step ${view.forked_from.at_step}`));
  const others = new Map();
  for (const segment of segments) for (const other of segment.others) others.set(other.name, { ...other, rows: other.rows + (others.get(other.name)?.rows || 0) });
  for (const other of others.values()) list.append(el("dt", "", "column"), el("dd", "", textOf(other.name, "mono"), ` ${other.dtype} ${other.shape.join(" × ")}, ${count(other.rows, "row")}`));
  if (Object.keys(episode.metadata).length) list.append(el("dt", "", "metadata"), el("dd", "", said("data", JSON.stringify(episode.metadata, null, 1))));
  const unknown = unknownIds();
  if (!Object.keys(episode.texts).length) list.append(el("dt", "", "texts"), el("dd", "soft", "Ids alone: no tokenizer was at hand."));
  else if (unknown) list.append(el("dt", "", "texts"), el("dd", "", badge("note", "note"), ` ${count(unknown, "token id")} have no text: is this another tokenizer than the one that wrote them?`));
  card.append(list);
  return list.children.length ? card : "";
}

// Segments as bars of one scale: turns by origin, what is shared hatched, reports as marks.
function mapNode() {
  const longest = Math.max(...segments.map((segment) => segment.tokens.length), ...episode.view.relatives.map((other) => other.length), 1);
  const across = (tokens) => (tokens / longest) * 1000;
  const rows = segments.map((segment) => {
    const drawing = svg("svg", { viewBox: "0 0 1000 16", preserveAspectRatio: "none", class: "bar" });
    for (const turn of segment.turns) {
      const block = svg("rect", { x: across(turn.start), y: 3, width: Math.max(across(turn.length), 0.8), height: 10, class: "of-" + turn.origin });
      block.append(svg("title", {}, `turn ${label(turn)}, ${turn.origin}, ${count(turn.length, "token")}`));
      block.addEventListener("click", () => go(turn));
      drawing.append(block);
    }
    if (segment.shared) drawing.append(svg("rect", { x: 0, y: 3, width: across(segment.shared), height: 10, class: "of-shared" }));
    for (const report of segment.reports) if (report.token !== null) drawing.append(svg("rect", { x: across(report.token), y: 0, width: 2.5, height: 16, class: "of-report " + levelOf(report.kind) }));
    const name = segments.length > 1 ? `segment ${segment.number}` : "tokens";
    return el("div", "map-row", el("span", "soft", name), drawing, el("span", "soft", segment.tokens.length.toLocaleString("en")));
  });
  const others = episode.view.relatives.map((other) => {
    const drawing = svg("svg", { viewBox: "0 0 1000 16", preserveAspectRatio: "none", class: "bar" },
      svg("rect", { x: across(other.shared_length), y: 5, width: across(other.length - other.shared_length), height: 6, class: "of-other" }),
      svg("rect", { x: 0, y: 5, width: across(other.shared_length), height: 6, class: "of-shared-past" }));
    const id = other.episode_id;
    const name = textOf(id.length > 18 ? "…" + id.slice(-17) : id, "mono");
    name.title = id;
    return el("div", "map-row", other.href ? link(other.href, "", name) : el("span", "soft", name), drawing,
      el("span", "soft", other.failed ? "failed" : other.reward === null ? "–" : signed(other.reward)));
  });
  const node = el("section", "map card", ...rows);
  if (others.length) node.append(el("div", "soft map-note", "Its group: what it shares with this one, its own way, its reward"), ...others);
  return node;
}

// The page of one episode: what it is worth and why, whether its tokens can be trusted, and every token of it.

const ORIGINS = { t: "template", s: "sampled", f: "forced", g: "given" };
const ORIGIN_SAYS = {
  t: "written by the chat template, masked out",
  s: "sampled by the model, trained on",
  f: "forced on the model in its turn, masked out",
  g: "an assistant's words that were given; mask(\"assistant\") trains on them",
};
const PROBABILITIES = [0.99, 0.9, 0.75, 0.5, 0.25, 0.1, 0.03, 0.01];
const CHUNK = 400;
const STEPS = 9;

const state = { colour: "origin", query: "", hits: [], hit: -1, pinned: null, turn: null, explained: new Set() };
let episode, segments, columnNames, page, tip;

function bytesOf(encoded) {
  const raw = atob(encoded);
  const bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return bytes.buffer;
}

// -- the data, with every token's turn and origin --------------------------------------------------

function read(data) {
  episode = data;
  episode.controlSet = new Set(data.controls);
  episode.first = new Map();
  segments = [];
  for (const source of data.segments) {
    const before = segments.length ? segments[segments.length - 1].tokens : new Int32Array(0);
    const own = new Int32Array(bytesOf(source.tokens));
    const tokens = new Int32Array(source.shared + own.length);
    tokens.set(before.subarray(0, source.shared));
    tokens.set(own, source.shared);
    const segment = {
      ...source, number: segments.length, tokens, spans: [], kinds: [], found: new Set(),
      logprobs: source.logprobs ? new Float32Array(bytesOf(source.logprobs)) : null,
      columns: source.columns.map((column) => scaled(column.name, new Float32Array(bytesOf(column.values)))),
      origin: new Uint8Array(tokens.length), turnOf: new Uint32Array(tokens.length),
      reportsAt: new Map(),
    };
    place(segment);
    segments.push(segment);
  }
  const last = segments[segments.length - 1];
  for (const [start, stop] of data.given) last.origin.fill("g".charCodeAt(0), start, stop);
  columnNames = [...new Set(segments.flatMap((segment) => segment.columns.map((column) => column.name)))];
}

function place(segment) {
  let at = 0;
  segment.turns.forEach((turn, number) => {
    Object.assign(turn, { number, start: at, stop: at + turn.length, reports: [], rewards: turn.rewards || {} });
    turn.segment = segment;
    at = turn.stop;
    segment.turnOf.fill(number, turn.start, turn.stop);
    segment.origin.fill((turn.origin === "sampled" ? "s" : "t").charCodeAt(0), turn.start, turn.stop);
    let run = turn.start;
    (turn.runs || []).forEach((length, index) => {
      if (index % 2 === 0) segment.origin.fill("f".charCodeAt(0), run, run + length);
      run += length;
    });
  });
  segment.loose = [];
  for (const report of segment.reports) {
    const turn = turnOfReport(segment, report);
    (turn ? turn.reports : segment.loose).push(report);
    if (report.token !== null && turn) segment.reportsAt.set(report.token, report);
  }
}

function turnOfReport(segment, report) {
  if (report.token !== null && segment.turns.length) {
    const at = Math.min(report.token, segment.tokens.length - 1);
    return segment.turns[segment.turnOf[at]];
  }
  if (report.message === null) return null;
  return segment.turns.find((turn) => (turn.first || 0) <= report.message && report.message < (turn.first || 0) + (turn.count || 0));
}

// A column's values in nine steps between its 2nd and its 98th percentile.
function scaled(name, values) {
  const known = values.filter((value) => Number.isFinite(value)).sort();
  const low = known[Math.floor(known.length * 0.02)] ?? 0;
  const high = known[Math.ceil(known.length * 0.98) - 1] ?? 0;
  return { name, values, low, high };
}

function stepOf(column, value) {
  if (Number.isNaN(value)) return "";
  if (column.high <= column.low) return "c4";
  const share = (value - column.low) / (column.high - column.low);
  return "c" + Math.max(0, Math.min(STEPS - 1, Math.floor(share * STEPS)));
}

function logprobStep(logprob) {
  if (Number.isNaN(logprob)) return "";
  const probability = Math.exp(logprob);
  const step = PROBABILITIES.findIndex((bound) => probability >= bound);
  return "l" + (step < 0 ? PROBABILITIES.length : step);
}

function versionAt(turn, offset) {
  let run = 0;
  for (const [version, length] of turn.versions || []) {
    run += length;
    if (offset < run) return version;
  }
  return turn.version || "";
}

// -- tokens as text --------------------------------------------------------------------------------

const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

// What each token of a run of incomplete ones shows: the character that begins in it, "◂" where it only goes on with
// one, and in brackets the bytes that belong to none.
function pieces(tokens, from, to) {
  const bytes = [], owners = [];
  for (let at = from; at < to; at++) {
    const digits = episode.bytes[tokens[at]];
    for (let i = 0; i < digits.length; i += 2) { bytes.push(parseInt(digits.slice(i, i + 2), 16)); owners.push(at - from); }
  }
  const shown = Array.from({ length: to - from }, () => ({ text: "", broken: false }));
  for (let i = 0; i < bytes.length;) {
    const lead = bytes[i];
    const length = lead < 0x80 ? 1 : lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
    let character = null;
    try { character = i + length <= bytes.length ? decoder.decode(new Uint8Array(bytes.slice(i, i + length))) : null; } catch { /* broken */ }
    if (character === null) {
      const one = shown[owners[i]];
      one.text += "‹" + lead.toString(16).padStart(2, "0") + "›";
      one.broken = true;
      i += 1;
    } else {
      shown[owners[i]].text += character;
      for (let k = i + 1; k < i + length; k++) if (owners[k] !== owners[k - 1]) shown[owners[k]].text += "◂";
      i += length;
    }
  }
  return shown;
}

function spansOf(segment, from, to) {
  const made = [];
  for (let at = from; at < to; at++) {
    if (episode.bytes[segment.tokens[at]] === undefined) { made.push(span(segment, at)); continue; }
    let end = at + 1;
    while (end < to && episode.bytes[segment.tokens[end]] !== undefined) end++;
    pieces(segment.tokens, at, end).forEach((piece, index) => made.push(span(segment, at + index, piece)));
    at = end - 1;
  }
  return made;
}

// Tokens of one id look alike: each is a copy of the first one.
function span(segment, at, piece) {
  const id = segment.tokens[at];
  let first = piece ? tokenNode(id, piece) : episode.first.get(id);
  if (!first) episode.first.set(id, (first = tokenNode(id)));
  const node = first.cloneNode(true);
  const kind = "k " + String.fromCharCode(segment.origin[at]) + first.kind + (segment.reportsAt.has(at) ? " flag" : "");
  node.className = segment.kinds[at] = kind;
  segment.spans[at] = node;
  return node;
}

function tokenNode(id, piece) {
  const node = document.createElement("span");
  const text = piece ? piece.text : episode.texts[id];
  node.kind = "";
  if (text === undefined) { node.kind = " id"; node.textContent = String(id); }
  else if (piece && piece.broken) { node.kind = " cut"; node.textContent = text; }
  else if (episode.controlSet.has(id)) { node.kind = " ctl"; say(node, text, ""); }
  else if (/^ +$/.test(text)) { node.kind = " gap"; node.textContent = "·".repeat(text.length); }
  else say(node, text.replace(/\n/g, "↵\n").replace(/\t/g, "⇥\t"));
  return node;
}

// Where a token stands that is shown: its segment, and its place there; null: it is none.
function placeOf(node) {
  const chunk = node && node.parentNode;
  if (!chunk || !chunk.segment) return null;
  return { segment: chunk.segment, at: chunk.from + Array.prototype.indexOf.call(chunk.children, node) };
}

function colourOf(segment, at) {
  if (state.colour === "origin") return "";
  if (state.colour === "logprob") return segment.logprobs ? logprobStep(segment.logprobs[at]) : "";
  const column = segment.columns.find((one) => one.name === state.colour.slice(7));
  return column ? stepOf(column, column.values[at]) : "";
}

function colourAll() {
  page.dataset.colour = state.colour === "origin" ? "origin" : "scale";
  for (const segment of segments) {
    for (let at = 0; at < segment.spans.length; at++) {
      const colour = colourOf(segment, at);
      const hit = segment.found.has(at) ? " hit" : "";
      const cls = segment.kinds[at] + (colour && " " + colour) + hit;
      if (segment.spans[at].className !== cls) segment.spans[at].className = cls;
    }
  }
  if (state.pinned) state.pinned.classList.add("pinned");
}

// Chunks end after a line where they can, so that the browser lays out only those in sight.
function chunksOf(turn) {
  const { segment } = turn;
  const cells = [];
  for (let from = turn.start; from < turn.stop;) {
    let to = Math.min(from + CHUNK, turn.stop);
    for (let at = to; at < Math.min(to + CHUNK, turn.stop) && to < turn.stop; at++) {
      to = at + 1;
      if ((episode.texts[segment.tokens[at]] || "").endsWith("\n")) break;
    }
    const chunk = el("div", "chunk");
    chunk.append(...spansOf(segment, from, to));
    Object.assign(chunk, { segment, from });
    if (turn.length > CHUNK) {
      const text = chunk.textContent;
      const lines = text.split("\n").reduce((sum, line) => sum + Math.max(1, Math.ceil(line.length / 90)), 0);
      chunk.classList.add("far");
      chunk.style.containIntrinsicSize = "auto 600px auto " + lines * 21 + "px";
    }
    cells.push(chunk);
    from = to;
  }
  return cells;
}

// -- messages --------------------------------------------------------------------------------------

function messageNode(message, number) {
  const node = el("article", "message", el("div", "role", textOf(message.role || "?"), el("span", "faint", ` ${number} `),
    message.name ? textOf(message.name) : "", message.tool_call_id ? el("span", "faint answers", " answers ", textOf(message.tool_call_id)) : ""));
  const rest = Object.fromEntries(Object.entries(message).filter(([key, value]) =>
    !["role", "content", "reasoning_content", "tool_calls", "name", "tool_call_id"].includes(key) && value !== null && value !== ""));
  if (message.reasoning_content) node.append(said("thought", message.reasoning_content));
  if (typeof message.content === "string") { if (message.content) node.append(said("content", message.content)); }
  else for (const part of message.content || []) node.append(part && typeof part.text === "string" ? said("content", part.text) : said("data", JSON.stringify(part)));
  for (const call of message.tool_calls || []) {
    const name = call.function && call.function.name, given = call.function && call.function.arguments;
    node.append(el("div", "call", el("b", "", textOf(name ?? "?")), call.id ? el("span", "faint", " ", textOf(call.id)) : "",
      said("data", typeof given === "string" ? given : JSON.stringify(given, null, 1))));
  }
  if (Object.keys(rest).length) node.append(said("data", JSON.stringify(rest)));
  node.tabIndex = 0;
  node.message = message;
  return node;
}

function said(cls, text) {
  const node = say(el("div", "said-" + cls + " text"), text ?? "");
  node.dir = "auto";
  return node;
}

function messagesOf(turn) {
  const first = turn.first || 0, total = turn.count || 0;
  const found = episode.messages.slice(first, first + total).map((message, index) => messageNode(message, first + index));
  const cell = el("div", "said");
  if (turn.segment.number > 0 && turn.number === 0 && found.length > 1) {
    cell.append(el("details", "", el("summary", "soft", count(found.length, "message") + ", rendered anew"), ...found));
  } else cell.append(...found);
  if (!total) cell.append(el("span", "faint", turn.origin === "sampled" ? "goes on with the message before" : "no message of its own"));
  if (total && found.length < total) cell.append(el("span", "faint", "its messages were replaced later"));
  return cell;
}

// -- turns -----------------------------------------------------------------------------------------

function turnNode(turn) {
  const { segment } = turn;
  const node = el("section", "turn " + turn.origin);
  node.id = `s${segment.number}t${turn.number}`;
  node.turn = turn;
  const tokens = el("div", "tokens");
  tokens.append(...turn.reports.map((report) => reportNode(segment, report)), ...chunksOf(turn));
  const shared = turn.number === 0 && segment.shared ? el("div", "fact soft", count(segment.shared, "token") + " shared with the segment before") : "";
  node.append(
    el("header", "gutter",
      el("div", "", link("#" + node.id, "number", String(turn.number)), " ", el("span", "who " + turn.origin, turn.origin)),
      el("div", "fact", `step ${turn.step ?? 0} · ${count(turn.length, "token")}`), shared, ...facts(turn)),
    messagesOf(turn), tokens);
  turn.node = node;
  return node;
}

function facts(turn) {
  const made = [];
  if (turn.origin === "sampled") {
    const level = { length: "note", abort: "bad" }[turn.reason] || "";
    if (turn.reason) made.push(el("div", "fact", badge(level, "stop: " + turn.reason)));
    const forced = (turn.runs || []).reduce((sum, length, index) => sum + (index % 2 ? 0 : length), 0);
    if (forced) made.push(el("div", "fact", badge("note", forced.toLocaleString("en") + " forced")));
    const mean = meanLogprob(turn);
    if (mean !== null) made.push(el("div", "fact", `mean logprob ${told(mean)}`));
    const versions = turn.versions && turn.versions.length ? turn.versions : turn.version ? [[turn.version, 0]] : [];
    for (const [version, length] of versions) made.push(el("div", "fact", "by ", textOf(version, "mono"), length && versions.length > 1 ? ` × ${length}` : ""));
  }
  if (turn.reward !== undefined) made.push(el("div", "fact", badge(turn.reward > 0 ? "good" : turn.reward < 0 ? "bad" : "", "reward " + signed(turn.reward))));
  for (const [name, value] of Object.entries(turn.rewards)) made.push(el("div", "fact part", textOf(name), " ", signed(value)));
  return made;
}

function meanLogprob(turn) {
  const { logprobs, origin } = turn.segment;
  if (!logprobs) return null;
  let sum = 0, total = 0;
  for (let at = turn.start; at < turn.stop; at++) if (origin[at] === 115 && !Number.isNaN(logprobs[at])) { sum += logprobs[at]; total++; }
  return total ? sum / total : null;
}

// Where a kind first arose it says all that it means; elsewhere it says so when it is opened.
function reportNode(segment, report) {
  const meaning = episode.meanings[report.kind];
  const means = el("details", "", el("summary", "", el("b", "", report.kind.toUpperCase()), " ", textOf(report.detail)),
    el("div", "soft", code(`${meaning.happened}. For training: ${meaning.training}. What to do: ${meaning.advice}.`)));
  means.open = !state.explained.has(report.kind);
  state.explained.add(report.kind);
  const node = el("div", "report " + levelOf(report.kind), means);
  node.dataset.kind = report.kind;
  if (report.token !== null) {
    const jump = el("button", "jump", `at token ${report.token}`);
    jump.onclick = () => pin(segment.spans[Math.min(report.token, segment.spans.length - 1)], true);
    node.append(jump);
  }
  return node;
}

function levelOf(kind) { return (episode.findings.find((finding) => finding.kind === kind) || { level: "note" }).level; }

// Markdown's code and links, as far as what reports mean has some.
function code(text) {
  const node = el("span", "");
  text.replace(/\[([^\]]*)\]\([^)]*\)/g, "$1").split("`").forEach((part, index) => node.append(index % 2 ? el("code", "", part) : part));
  return node;
}

// -- the head of the page --------------------------------------------------------------------------

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
  const end = episode.failure ? badge("bad", "failed") : episode.terminated ? badge("", "terminated") : episode.truncated ? badge("note", "truncated") : badge("", "not over");
  const worst = episode.findings[0] ? episode.findings[0].level : "good";
  const trust = { good: "tokens exact", note: "tokens sound, with notes", bad: "look before you train" }[worst];
  return el("header", "head",
    episode.view.index_href ? link(episode.view.index_href, "back", "‹ all") : "",
    el("h1", "", textOf(episode.episode_id, "mono")), end,
    el("span", "worth", "reward ", el("b", episode.reward > 0 ? "up" : episode.reward < 0 ? "down" : "", episode.reward === null ? "none" : signed(episode.reward))),
    badge(worst, trust),
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
    el("td", "", signed(turn.reward)), ...names.map((name) => el("td", "", name in turn.rewards ? signed(turn.rewards[name]) : "")))); 
  const sum = (values) => values.reduce((total, value) => total + value, 0);
  const total = el("tr", "total", el("td", "", "sum"), el("td", "", signed(sum(rewarded.map((turn) => turn.reward)))),
    ...names.map((name) => el("td", "", signed(sum(rewarded.map((turn) => turn.rewards[name] || 0))))));
  card.append(el("div", "scroll", el("table", "table", el("thead", "", head), el("tbody", "", total, ...body))));
  if (rewarded.some((turn) => names.length && Math.abs(sum(Object.values(turn.rewards)) - turn.reward) > 1e-9)) {
    card.append(el("p", "soft", "Parts are shown without their weights: a reward is their weighted sum, and what came without a name."));
  }
  return card;
}

function idOf(turn) { return `s${turn.segment.number}t${turn.number}`; }

function label(turn) { return segments.length > 1 ? `${turn.segment.number}.${turn.number}` : String(turn.number); }

function trustCard() {
  const card = el("section", "card", el("h2", "", "Can its tokens be trusted"));
  for (const finding of episode.findings) {
    const line = el("div", "finding", badge(finding.level, { good: "✓", note: "note", bad: "look" }[finding.level]), " ", finding.text);
    if (finding.kind) {
      const meaning = episode.meanings[finding.kind];
      line.append(" ", el("span", "soft", code(`For training: ${meaning.training}. What to do: ${meaning.advice}.`)), " ");
      reportsOf(finding.kind).slice(0, 8).forEach(([turn]) => line.append(turn ? link("#" + idOf(turn), "place", "turn " + label(turn)) : "", " "));
    }
    card.append(line);
  }
  return card;
}

function reportsOf(kind) {
  return segments.flatMap((segment) => segment.reports.filter((report) => report.kind === kind).map((report) => [turnOfReport(segment, report), report]));
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
  if (!Object.keys(episode.texts).length) list.append(el("dt", "", "texts"), el("dd", "soft", "Ids alone: no tokenizer was at hand."));
  card.append(list);
  return card;
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
    const name = textOf(other.episode_id, "mono");
    return el("div", "map-row", other.href ? link(other.href, "", name) : el("span", "soft", name), drawing,
      el("span", "soft", other.failed ? "failed" : other.reward === null ? "–" : signed(other.reward)));
  });
  const node = el("section", "map card", ...rows);
  if (others.length) node.append(el("div", "soft map-note", "Its group: what it shares with this one, its own way, its reward"), ...others);
  return node;
}

// -- tools: colours, search, keys ------------------------------------------------------------------

function toolsNode() {
  const bar = el("nav", "tools");
  const choices = ["origin", ...(segments.some((segment) => segment.logprobs) ? ["logprob"] : []), ...columnNames.map((name) => "column:" + name)];
  const group = el("span", "choices", el("span", "soft", "colour by "));
  for (const choice of choices) {
    const button = el("button", "", choice.startsWith("column:") ? textOf(choice.slice(7)) : choice);
    button.dataset.choice = choice;
    button.onclick = () => choose(choice);
    group.append(button);
  }
  const search = el("input", "search");
  Object.assign(search, { type: "search", placeholder: "search tokens, or #id   /", value: state.query });
  search.setAttribute("aria-label", "search tokens");
  let waiting;
  search.oninput = () => { clearTimeout(waiting); waiting = setTimeout(() => find(search.value), 120); };
  search.onkeydown = (event) => {
    if (event.key === "Enter") { clearTimeout(waiting); if (search.value !== state.query) find(search.value); else step(event.shiftKey ? -1 : 1); event.preventDefault(); }
    if (event.key === "Escape") { search.value = ""; find(""); search.blur(); }
  };
  bar.append(group, el("span", "legend"), el("span", "grow"), el("span", "found soft"), search,
    el("span", "keys faint", el("kbd", "", "j"), el("kbd", "", "k"), " turn ", el("kbd", "", "r"), " report ", el("kbd", "", "c"), " colour ", el("kbd", "", "←"), el("kbd", "", "→"), " token"));
  return bar;
}

function choose(choice) {
  state.colour = choice;
  for (const button of page.querySelectorAll("[data-choice]")) button.setAttribute("aria-pressed", String(button.dataset.choice === choice));
  page.querySelector(".legend").replaceChildren(...legend());
  colourAll();
}

function legend() {
  if (state.colour === "origin") {
    const used = new Set(segments.flatMap((segment) => [...new Set(segment.origin)]).map((one) => String.fromCharCode(one)));
    return Object.keys(ORIGINS).filter((one) => used.has(one)).map((one) => {
      const node = el("span", "k " + one, ORIGINS[one]);
      node.title = ORIGIN_SAYS[one];
      return node;
    });
  }
  if (state.colour === "logprob") {
    return [...PROBABILITIES, 0].map((bound, index) => el("span", "k l" + index, index === PROBABILITIES.length ? "rarer" : "p≥" + bound));
  }
  const column = segments.flatMap((segment) => segment.columns).find((one) => one.name === state.colour.slice(7));
  return [told(column.low), ...Array.from({ length: STEPS }, (_, index) => el("span", "k c" + index, " ")), told(column.high)];
}

function find(query) {
  state.query = query;
  state.hits = [];
  state.hit = -1;
  for (const segment of segments) {
    segment.found = new Set();
    if (!query) continue;
    if (/^#\d+$/.test(query)) {
      const id = Number(query.slice(1));
      segment.tokens.forEach((token, at) => { if (token === id) note(segment, at, at + 1); });
      continue;
    }
    const { text, starts } = textOfSegment(segment);
    const wanted = query.toLowerCase(), lower = text.toLowerCase();
    if (lower.length !== text.length) { findExactly(segment, text, starts, query); continue; }
    for (let at = lower.indexOf(wanted); at >= 0; at = lower.indexOf(wanted, at + wanted.length)) {
      note(segment, tokenAt(starts, at), tokenAt(starts, at + wanted.length - 1) + 1);
    }
  }
  colourAll();
  step(1, true);
}

function findExactly(segment, text, starts, query) {
  for (let at = text.indexOf(query); at >= 0; at = text.indexOf(query, at + query.length)) {
    note(segment, tokenAt(starts, at), tokenAt(starts, at + query.length - 1) + 1);
  }
}

function note(segment, from, to) {
  state.hits.push([segment, from]);
  for (let at = from; at < to; at++) segment.found.add(at);
}

// The text of a segment, and for each token where it begins there.
function textOfSegment(segment) {
  if (segment.whole) return segment.whole;
  const starts = new Uint32Array(segment.tokens.length), parts = [];
  let length = 0;
  for (let at = 0; at < segment.tokens.length; at++) {
    starts[at] = length;
    const text = episode.texts[segment.tokens[at]] ?? segment.spans[at].textContent.replaceAll("◂", "");
    parts.push(text);
    length += text.length;
  }
  return (segment.whole = { text: parts.join(""), starts });
}

function tokenAt(starts, place) {
  let low = 0, high = starts.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (starts[middle] <= place) low = middle; else high = middle - 1;
  }
  return low;
}

function step(by, stay = false) {
  const found = page.querySelector(".found");
  if (!state.hits.length) { found.textContent = state.query ? "not found" : ""; return; }
  state.hit = stay ? 0 : (state.hit + by + state.hits.length) % state.hits.length;
  found.textContent = `${state.hit + 1} of ${state.hits.length.toLocaleString("en")}`;
  const [segment, at] = state.hits[state.hit];
  pin(segment.spans[at], true);
}

function pin(node, scroll) {
  if (state.pinned) state.pinned.classList.remove("pinned");
  state.pinned = node || null;
  if (!node) { hideTip(); return; }
  node.classList.add("pinned");
  if (scroll) node.scrollIntoView({ block: "center", inline: "nearest" });
  requestAnimationFrame(() => showTip(node));
}

function go(turn) {
  state.turn = turn;
  history.replaceState(null, "", "#" + idOf(turn));
  turn.node.scrollIntoView({ block: "start" });
}

// On from the turn that keys went to last, or, where that is out of sight by now, from the first one in sight.
function goBy(by) {
  const turns = segments.flatMap((segment) => segment.turns);
  const top = page.querySelector(".top").getBoundingClientRect().bottom;
  const box = state.turn && state.turn.node.getBoundingClientRect();
  if (box && box.bottom > top && box.top < innerHeight) {
    go(turns[Math.max(0, Math.min(turns.length - 1, turns.indexOf(state.turn) + by))]);
    return;
  }
  const first = turns.findIndex((turn) => turn.node.getBoundingClientRect().bottom > top + 12);
  go(turns[Math.max(0, first < 0 ? turns.length - 1 : by < 0 ? first - 1 : first)]);
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName)) return;
  const keys = {
    "/": () => page.querySelector(".search").focus(),
    j: () => goBy(1), k: () => goBy(-1),
    c: () => { const all = [...page.querySelectorAll("[data-choice]")].map((button) => button.dataset.choice); choose(all[(all.indexOf(state.colour) + 1) % all.length]); },
    n: () => step(1), N: () => step(-1),
    r: nextReport,
    Escape: () => pin(null),
    ArrowRight: () => movePin(1), ArrowLeft: () => movePin(-1),
  };
  if (!keys[event.key]) return;
  event.preventDefault();
  keys[event.key]();
}

function movePin(by) {
  if (!state.pinned) return;
  const { segment, at } = placeOf(state.pinned);
  const next = segment.spans[at + by];
  if (next) pin(next, false);
}

function nextReport() {
  const all = [...page.querySelectorAll(".report")];
  if (!all.length) return;
  const line = page.querySelector(".top").getBoundingClientRect().bottom + 40;
  const next = all.find((node) => node.getBoundingClientRect().top > line + 4) || all[0];
  next.scrollIntoView({ block: "start" });
}

// -- what a token is -------------------------------------------------------------------------------

function showTip(node) {
  const { segment, at } = placeOf(node);
  const id = segment.tokens[at], turn = segment.turns[segment.turnOf[at]], origin = String.fromCharCode(segment.origin[at]);
  const rows = [];
  const row = (name, ...value) => rows.push(el("dt", "", name), el("dd", "", ...value));
  row("token", el("b", "", String(id)), el("span", "faint", `  at ${at.toLocaleString("en")}` + (segments.length > 1 ? ` of segment ${segment.number}` : "")));
  if (episode.texts[id] !== undefined) row("text", textOf(JSON.stringify(episode.texts[id]), "mono"), episode.controlSet.has(id) ? el("span", "faint", " control") : "");
  else if (episode.bytes[id] !== undefined) row("bytes", el("code", "", episode.bytes[id].replace(/(..)/g, "$1 ").trim()), el("span", "faint", " no text by itself"));
  row("origin", el("span", "k " + origin, ORIGINS[origin]), el("span", "faint", " " + ORIGIN_SAYS[origin].split(", ").slice(-1)[0].split("; ").slice(-1)[0]));
  if (segment.logprobs && !Number.isNaN(segment.logprobs[at])) row("logprob", told(segment.logprobs[at], 6), el("span", "faint", `  p ${told(Math.exp(segment.logprobs[at]), 4)}`));
  else if (origin === "s") row("logprob", el("span", "faint", "none"));
  row("turn", `${label(turn)}`, el("span", "faint", `  step ${turn.step ?? 0}`));
  const version = turn.origin === "sampled" ? versionAt(turn, at - turn.start) : "";
  if (version) row("weights", textOf(version, "mono"));
  for (const column of segment.columns) if (!Number.isNaN(column.values[at])) row("column", textOf(column.name, "mono"), " " + told(column.values[at], 5));
  const report = segment.reportsAt.get(at);
  if (report) row("report", report.kind.toUpperCase());
  tip.replaceChildren(...rows);
  tip.hidden = false;
  const box = node.getClientRects()[0] || node.getBoundingClientRect(), own = tip.getBoundingClientRect();
  const left = Math.max(8, Math.min(box.left, innerWidth - own.width - 8));
  const top = box.bottom + own.height + 10 < innerHeight ? box.bottom + 6 : box.top - own.height - 6;
  tip.style.transform = `translate(${Math.round(left)}px, ${Math.round(Math.max(4, top))}px)`;
}

function hideTip() { if (state.pinned) showTip(state.pinned); else tip.hidden = true; }

// Marks the tokens of a message's text, where its turn spells it.
function markMessage(node, on) {
  const turn = node.closest(".turn").turn;
  for (const one of turn.node.querySelectorAll(".of-message")) one.classList.remove("of-message");
  const text = typeof node.message.content === "string" ? node.message.content.trim() : "";
  if (!on || !text) return;
  const { text: whole, starts } = textOfSegment(turn.segment);
  const at = whole.indexOf(text, starts[turn.start]);
  if (at < 0 || (turn.stop < starts.length && at >= starts[turn.stop])) return;
  const last = tokenAt(starts, at + text.length - 1);
  for (let each = tokenAt(starts, at); each <= last; each++) turn.segment.spans[each].classList.add("of-message");
}

function listen() {
  tip = el("dl", "tip");
  tip.hidden = true;
  document.body.append(tip);
  page.addEventListener("mouseover", (event) => {
    const node = event.target.closest(".k");
    if (placeOf(node)) showTip(node); else hideTip();
    const message = event.target.closest(".message");
    if (message) markMessage(message, true);
  });
  page.addEventListener("mouseout", (event) => { const message = event.target.closest(".message"); if (message) markMessage(message, false); });
  page.addEventListener("click", (event) => {
    const node = event.target.closest(".k");
    if (placeOf(node)) pin(node === state.pinned ? null : node, false);
  });
  document.addEventListener("scroll", () => { if (!state.pinned) tip.hidden = true; }, { passive: true });
  document.addEventListener("keydown", onKey);
}

function segmentNode(segment) {
  const node = el("section", "segment");
  if (segments.length > 1) {
    const sealed = segment.number < segments.length - 1;
    node.append(el("h2", "segment-head", `Segment ${segment.number}`, el("span", "soft", ` ${count(segment.tokens.length, "token")}` + (sealed ? ", sealed: what the model saw" : ", the current one")
      + (segment.shared ? `, the first ${segment.shared.toLocaleString("en")} as in the one before` : ""))));
  }
  node.append(...segment.loose.map((report) => reportNode(segment, report)), ...segment.turns.map(turnNode));
  return node;
}

function show(data) {
  const place = scrollY;
  Object.assign(state, { pinned: null, turn: null, hits: [], hit: -1, explained: new Set() });
  read(data);
  const rows = segments.map(segmentNode);
  page.replaceChildren(
    el("div", "top", headNode(), toolsNode()),
    el("div", "cards", rewardCard(), trustCard(), aboutCard()), mapNode(), ...rows);
  if (![...page.querySelectorAll("[data-choice]")].some((button) => button.dataset.choice === state.colour)) state.colour = "origin";
  choose(state.colour);
  if (place) scrollTo(0, place);
}

page = document.getElementById("page");
listen();
const given = document.getElementById("data").textContent;
show(JSON.parse(given));
if (location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView();
follow(episode.view.data_href, given, show);

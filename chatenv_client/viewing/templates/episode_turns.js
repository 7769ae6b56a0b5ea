// Turns: their facts, their messages and reports beside their tokens.

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

// Of an earlier segment, whether its tokens spell a message: the messages are those of now, which may be others.
function isSpelt(message, turn, spelt) {
  if (turn.segment.number === segments.length - 1 || !spelt || typeof message.content !== "string") return true;
  return spelt.includes(message.content.trim());
}

function textOfTurn(turn) {
  const { tokens, spans } = turn.segment;
  let text = "";
  if (Object.keys(episode.texts).length) for (let at = turn.start; at < turn.stop; at++) text += episode.texts[tokens[at]] ?? spans[at].textContent.replaceAll("◂", "");
  return text;
}

function messagesOf(turn) {
  const first = turn.first || 0, total = turn.count || 0;
  const spelt = textOfTurn(turn);
  const found = episode.messages.slice(first, first + total).map((message, index) =>
    isSpelt(message, turn, spelt) ? messageNode(message, first + index) : el("div", "faint", `message ${first + index} was replaced later; what it said is in the tokens`));
  const cell = el("div", "said");
  if (turn.segment.number > 0 && turn.number === 0 && found.length > 1) {
    cell.append(el("details", "", el("summary", "soft", count(found.length, "message") + ", rendered anew"), ...found));
  } else cell.append(...found);
  if (!total) cell.append(el("span", "faint", turn.origin === "sampled" ? "goes on with the message before" : "no message of its own"));
  if (total && found.length < total) cell.append(el("span", "faint", "its messages were replaced later"));
  return cell;
}

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
      el("div", "fact", `step ${turn.step ?? 0} · ${count(turn.length, "token")}`), 
      turn.at_ms === undefined ? "" : el("div", "fact time", `at ${time(turn.at_ms)}, +${time(turn.gap_ms)}`), shared, ...facts(turn)),
    messagesOf(turn), tokens);
  turn.node = node;
  return node;
}

function time(ms) {
  if (ms < 60_000) return (ms / 1000).toFixed(ms < 10_000 ? 2 : 1) + " s";
  const seconds = Math.floor(ms / 1000), two = (number) => String(number % 60).padStart(2, "0");
  return (seconds < 3600 ? "" : Math.floor(seconds / 3600) + ":") + two(Math.floor(seconds / 60)) + ":" + two(seconds);
}

function facts(turn) {
  const made = [];
  if (turn.origin === "sampled") {
    const level = { length: "note", abort: "note" }[turn.reason] || "";
    if (turn.reason) made.push(el("div", "fact", badge(level, "stop: " + turn.reason)));
    const forced = (turn.runs || []).reduce((sum, length, index) => sum + (index % 2 ? 0 : length), 0);
    if (forced) made.push(el("div", "fact", badge("note", forced.toLocaleString("en") + " forced")));
    const mean = meanLogprob(turn);
    if (mean !== null) made.push(el("div", "fact", `mean logprob ${told(mean)}`));
    else if (turn.length > forced && segments.some((segment) => segment.logprobs)) made.push(el("div", "fact", badge("bad", "no logprobs")));
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

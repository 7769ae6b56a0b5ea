// Keys and pointer: turns, reports and single tokens.

function pin(node, scroll) {
  if (state.pinned) state.pinned.classList.remove("pinned");
  state.pinned = node || null;
  if (!node) { hideTip(); return; }
  node.classList.add("pinned");
  if (scroll) node.scrollIntoView({ block: "center", inline: "nearest" });
  showTip(node);
  requestAnimationFrame(hideTip); // what came into sight by scrolling may have moved it
}

function go(turn) {
  state.turn = turn;
  history.replaceState(null, "", "#" + idOf(turn));
  turn.node.scrollIntoView({ block: "start" });
}

// On from the turn that keys went to last, or, where that is out of sight by now, from the first one in sight.
function goBy(by) {
  const turns = segments.flatMap((segment) => segment.turns);
  if (!turns.length) return;
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

// Away with the box, unless a token is held: then it is that one's.
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

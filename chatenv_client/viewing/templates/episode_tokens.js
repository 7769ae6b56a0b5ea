// Tokens as text, in their colours.

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

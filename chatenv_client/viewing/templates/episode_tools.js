// Colourings and search.

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
  state.search ??= searchNode();
  bar.append(group, el("span", "legend"), el("span", "grow"), el("span", "found soft"), state.search,
    el("span", "keys faint", el("kbd", "", "j"), el("kbd", "", "k"), " turn ", el("kbd", "", "r"), " report ", el("kbd", "", "c"), " colour ", el("kbd", "", "←"), el("kbd", "", "→"), " token"));
  return bar;
}

// One for as long as the page is open: it keeps what is typed while an episode goes on.
function searchNode() {
  const search = el("input", "search");
  Object.assign(search, { type: "search", placeholder: "search tokens, or #id   /" });
  search.setAttribute("aria-label", "search tokens");
  let waiting;
  search.oninput = () => { clearTimeout(waiting); waiting = setTimeout(() => find(search.value), 120); };
  search.onkeydown = (event) => {
    if (event.key === "Enter") { clearTimeout(waiting); if (search.value !== state.query) find(search.value); else step(event.shiftKey ? -1 : 1); event.preventDefault(); }
    if (event.key === "Escape") { search.value = ""; find(""); search.blur(); }
  };
  return search;
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
  mark(query);
  step(1, true);
}

function mark(query) {
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

function tellFound() {
  const said = state.hits.length ? `${state.hit + 1} of ${state.hits.length.toLocaleString("en")}` : state.query ? "not found" : "";
  page.querySelector(".found").textContent = said;
}

function step(by, stay = false) {
  if (state.hits.length) state.hit = stay ? 0 : (state.hit + by + state.hits.length) % state.hits.length;
  tellFound();
  if (!state.hits.length) return;
  const [segment, at] = state.hits[state.hit];
  pin(segment.spans[at], true);
}

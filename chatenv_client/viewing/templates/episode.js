// The page of one episode: what it is worth and why, whether its tokens can be trusted, and every token of it.

const MANY_TURNS = 200;

function show(data) {
  const place = scrollY, { hit, query } = state;
  const isTyping = document.activeElement === state.search;
  const held = state.pinned && placeOf(state.pinned);
  Object.assign(state, { pinned: null, turn: null, hits: [], hit: -1, explained: new Set() });
  read(data);
  const rows = segments.map(segmentNode);
  page.replaceChildren(
    el("div", "top", headNode(), toolsNode()),
    el("div", "cards", rewardCard(), trustCard(), aboutCard()), mapNode(), ...rows);
  if (![...page.querySelectorAll("[data-choice]")].some((button) => button.dataset.choice === state.colour)) state.colour = "origin";
  page.classList.toggle("many", segments.reduce((sum, segment) => sum + segment.turns.length, 0) > MANY_TURNS);
  choose(state.colour);
  if (query) goOnFinding(query, hit);
  const again = held && segments[held.segment.number]?.spans[held.at];
  if (again) pin(again, false); else hideTip();
  if (isTyping) state.search.focus({ preventScroll: true });
  if (place) scrollTo(0, place);
}

function goOnFinding(query, hit) {
  mark(query);
  state.hit = Math.max(0, Math.min(hit, state.hits.length - 1));
  tellFound();
}

page = document.getElementById("page");
listen();
const given = document.getElementById("data").textContent;
show(JSON.parse(given));
if (location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView();
follow(episode.view.data_href, given, show);

// The page of one episode: what it is worth and why, whether its tokens can be trusted, and every token of it.

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

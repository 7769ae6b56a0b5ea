// The page of many episodes: how rewards went, where they spread, what stopped, what was not exact; and a row of each.

const FIRST = 200;
const state = { query: "", facets: {}, sort: "number", down: false, all: false };
let episodes, names, page, title;

const FACETS = {
  end: (one) => [one.end],
  stop: (one) => Object.keys(one.stops),
  report: (one) => Object.keys(one.reports),
  failure: (one) => (one.failure ? [one.failure] : []),
  group: (one) => [one.group],
  version: (one) => (one.version ? [one.version] : []),
};

function chosen() {
  const words = state.query.toLowerCase().split(/\s+/).filter(Boolean);
  return episodes.filter((one) => words.every((word) => one.said.includes(word))
    && Object.entries(state.facets).every(([facet, value]) => FACETS[facet](one).includes(value)));
}

function choose(facet, value) {
  if (state.facets[facet] === value) delete state.facets[facet]; else state.facets[facet] = value;
  draw();
}

function summary(some) {
  const failed = some.filter((one) => one.failure).length, inexact = some.filter((one) => one.trust === "bad" && !one.failure).length;
  const known = rewarded(some).map((one) => one.reward);
  const without = some.length - known.length - failed;
  return el("span", "summary",
    el("span", "", count(some.length, "episode") + (some.length < episodes.length ? ` of ${episodes.length.toLocaleString("en")}` : "")),
    el("span", "", "mean reward ", el("b", "", told(mean(known)))),
    failed ? badge("bad", failed.toLocaleString("en") + " failed") : badge("good", "none failed"),
    inexact ? badge("bad", inexact.toLocaleString("en") + " to look at before training") : badge("good", "tokens sound"),
    without ? badge("note", without.toLocaleString("en") + " without a reward") : "",
    el("span", "soft", `${some.reduce((sum, one) => sum + one.trained, 0).toLocaleString("en")} tokens to train on`));
}

function draw() {
  const some = chosen();
  page.querySelector(".summary").replaceWith(summary(some));
  const [groups, groupsSay] = spread(some);
  page.querySelector(".plots").replaceChildren(
    card("Reward, in the order played", overTime(some), "", "wide"),
    card("Spread of each group", groups, groupsSay, "wide"),
    card("Tokens to train on", histogram(some, "trained")),
    card("Sampled turns", histogram(some, "turns")),
    card("Why turns stopped", bars("stop", counted(some, "stops"), "nothing was sampled")),
    card("Reports", bars("report", counted(some, "reports"), "every step was exact")),
    card("Ends", bars("end", counted(some.map((one) => ({ ends: { [one.end]: 1 } })), "ends"), "none")),
    card("Failures", bars("failure", counted(some.map((one) => ({ kinds: one.failure ? { [one.failure]: 1 } : {} })), "kinds"), "nothing broke")));
  page.querySelector(".list").replaceWith(table(some));
  page.querySelector(".chips").replaceChildren(...Object.entries(state.facets).map(([facet, value]) => {
    const chip = el("button", "chip", `${facet}: `, textOf(value || "none"), " ×");
    chip.onclick = () => choose(facet, value);
    return chip;
  }));
}

function show(data) {
  title = data.title;
  episodes = data.episodes;
  episodes.forEach((one, number) => {
    one.number = number;
    one.reportCount = Object.values(one.reports).reduce((sum, value) => sum + value, 0);
    one.said = [one.episode_id, one.group, one.end, one.failure, one.failure_reason, one.version, ...Object.keys(one.reports), ...Object.keys(one.stops)].join(" ").toLowerCase();
  });
  names = [...new Set(episodes.flatMap((one) => Object.keys(one.rewards)))];
  draw();
}

function build() {
  const search = el("input", "search");
  Object.assign(search, { type: "search", placeholder: "filter by id, group, report …   /" });
  search.setAttribute("aria-label", "filter episodes");
  let waiting;
  search.oninput = () => { clearTimeout(waiting); waiting = setTimeout(() => { state.query = search.value; draw(); }, 120); };
  page.replaceChildren(
    el("header", "top", el("h1", "", textOf(given.title, "mono")), el("span", "summary"), el("span", "grow"), el("span", "chips"), search),
    el("div", "plots"), el("div", "list"));
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && event.target !== search) { event.preventDefault(); search.focus(); }
    if (event.key === "Escape") { clearTimeout(waiting); state.facets = {}; state.query = search.value = ""; search.blur(); draw(); }
  });
}

page = document.getElementById("page");
const text = document.getElementById("data").textContent;
const given = JSON.parse(text);
build();
show(given);
follow(given.data_href, text, show);

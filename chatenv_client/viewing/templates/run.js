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

// -- numbers ---------------------------------------------------------------------------------------

function mean(values) { return values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : null; }

function rewarded(some) { return some.filter((one) => one.reward !== null); }

// Each mean is that of an episode and those around it, a twentieth of all.
function smooth(some) {
  const half = Math.max(2, Math.floor(some.length / 40));
  const sums = [0];
  for (const one of some) sums.push(sums[sums.length - 1] + one.reward);
  return some.map((one, index) => {
    const from = Math.max(0, index - half), to = Math.min(some.length, index + half + 1);
    return [one.number, (sums[to] - sums[from]) / (to - from)];
  });
}

function groupsOf(some) {
  const found = new Map();
  for (const one of rewarded(some)) {
    if (!one.group) continue;
    if (!found.has(one.group)) found.set(one.group, []);
    found.get(one.group).push(one.reward);
  }
  return [...found].map(([name, rewards]) => ({
    name, rewards, low: Math.min(...rewards), high: Math.max(...rewards), mean: mean(rewards),
  }));
}

function counted(some, field) {
  const found = new Map();
  for (const one of some) for (const [name, number] of Object.entries(one[field])) found.set(name, (found.get(name) || 0) + number);
  return [...found].sort((one, other) => other[1] - one[1]);
}

// Bounds of a scale that are round numbers, with room for all values.
function scale(low, high) {
  if (low === high) { low -= 0.5; high += 0.5; }
  const rough = (high - low) / 6, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((one) => one * power).find((one) => one >= rough);
  const ticks = [];
  for (let at = Math.floor(low / step); at <= Math.ceil(high / step + 1e-9); at++) ticks.push(at * step);
  return { low: ticks[0], high: ticks[ticks.length - 1], ticks };
}

// -- plots -----------------------------------------------------------------------------------------

const LEFT = 38, WIDTH = 600, HEIGHT = 190, BOTTOM = 20;

function frame(bounds, width = WIDTH) {
  const drawing = svg("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, class: "plot" });
  const up = (value) => 8 + (1 - (value - bounds.low) / (bounds.high - bounds.low)) * (HEIGHT - BOTTOM - 12);
  for (const tick of bounds.ticks) {
    drawing.append(svg("line", { x1: LEFT, x2: width - 4, y1: up(tick), y2: up(tick), class: "grid" }),
      svg("text", { x: LEFT - 6, y: up(tick) + 3.5, "text-anchor": "end" }, told(tick)));
  }
  return [drawing, up];
}

function overTime(some) {
  const known = rewarded(some);
  if (!known.length) return el("p", "soft", "No episode has a reward.");
  const bounds = scale(Math.min(...known.map((one) => one.reward)), Math.max(...known.map((one) => one.reward)));
  const [drawing, up] = frame(bounds);
  const across = (number) => LEFT + 4 + (number / Math.max(1, episodes.length - 1)) * (WIDTH - LEFT - 12);
  for (const one of known) drawing.append(dot(one, across(one.number), up(one.reward), "dot"));
  for (const one of some) if (one.failure) drawing.append(dot(one, across(one.number), HEIGHT - BOTTOM + 2, "dot failed"));
  const line = smooth(known).map(([number, value]) => `${across(number).toFixed(1)},${up(value).toFixed(1)}`);
  drawing.append(svg("polyline", { points: line.join(" "), class: "line" }),
    svg("text", { x: LEFT + 4, y: HEIGHT - 3 }, "0"), svg("text", { x: WIDTH - 4, y: HEIGHT - 3, "text-anchor": "end" }, `episode ${episodes.length - 1}`));
  return drawing;
}

function dot(one, x, y, cls) {
  const node = svg("circle", { cx: x.toFixed(1), cy: y.toFixed(1), r: 2.1, class: cls });
  node.append(svg("title", {}, `${one.episode_id}: ${one.failure ? "failed: " + one.failure : told(one.reward)}`));
  if (one.href) node.addEventListener("click", () => { location.href = one.href; });
  return node;
}

function spread(some) {
  const groups = groupsOf(some).sort((one, other) => one.mean - other.mean);
  if (!groups.length) return [el("p", "soft", "No episode with a reward has a group."), ""];
  const bounds = scale(Math.min(...groups.map((one) => one.low)), Math.max(...groups.map((one) => one.high)));
  const [drawing, up] = frame(bounds);
  const room = (WIDTH - LEFT - 12) / groups.length;
  groups.forEach((group, index) => {
    const x = LEFT + 4 + (index + 0.5) * room;
    const bar = svg("g", { class: "group" + (group.low === group.high ? " flat" : "") },
      svg("line", { x1: x, x2: x, y1: up(group.low), y2: up(group.high), "stroke-width": Math.max(1, Math.min(7, room - 1.5)) }),
      svg("circle", { cx: x, cy: up(group.mean), r: Math.max(1.2, Math.min(3, room / 2)) }));
    bar.append(svg("title", {}, `${group.name}: ${group.rewards.length} rewards from ${told(group.low)} to ${told(group.high)}, mean ${told(group.mean)}`));
    bar.addEventListener("click", () => choose("group", group.name));
    drawing.append(bar);
  });
  const flat = groups.filter((group) => group.low === group.high).length;
  const said = flat ? `${flat} of ${groups.length} have no spread: group-relative advantages are 0 there` : `all ${groups.length} spread`;
  return [drawing, said];
}

function histogram(some, field) {
  const values = some.map((one) => one[field]);
  if (!values.length) return el("p", "soft", "none");
  const most = Math.max(...values) - Math.min(...values) + 1;
  const bins = Math.min(30, Math.max(1, most)), low = Math.min(...values), size = most / bins;
  const counts = new Array(bins).fill(0);
  for (const value of values) counts[Math.min(bins - 1, Math.floor((value - low) / size))]++;
  const width = 290, height = 92, tallest = Math.max(...counts);
  const drawing = svg("svg", { viewBox: `0 0 ${width} ${height}`, class: "plot" });
  counts.forEach((number, index) => {
    const tall = number ? Math.max(1.5, (number / tallest) * (height - 22)) : 0;
    const bar = svg("rect", { x: 2 + (index * (width - 4)) / bins, y: height - 16 - tall, width: Math.max(1, (width - 4) / bins - 1.5), height: tall, class: "bar" });
    bar.append(svg("title", {}, `${told(Math.ceil(low + index * size), 0)} to ${told(Math.ceil(low + (index + 1) * size) - 1, 0)}: ${count(number, "episode")}`));
    drawing.append(bar);
  });
  const middle = [...values].sort((one, other) => one - other)[values.length >> 1];
  drawing.append(svg("text", { x: 2, y: height - 3 }, low.toLocaleString("en")), svg("text", { x: width / 2, y: height - 3, "text-anchor": "middle" }, `median ${middle.toLocaleString("en")}`),
    svg("text", { x: width - 2, y: height - 3, "text-anchor": "end" }, Math.max(...values).toLocaleString("en")));
  return drawing;
}

function bars(facet, entries, none) {
  if (!entries.length) return el("p", "soft", none);
  const most = Math.max(...entries.map(([, number]) => number));
  return el("div", "bars", ...entries.map(([name, number]) => {
    const row = el("button", "bar-row", textOf(name.replaceAll("_", " ")), el("span", "track"), el("span", "soft", number.toLocaleString("en")));
    const fill = el("span", "fill");
    fill.style.width = (number / most) * 100 + "%";
    row.children[1].append(fill);
    row.setAttribute("aria-pressed", String(state.facets[facet] === name));
    row.title = name;
    row.onclick = () => choose(facet, name);
    return row;
  }));
}

function card(name, body, said = "", cls = "") { return el("section", "card " + cls, el("h2", "", name, said ? el("span", "faint", "  " + said) : ""), body); }

// -- the table -------------------------------------------------------------------------------------

function columns() {
  return [
    { key: "number", name: "#", of: (one) => one.number, cell: (one) => String(one.number) },
    { key: "id", name: "episode", of: (one) => one.episode_id, cls: "left", cell: (one) => (one.href ? link(one.href, "", textOf(one.episode_id, "mono")) : textOf(one.episode_id, "mono")) },
    { key: "group", name: "group", of: (one) => one.group, cls: "left", cell: (one) => textOf(one.group) },
    { key: "reward", name: "reward", of: (one) => one.reward ?? -Infinity, cell: (one) => el("b", one.reward > 0 ? "up" : one.reward < 0 ? "down" : "", one.reward === null ? "–" : signed(one.reward)) },
    ...names.map((name) => ({ key: "reward:" + name, name, of: (one) => one.rewards[name] ?? -Infinity, cell: (one) => (name in one.rewards ? signed(one.rewards[name]) : "") })),
    { key: "end", name: "end", of: (one) => one.end + one.failure, cls: "left", cell: (one) => ending(one) },
    { key: "tokens", name: "tokens", of: (one) => one.tokens, cell: (one) => one.tokens.toLocaleString("en") },
    { key: "trained", name: "trained on", of: (one) => one.trained, cell: (one) => one.trained.toLocaleString("en") },
    { key: "turns", name: "turns", of: (one) => one.turns, cell: (one) => String(one.turns) },
    ...(episodes.some((one) => one.segments > 1) ? [{ key: "segments", name: "segments", of: (one) => one.segments, cell: (one) => String(one.segments) }] : []),
    { key: "logprob", name: "mean logprob", of: (one) => one.mean_logprob ?? -Infinity, cell: (one) => told(one.mean_logprob) },
    { key: "reports", name: "reports", of: (one) => one.reportCount, cls: "left", cell: (one) => el("span", "", ...Object.entries(one.reports).map(([kind, number]) => badge(one.trust === "bad" ? "bad" : "note", textOf(kind.replaceAll("_", " ")), number > 1 ? " × " + number : ""))) },
    { key: "version", name: "weights", of: (one) => one.version, cls: "left", cell: (one) => textOf(one.version, "mono") },
  ];
}

function ending(one) {
  if (one.failure) {
    const node = badge("bad", "failed: ", textOf(one.failure));
    node.title = one.failure_reason;
    return node;
  }
  return badge(one.end === "truncated" ? "note" : "", one.end);
}

function sorted(some, all) {
  const { of } = all.find((column) => column.key === state.sort) || all[0];
  const way = state.down ? -1 : 1;
  return [...some].sort((one, other) => {
    const left = of(one), right = of(other);
    const order = typeof left === "string" ? left.localeCompare(right, "en", { numeric: true }) : left - right || 0;
    return way * order || one.number - other.number;
  });
}

function table(some) {
  const all = columns();
  const head = el("tr", "", ...all.map((column) => {
    const button = el("button", "sort", textOf(column.name), state.sort === column.key ? (state.down ? " ↓" : " ↑") : "");
    button.onclick = () => { state.down = state.sort === column.key ? !state.down : !["number", "id", "group", "end", "version"].includes(column.key); state.sort = column.key; draw(); };
    const cell = el("th", column.cls || "", button);
    cell.setAttribute("aria-sort", state.sort === column.key ? (state.down ? "descending" : "ascending") : "none");
    return cell;
  }));
  const shown = sorted(some, all);
  const rows = (state.all ? shown : shown.slice(0, FIRST)).map((one) => el("tr", "", ...all.map((column) => el("td", column.cls || "", column.cell(one)))));
  const node = el("div", "list", el("table", "rows", el("thead", "", head), el("tbody", "", ...rows)));
  if (!state.all && shown.length > FIRST) {
    const more = el("button", "more", `show all ${shown.length.toLocaleString("en")}`);
    more.onclick = () => { state.all = true; draw(); };
    node.append(more);
  }
  return node;
}

// -- the page --------------------------------------------------------------------------------------

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
  search.oninput = () => { state.query = search.value; draw(); };
  page.replaceChildren(
    el("header", "top", el("h1", "", textOf(given.title, "mono")), el("span", "summary"), el("span", "grow"), el("span", "chips"), search),
    el("div", "plots"), el("div", "list"));
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && event.target !== search) { event.preventDefault(); search.focus(); }
    if (event.key === "Escape") { state.facets = {}; state.query = search.value = ""; search.blur(); draw(); }
  });
}

page = document.getElementById("page");
const text = document.getElementById("data").textContent;
const given = JSON.parse(text);
build();
show(given);
follow(given.data_href, text, show);

// Numbers of episodes, and their plots.

function mean(values) { return values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : null; }

// The least and the greatest of any number of values.
function extent(values) {
  return values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);
}

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
  return [...found].map(([name, rewards]) => {
    const [low, high] = extent(rewards);
    return { name, rewards, low, high, mean: mean(rewards) };
  });
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
  const bounds = scale(...extent(known.map((one) => one.reward)));
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
  const node = svg("circle", { cx: x.toFixed(1), cy: y.toFixed(1), r: episodes.length < 100 ? 3.5 : 2.1, class: cls });
  node.append(svg("title", {}, `${one.episode_id}: ${one.failure ? "failed: " + one.failure : told(one.reward)}`));
  if (one.href) node.addEventListener("click", () => { location.href = one.href; });
  return node;
}

function spread(some) {
  const groups = groupsOf(some).sort((one, other) => one.mean - other.mean);
  if (!groups.length) return [el("p", "soft", "No episode with a reward has a group."), ""];
  const bounds = scale(...extent(groups.flatMap((one) => [one.low, one.high])));
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
  const said = flat ? `${flat} of ${groups.length} have no spread: group-relative advantages are 0 there` : `all of ${count(groups.length, "group")} spread`;
  return [drawing, said];
}

function histogram(some, field) {
  const values = some.map((one) => one[field]);
  if (!values.length) return el("p", "soft", "none");
  const [low, high] = extent(values), most = high - low + 1;
  const bins = Math.min(30, Math.max(1, most)), size = most / bins;
  const counts = new Array(bins).fill(0);
  for (const value of values) counts[Math.min(bins - 1, Math.floor((value - low) / size))]++;
  const width = 190, height = 76, tallest = Math.max(...counts);
  const drawing = svg("svg", { viewBox: `0 0 ${width} ${height}`, class: "plot" });
  counts.forEach((number, index) => {
    const tall = number ? Math.max(1.5, (number / tallest) * (height - 22)) : 0;
    const bar = svg("rect", { x: 2 + (index * (width - 4)) / bins, y: height - 16 - tall, width: Math.max(1, (width - 4) / bins - 1.5), height: tall, class: "bar" });
    bar.append(svg("title", {}, `${told(Math.ceil(low + index * size), 0)} to ${told(Math.ceil(low + (index + 1) * size) - 1, 0)}: ${count(number, "episode")}`));
    drawing.append(bar);
  });
  const middle = [...values].sort((one, other) => one - other)[values.length >> 1];
  drawing.append(svg("text", { x: 2, y: height - 3 }, low.toLocaleString("en")), svg("text", { x: width / 2, y: height - 3, "text-anchor": "middle" }, `median ${middle.toLocaleString("en")}`),
    svg("text", { x: width - 2, y: height - 3, "text-anchor": "end" }, high.toLocaleString("en")));
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

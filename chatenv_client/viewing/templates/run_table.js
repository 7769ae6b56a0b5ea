// The table: a row of each episode.

function columns() {
  return [
    { key: "number", name: "#", of: (one) => one.number, cell: (one) => String(one.number) },
    { key: "id", name: "episode", of: (one) => one.episode_id, cls: "left", cell: (one) => (one.href ? link(one.href, "", textOf(one.episode_id, "mono")) : textOf(one.episode_id, "mono")) },
    { key: "group", name: "group", of: (one) => one.group, cls: "left", cell: (one) => textOf(one.group) },
    { key: "reward", name: "reward", of: (one) => one.reward ?? -Infinity, cell: (one) => el("b", one.reward > 0 ? "up" : one.reward < 0 ? "down" : "", one.reward === null ? "–" : signed(one.reward)) },
    ...names.map((name) => ({ key: "reward:" + name, name, of: (one) => (Object.hasOwn(one.rewards, name) ? one.rewards[name] : -Infinity), cell: (one) => (Object.hasOwn(one.rewards, name) ? signed(one.rewards[name]) : "") })),
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

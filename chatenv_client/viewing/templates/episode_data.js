// The data of an episode, with the turn and the origin of every token.

const ORIGINS = { t: "template", s: "sampled", f: "forced", g: "given" };
const ORIGIN_SAYS = {
  t: "written by the chat template, masked out",
  s: "sampled by the model, trained on",
  f: "forced on the model in its turn, masked out",
  g: "an assistant's words that were given; mask(\"assistant\") trains on them",
};
const PROBABILITIES = [0.99, 0.9, 0.75, 0.5, 0.25, 0.1, 0.03, 0.01];
const CHUNK = 400;
const STEPS = 9;

const state = { colour: "origin", query: "", hits: [], hit: -1, search: null, pinned: null, turn: null, explained: new Set() };
let episode, segments, columnNames, page, tip;

function bytesOf(encoded) {
  const raw = atob(encoded);
  const bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return bytes.buffer;
}

function read(data) {
  episode = data;
  episode.controlSet = new Set(data.controls);
  episode.first = new Map();
  segments = [];
  for (const source of data.segments) {
    const before = segments.length ? segments[segments.length - 1].tokens : new Int32Array(0);
    const own = new Int32Array(bytesOf(source.tokens));
    const tokens = new Int32Array(source.shared + own.length);
    tokens.set(before.subarray(0, source.shared));
    tokens.set(own, source.shared);
    const segment = {
      ...source, number: segments.length, tokens, spans: [], kinds: [], found: new Set(),
      logprobs: source.logprobs ? new Float32Array(bytesOf(source.logprobs)) : null,
      columns: source.columns.map((column) => scaled(column.name, new Float32Array(bytesOf(column.values)))),
      origin: new Uint8Array(tokens.length), turnOf: new Uint32Array(tokens.length),
      reportsAt: new Map(),
    };
    place(segment);
    segments.push(segment);
  }
  const last = segments[segments.length - 1];
  let before = 0;
  for (const turn of segments.flatMap((segment) => segment.turns)) if (turn.at_ms !== undefined) { turn.gap_ms = turn.at_ms - before; before = turn.at_ms; }
  for (const [start, stop] of data.given) last.origin.fill("g".charCodeAt(0), start, stop);
  columnNames = [...new Set(segments.flatMap((segment) => segment.columns.map((column) => column.name)))];
}

function place(segment) {
  let at = 0;
  segment.turns.forEach((turn, number) => {
    Object.assign(turn, { number, start: at, stop: at + turn.length, reports: [], rewards: turn.rewards || {} });
    turn.segment = segment;
    at = turn.stop;
    segment.turnOf.fill(number, turn.start, turn.stop);
    segment.origin.fill((turn.origin === "sampled" ? "s" : "t").charCodeAt(0), turn.start, turn.stop);
    let run = turn.start;
    (turn.runs || []).forEach((length, index) => {
      if (index % 2 === 0) segment.origin.fill("f".charCodeAt(0), run, run + length);
      run += length;
    });
  });
  segment.loose = [];
  for (const report of segment.reports) {
    const turn = turnOfReport(segment, report);
    (turn ? turn.reports : segment.loose).push(report);
    if (report.token !== null && turn) segment.reportsAt.set(report.token, report);
  }
}

function turnOfReport(segment, report) {
  if (report.token !== null && segment.turns.length) {
    const at = Math.min(report.token, segment.tokens.length - 1);
    return segment.turns[segment.turnOf[at]];
  }
  if (report.message === null) return null;
  return segment.turns.find((turn) => (turn.first || 0) <= report.message && report.message < (turn.first || 0) + (turn.count || 0));
}

// A column's values in nine steps between its 2nd and its 98th percentile.
function scaled(name, values) {
  const known = values.filter((value) => Number.isFinite(value)).sort();
  const low = known[Math.floor(known.length * 0.02)] ?? 0;
  const high = known[Math.ceil(known.length * 0.98) - 1] ?? 0;
  return { name, values, low, high };
}

function stepOf(column, value) {
  if (Number.isNaN(value)) return "";
  if (column.high <= column.low) return "c4";
  const share = (value - column.low) / (column.high - column.low);
  return "c" + Math.max(0, Math.min(STEPS - 1, Math.floor(share * STEPS)));
}

function logprobStep(logprob) {
  if (Number.isNaN(logprob)) return "";
  const probability = Math.exp(logprob);
  const step = PROBABILITIES.findIndex((bound) => probability >= bound);
  return "l" + (step < 0 ? PROBABILITIES.length : step);
}

function versionAt(turn, offset) {
  let run = 0;
  for (const [version, length] of turn.versions || []) {
    run += length;
    if (offset < run) return version;
  }
  return turn.version || "";
}

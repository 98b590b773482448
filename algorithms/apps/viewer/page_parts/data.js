// The data: a list of all trajectories by columns, and chunks of texts and of token numbers that are read when needed.

const data = {index: null, columns: {}, size: 0, strings: [], byPlace: new Map()};
const served = document.body.dataset.mode === "served";

async function unpack(base64) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  // Not through a Blob: the browser process would have to hand its bytes back.
  const stream = new Response(bytes).body.pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

async function fetchJson(path) {
  const answer = await fetch(path, {cache: "no-cache"});
  if (!answer.ok) throw new Error(`${path}: ${answer.status} ${(await answer.text()).trim()}`);
  return answer.json();
}

const parsed = new Promise((done) => {
  if (document.readyState !== "loading") done();
  else document.addEventListener("DOMContentLoaded", () => done());
});

async function embedded(id) {
  if (!byId(id)) await parsed;
  return unpack(byId(id).textContent);
}

function loadIndex() { return served ? fetchJson("/api/index") : embedded("index"); }

// Takes a list; false if it is the one that is shown.
function takeIndex(index) {
  const stamp = JSON.stringify([index.chunks, index.runs]);
  if (data.stamp === stamp) return false;
  Object.assign(data, {stamp, index, columns: index.columns, strings: index.strings});
  data.severalRuns = new Set(index.runs.map((run) => run.name)).size > 1;
  data.size = (index.columns.run || []).length;
  data.byPlace = new Map();
  for (let i = 0; i < data.size; i++) data.byPlace.set(place(i), i);
  return true;
}

function place(i) { return `${data.columns.run[i]}/${data.columns.ordinal[i]}`; }
function text(column, i) { return data.strings[data.columns[column][i]]; }
function number(column, i) { return data.columns[column][i]; }
function agentsOf(i) { return data.columns.agents[i].map((a) => data.strings[a]); }
function runOf(i) { return data.index.runs[data.columns.run[i]]; }
// The run's name, where there are several.
function runPrefix(i) { return data.severalRuns ? `${runOf(i).name} · ` : ""; }
function isFault(i) { return ["error", "timeout"].includes(text("stop", i)); }

function chunkName(i) { return `${data.columns.run[i]}.${Math.floor(data.columns.ordinal[i] / data.index.chunk)}`; }

// Chunks stay in a small cache, under the key that changes when they do.
const cache = new Map();
function loadChunk(kind, name) {
  const key = `${kind}-${name}-${data.index.chunks[name]}`;
  let found = cache.get(key);
  if (!found) {
    found = served ? fetchJson(`/api/${kind}/${name}`) : embedded(`${kind}-${name}`);
    found.catch(() => cache.delete(key));
  }
  cache.delete(key);
  cache.set(key, found);
  while (cache.size > 60) cache.delete(cache.keys().next().value);
  return found;
}

async function bodyOf(i) {
  const name = chunkName(i), ordinal = data.columns.ordinal[i];
  const [texts, tokens] = await Promise.all([loadChunk("texts", name), loadChunk("tokens", name)]);
  const row = texts.rows[ordinal - texts.first], facts = tokens.rows[ordinal - tokens.first];
  const segments = row.map(([source, written, agent, characters], k) => ({
    source, agent, characters, withheld: written === null,
    text: typeof written === "number" ? texts.prompts[written] : written || "",
    tokens: facts.segments[k],
  }));
  return {row: i, segments, metadata: facts.metadata, parts: facts.parts, taskIndex: facts.task_index};
}

// Which checkpoint made a trajectory: its run, and in a training run the step.
function checkpointOf(i) { return `${runOf(i).name}\u0000${number("step", i) ?? ""}`; }
function checkpointName(key) {
  const [run, step] = key.split("\u0000");
  return step === "" ? run : `${run} · step ${step}`;
}
function groupOf(i) {
  return [runOf(i).name, number("step", i), number("group", i), number("task", i)].join("\u0000");
}

// What is shown: filters over the columns, and a search in lower-case copies of the texts.

const FILTERS = [
  {id: "run", label: "Run", of: (i) => runOf(i).name},
  {id: "step", label: "Step", of: (i) => number("step", i), numeric: true},
  {id: "mode", label: "Mode", of: (i) => (number("assisted", i) ? "assisted" : "solo")},
  {id: "verdict", label: "Verdict", of: (i) => text("verdict", i) || "(none)"},
  {id: "consulted", label: "Consulted", of: (i) => (number("consults", i) > 0 ? "yes" : "no")},
  {id: "helper", label: "Helper", many: (i) => agentsOf(i)},
  {id: "ended", label: "Ended by", of: (i) => text("stop", i) || "(running)"},
  {id: "error", label: "Error", of: (i) => (isFault(i) || text("error", i) ? "yes" : "no")},
  {id: "level", label: "Level", of: (i) => text("level", i) || null, numeric: true},
  {id: "env", label: "Environment", of: (i) => text("env", i)},
];
const SORTS = {
  file: ["as recorded", null],
  task: ["task and sample", (i) => taskRanks()[number("task", i)] * 4096 + number("sample", i)],
  reward: ["reward, high first", (i) => -number("reward", i)],
  low: ["reward, low first", (i) => number("reward", i)],
  tokens: ["policy tokens, most first", (i) => -number("policy", i)],
  consults: ["consults, most first", (i) => -number("consults", i)],
  advantage: ["advantage, high first", (i) => -(number("advantage", i) ?? -1e9)],
};
const wanted = {query: "", least: null, most: null, sort: "file"};

// The place of each string in the order of names, digits by their value: sums/9 before sums/10.
let ranks = {};
function taskRanks() {
  if (ranks.of === data.strings) return ranks.values;
  const order = data.strings.map((_, k) => k);
  const compare = new Intl.Collator("en", {numeric: true}).compare;
  order.sort((a, b) => compare(data.strings[a], data.strings[b]));
  const values = [];
  order.forEach((k, place_) => { values[k] = place_; });
  ranks = {of: data.strings, values};
  return values;
}

// -- the texts ---------------------------------------------------------------------------------------------------

const search = {texts: new Map(), prompts: new Map(), chunks: new Map(), read: 0};

// Reads the texts of chunks that are new, a chunk at a time, and lets the page live in between.
async function readTexts(onProgress) {
  const names = Object.keys(data.index.chunks).filter((name) => search.chunks.get(name) !== data.index.chunks[name]);
  search.left = names.length;
  for (const name of names) {
    const key = data.index.chunks[name];
    const texts = served ? await fetchJson(`/api/texts/${name}`) : await embedded(`texts-${name}`);
    const run = name.split(".")[0];
    texts.rows.forEach((segments, k) => {
      let prompt = "";
      const written = [];
      for (const [source, value] of segments) {
        if (typeof value === "number") prompt = texts.prompts[value];
        else if (value) written.push(value);
      }
      if (!search.prompts.has(prompt)) search.prompts.set(prompt, {lower: prompt.toLowerCase(), query: null, hit: false});
      search.texts.set(`${run}/${texts.first + k}`, {prompt: search.prompts.get(prompt), lower: written.join("\n").toLowerCase()});
    });
    search.chunks.set(name, key);
    search.left--;
    if (search.left % 16 === 0) {
      onProgress();
      await new Promise((next) => setTimeout(next));
    }
  }
  onProgress();
}

function matches(i, query) {
  if (text("task", i).toLowerCase().includes(query) || text("error", i).toLowerCase().includes(query)) return true;
  const found = search.texts.get(place(i));
  if (!found) return false;
  if (found.lower.includes(query)) return true;
  // A prompt stands in many trajectories and is searched once.
  if (found.prompt.query !== query) Object.assign(found.prompt, {query, hit: found.prompt.lower.includes(query)});
  return found.prompt.hit;
}

// -- filters -----------------------------------------------------------------------------------------------------

// The rows that pass, in order. `without` names filters that do not count (a comparison has checkpoints of its own).
function passing(without = []) {
  const tests = FILTERS.filter((f) => wanted[f.id] && !without.includes(f.id)).map((f) => (f.many
    ? (i) => f.many(i).includes(wanted[f.id])
    : (i) => String(f.of(i)) === wanted[f.id]));
  if (wanted.least !== null) tests.push((i) => number("reward", i) >= wanted.least);
  if (wanted.most !== null) tests.push((i) => number("reward", i) <= wanted.most);
  const query = wanted.query.toLowerCase();
  if (query) tests.push((i) => matches(i, query));
  const rows = [];
  for (let i = 0; i < data.size; i++) if (tests.every((test) => test(i))) rows.push(i);
  const key = SORTS[wanted.sort][1];
  if (key) rows.sort((a, b) => key(a) - key(b) || a - b);
  return rows;
}

function numFilters() {
  return FILTERS.filter((f) => wanted[f.id]).length + (wanted.least !== null) + (wanted.most !== null);
}

// Builds the controls; a filter without a choice is left out.
function buildFilters(onChange) {
  const controls = [];
  for (const filter of FILTERS) {
    const counts = new Map();
    for (let i = 0; i < data.size; i++) {
      for (const value of filter.many ? filter.many(i) : [filter.of(i)]) {
        if (value !== null && value !== undefined) counts.set(value, (counts.get(value) || 0) + 1);
      }
    }
    if (counts.size < 2 && !wanted[filter.id]) continue;
    const values = [...counts.keys()].sort((a, b) => (filter.numeric ? Number(a) - Number(b) : 0) || (String(a) < String(b) ? -1 : 1));
    const select = el("select", {id: `filter-${filter.id}`, change: (e) => { wanted[filter.id] = e.target.value; onChange(); }},
      el("option", {value: ""}, "all"),
      values.map((v) => el("option", {value: v}, `${v} (${counts.get(v).toLocaleString("en")})`)));
    select.value = wanted[filter.id] || "";
    controls.push(el("label", {}, filter.label, select));
  }
  const bound = (id, label) => el("label", {}, label, el("input", {
    id: `filter-${id}`, type: "number", step: "any", placeholder: "any", value: wanted[id] === null ? "" : wanted[id],
    input: (e) => { wanted[id] = e.target.value === "" ? null : Number(e.target.value); onChange(); },
  }));
  controls.push(bound("least", "Reward from"), bound("most", "Reward to"));
  controls.push(el("button", {type: "button", id: "clear", click: () => clearFilters(onChange)}, "Clear filters"));
  fill(byId("filter-grid"), controls);
}

function clearFilters(onChange) {
  for (const filter of FILTERS) wanted[filter.id] = "";
  Object.assign(wanted, {query: "", least: null, most: null});
  byId("search").value = "";
  buildFilters(onChange);
  onChange();
}

// The right side: one trajectory, its group, or two checkpoints on one task.

const view = {kind: "single", colour: "source", left: null, right: null, picks: new Map(), serial: 0};

// What decides what is on the screen; while it stays, a new list or search leaves the conversation where it was read to.
function detailKey(item) {
  if (item === undefined || item === null) return null;
  const rows = typeof item === "object" ? [...item.left, ...item.right] : [item];
  return JSON.stringify([view.kind, view.colour, view.left, view.right, rows.map((i) => [i, place(i), data.index.chunks[chunkName(i)]])]);
}

async function showDetail(item, {anew = false} = {}) {
  const detail = byId("detail"), key = detailKey(item);
  if (!anew && key !== null && key === view.shown) return markHits(detail, wanted.query);
  const serial = ++view.serial;
  view.shown = key;
  moveCursor(null);
  if (item === undefined || item === null) {
    // A comparison without a task is no dead end: two other checkpoints can be chosen.
    const choice = view.kind === "compare" && data.size ? el("div", {class: "chips"}, checkpointSelect("left"), checkpointSelect("right")) : null;
    return fill(detail, [choice, el("p", {class: "empty"}, emptyWords())]);
  }
  try {
    const children = await {single: singleView, group: groupView, compare: compareView}[view.kind](item);
    if (serial !== view.serial) return;  // another one was chosen meanwhile
    fill(detail, children);
  } catch (error) {
    if (serial !== view.serial) return;
    fill(detail, el("p", {class: "failure", role: "alert"}, `This trajectory cannot be shown: ${error.message}`));
  }
  detail.scrollTop = 0;
  const chosen = detail.querySelector(".column.chosen");
  if (chosen) chosen.parentElement.scrollLeft = chosen.offsetLeft - chosen.parentElement.offsetLeft - 60;
  detail.dataset.shown = String(serial);
  markHits(detail, wanted.query);
}

function emptyWords() {
  if (!data.size) return "No trajectory is finished yet.";
  if (view.kind === "compare") return compareHint();
  return list.items.length ? "Choose a trajectory." : "No trajectory passes the filters.";
}

function heading(words) { return el("h1", {}, el("button", {type: "button", class: "back", click: showList, "aria-label": "Back to the list"}, "‹"), words); }

async function singleView(i) {
  const body = await bodyOf(i);
  return [
    el("div", {class: "top"}, heading(text("task", i)), el("p", {class: "where"}, `${runPrefix(i)}${text("env", i)} · ${sampleName(i)}`), chips(i), legend([body], view.colour)),
    conversation(body, view), metadata(body),
  ];
}

// -- the group ---------------------------------------------------------------------------------------------------

async function groupView(i) {
  const key = groupOf(i);
  const members = [];
  for (let k = 0; k < data.size; k++) if (groupOf(k) === key) members.push(k);
  members.sort((a, b) => number("sample", a) - number("sample", b));
  const bodies = await Promise.all(members.map(bodyOf));
  const shared = samePrompt(bodies);
  const mean = members.reduce((sum, k) => sum + number("reward", k), 0) / members.length;
  const columns = members.map((k, at) => el("article", {class: `column${k === i ? " chosen" : ""}`, "aria-label": `sample ${number("sample", k)}`},
    el("h2", {}, `Sample ${number("sample", k)}`), chips(k, {where: false}), conversation(bodies[at], {colour: view.colour, prompt: !shared})));
  return [
    el("div", {class: "top"}, heading(text("task", i)),
      el("p", {class: "where"}, `${runOf(i).name} · ${number("step", i) === null ? "" : `step ${number("step", i)} · `}group ${number("group", i)}: ${plural(members.length, "sample")}, mean reward ${short(mean)}`), legend(bodies, view.colour)),
    shared ? sharedPrompt(bodies[0]) : null,
    el("div", {class: "columns", tabindex: "0", role: "group", "aria-label": "The samples of the group"}, columns),
  ];
}

function samePrompt(bodies) {
  const prompts = bodies.map((b) => JSON.stringify(b.segments.filter((s) => s.source === PROMPT).map((s) => s.withheld ? s.characters : s.text)));
  return prompts.every((p) => p === prompts[0]);
}

function sharedPrompt(body) {
  const node = el("div", {class: "conversation"}, body.segments.map((segment, s) => (segment.source === PROMPT ? block(body.row, segment, s, view.colour) : null)));
  node.body = body;
  return node;
}

// -- two checkpoints ---------------------------------------------------------------------------------------------

function checkpoints() {
  const found = new Map();
  for (let i = 0; i < data.size; i++) found.set(checkpointOf(i), checkpointName(checkpointOf(i)));
  return found;
}

function taskKey(i) { return `${text("env", i).replace(/-consult$/, "")}\u0000${text("task", i)}`; }

// What one most likely wants beside a checkpoint: the one that tried most of its tasks; among equals the same part of another run,
// else the end of the same run, else the last one.
function counterpart(key, known) {
  const tried = new Map(known.map((k) => [k, new Set()]));
  for (const i of passing(["run", "step"])) tried.get(checkpointOf(i)).add(taskKey(i));
  const inCommon = (k) => [...tried.get(k)].filter((task) => tried.get(key).has(task)).length;
  const others = known.filter((other) => other !== key);
  const most = Math.max(0, ...others.map(inCommon));
  const best = others.filter((other) => inCommon(other) === most);
  const [run, step] = key.split("\u0000");
  const part = run.split("/").slice(1).join("/");
  return best.find((k) => part && k.split("\u0000")[0].split("/").slice(1).join("/") === part && k.split("\u0000")[1] === step)
    ?? best.findLast((k) => k.split("\u0000")[0] === run) ?? best.at(-1) ?? key;
}

// The tasks that both checkpoints tried, those that changed most first.
function comparison() {
  const known = [...checkpoints().keys()];
  if (!known.includes(view.left)) view.left = known[0] ?? null;
  if (!known.includes(view.right)) view.right = counterpart(view.left, known);
  const tasks = new Map();
  for (const i of passing(["run", "step"])) {
    const made = checkpointOf(i);
    if (made !== view.left && made !== view.right) continue;
    const key = taskKey(i);
    if (!tasks.has(key)) tasks.set(key, {key, task: text("task", i), left: [], right: []});
    if (made === view.left) tasks.get(key).left.push(i);
    if (made === view.right) tasks.get(key).right.push(i);
  }
  const both = [...tasks.values()].filter((t) => t.left.length && t.right.length);
  for (const task of both) task.change = meanReward(task.right) - meanReward(task.left);
  return both.sort((a, b) => Math.abs(b.change) - Math.abs(a.change));
}

function meanReward(rows) { return rows.reduce((sum, i) => sum + number("reward", i), 0) / rows.length; }

function compareHint() {
  const count = checkpoints().size;
  if (count < 2) return "There is one checkpoint alone. Name two runs, as in `aipo view runs/before runs/after`, or a training run with traces of several steps.";
  return "These two checkpoints have no task in common that passes the filters: choose two others above. Runs of the same seed and evaluations try the same tasks; the steps of one training run do not.";
}

function renderTask(task) {
  const [left, right] = [meanReward(task.left), meanReward(task.right)];
  const kind = task.change > 0 ? "right" : task.change < 0 ? "wrong" : "none";
  return {
    kind, label: `${task.task}, mean reward ${short(left)} and ${short(right)}`,
    children: [
      el("b", {class: "mark", "aria-hidden": "true"}, task.change > 0 ? "▲" : task.change < 0 ? "▼" : "="),
      el("span", {class: "task"}, task.task),
      el("span", {class: "reward"}, signed(task.change)),
      el("span", {class: "where"}, `mean reward ${short(left, 2)} (${task.left.length}) → ${short(right, 2)} (${task.right.length})`),
    ],
  };
}

function checkpointSelect(side) {
  const select_ = el("select", {id: `checkpoint-${side}`, "aria-label": `${side} checkpoint`, change: (e) => { view[side] = e.target.value; refreshList(); }},
    [...checkpoints()].map(([key, name]) => el("option", {value: key}, name)));
  select_.value = view[side];
  return select_;
}

async function compareView(task) {
  const sides = await Promise.all(["left", "right"].map(async (side) => {
    const rows = task[side];
    const pick = Math.min(view.picks.get(`${side} ${task.key}`) || 0, rows.length - 1);
    const turn = (by) => () => {
      view.picks.set(`${side} ${task.key}`, (pick + by + rows.length) % rows.length);
      showDetail(task, {anew: true});
    };
    const body = await bodyOf(rows[pick]);
    const stepper = el("div", {class: "stepper"},
      el("button", {type: "button", click: turn(-1), disabled: rows.length < 2, "aria-label": `${side}: previous sample`}, "‹"),
      el("span", {}, `${pick + 1} of ${rows.length}`),
      el("button", {type: "button", click: turn(1), disabled: rows.length < 2, "aria-label": `${side}: next sample`}, "›"));
    return {side, row: rows[pick], body, stepper};
  }));
  const bodies = sides.map((s) => s.body);
  const shared = samePrompt(bodies);
  return [
    el("div", {class: "top"}, heading(task.task),
      el("p", {class: "where"}, `mean reward ${short(meanReward(task.left))} → ${short(meanReward(task.right))}`), legend(bodies, view.colour)),
    shared ? sharedPrompt(bodies[0]) : null,
    el("div", {class: "columns two"}, sides.map(({side, row, body, stepper}) => el("article", {class: "column", "aria-label": `${side} checkpoint`},
      el("div", {class: "column-head"}, checkpointSelect(side), stepper), chips(row, {where: false}), conversation(body, {colour: view.colour, prompt: !shared})))),
  ];
}

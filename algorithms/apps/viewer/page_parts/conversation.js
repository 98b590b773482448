// One trajectory as a conversation: a block for each segment, its source in colour.

const LONG_PROMPT = 700;

// body: of bodyOf(); options: colour, compact (a column among others), prompt (false leaves the prompt out).
function conversation(body, {colour, prompt = true}) {
  const node = el("div", {class: "conversation"});
  node.body = body;
  body.segments.forEach((segment, s) => {
    if (segment.source === PROMPT && !prompt) return;
    node.append(block(body.row, segment, s, colour));
  });
  const i = body.row;
  if (text("error", i)) node.append(el("p", {class: "failure", role: "note"}, el("b", {}, "Ended by a fault: "), text("error", i)));
  return node;
}

function block(i, segment, s, colour) {
  const {source, agent, tokens} = segment;
  const name = sourceName(source, agent) + (source === TEMPLATE && agent ? ` (${agent})` : "");
  const head = el("header", {},
    el("span", {class: "who"}, name),
    el("span", {class: "size"}, tokens.n ? plural(tokens.n, "token") : segment.withheld ? "" : plural(segment.text.length, "character")),
    meanLogprob(segment));
  const body = el("div", {class: "text"});
  if (segment.withheld) {
    body.append(el("em", {class: "withheld"}, `withheld: ${plural(segment.characters, "character")}, ${plural(tokens.n, "token")}; the task is confidential`));
  } else if (tokens.lengths) {
    append(body, [tokenSpans(i, segment, s, colour)]);
  } else {
    body.append(segment.text);
  }
  const parts = [head, body];
  // Without the tokenizer the text is one piece; its tokens stand below by their ids.
  if (!segment.withheld && tokens.ids && !tokens.lengths && (source === POLICY || source === AGENT)) {
    parts.push(el("div", {class: "ids", "aria-label": "tokens by id"}, tokenSpans(i, segment, s, colour)));
  }
  const attributes = {class: `block ${sourceClass(source, agent)}`, "aria-label": name};
  if (source === PROMPT && segment.text.length > LONG_PROMPT) {
    const rest = el("details", {...attributes, open: false}, el("summary", {}, head, el("span", {class: "preview"}, lastLine(segment.text))), body);
    return rest;
  }
  return el("section", attributes, parts);
}

function lastLine(prompt) {
  const lines = prompt.trim().split("\n").filter((line) => line.trim());
  return lines.length ? lines[lines.length - 1].slice(-300) : "";
}

function meanLogprob(segment) {
  const values = (segment.tokens.logprobs || []).filter((value) => value !== null);
  if (!values.length) return null;
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length * UNIT;
  return el("span", {class: "size", title: "mean log-probability of its tokens"}, `${segment.source === AGENT ? "log μ" : "logprob"} ${short(mean)} a token`);
}

// -- facts of the whole ------------------------------------------------------------------------------------------

function chips(i, {where = true} = {}) {
  const [mark, kind, word] = outcome(i);
  const objective = runOf(i).objective;
  const facts = [
    el("span", {class: `chip ${kind}`}, `${mark} ${word}`),
    el("span", {class: "chip"}, `reward ${short(number("reward", i))}`),
    el("span", {class: "chip"}, number("assisted", i) ? "assisted" : "solo"),
    el("span", {class: "chip"}, `ended by ${text("stop", i) || "nothing yet"}`),
  ];
  if (number("consults", i)) facts.push(el("span", {class: "chip"}, plural(number("consults", i), "consult")));
  if (objective) {
    const [own, help] = [number("advantage", i), number("agent_advantage", i)];
    facts.push(el("span", {class: "chip", title: "of the policy's tokens"}, `advantage of the policy ${signed(own)}`));
    if (number("agent", i)) facts.push(el("span", {class: "chip", title: "of the helpers' tokens"}, `of the helpers ${signed(help)}`));
  }
  if (where) {
    const level = text("level", i);
    if (level) facts.push(el("span", {class: "chip"}, `level ${level}`));
    facts.push(el("span", {class: "chip"}, `${plural(number("policy", i), "token")} of the policy, ${number("agent", i)} of helpers`));
  }
  return el("div", {class: "chips"}, facts);
}

const SCALES = {
  logprob: [["surprise", "unlikely to the policy (p near 0)"]],
  push: [["up", "made more likely"], ["down", "made less likely"]],
};

function legend(bodies, colour) {
  const seen = new Map();
  for (const body of bodies) for (const s of body.segments) seen.set(sourceName(s.source, s.agent), sourceClass(s.source, s.agent));
  return el("div", {class: "legend", "aria-label": "Sources"}, [...seen].map(([name, kind]) => el("span", {class: `key ${kind}`}, name)),
    (SCALES[colour] || []).map(([kind, words]) => el("span", {class: `scale ${kind}`}, words)));
}

// In words, where the numbers of the tokens come from.
function provenance(i) {
  const run = runOf(i), lines = [];
  const objective = run.objective;
  if (objective) {
    lines.push("Log-probabilities are recorded. Advantages are derived from the rewards of the step, coefficients from them and "
      + `the run's objective (agent_loss=${objective.agent_loss}), both as they stood at the first `
      + `${objective.updates > 1 ? `of ${objective.updates} updates` : "and only update"} on the batch: π = π_old, nothing is clipped by movement.`);
    lines.push("Where π of a helper's token was not recorded, its coefficient is exact if it does not depend on π, else a range.");
  } else lines.push("Log-probabilities are recorded. There are no advantages and no coefficients: no training configuration lies beside these traces.");
  if (!run.pieces) lines.push("The tokenizer is not known: tokens are shown by their ids.");
  return [...lines, ...run.notes];
}

function metadata(body) {
  const i = body.row;
  const facts = {
    run: runOf(i).name, environment: text("env", i), task: text("task", i), task_index: body.taskIndex, seed: number("seed", i),
    group: number("group", i), sample: number("sample", i), step: number("step", i), reward_parts: body.parts, metadata: body.metadata,
    objective: runOf(i).objective,
  };
  return el("details", {class: "metadata"}, el("summary", {}, "All that was recorded, and where the numbers come from"),
    provenance(i).map((line) => el("p", {}, line)), el("pre", {}, JSON.stringify(facts, null, 1)));
}

// -- what the search found, marked in the text -------------------------------------------------------------------

function markHits(root, query) {
  if (!globalThis.CSS || !CSS.highlights) return;
  CSS.highlights.delete("hit");
  const low = query.toLowerCase();
  if (!low) return;
  const ranges = [];
  for (const box of root.querySelectorAll(".text")) {
    const nodes = [], starts = [];
    let all = "";
    const walker = document.createTreeWalker(box, NodeFilter.SHOW_TEXT);
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
      nodes.push(node);
      starts.push(all.length);
      all += node.data;
    }
    const lower = all.toLowerCase();
    if (lower.length !== all.length) continue;  // a letter that changes its length: places would not fit
    const spot = (place) => {
      let k = starts.length - 1;
      while (starts[k] > place) k--;
      return [nodes[k], place - starts[k]];
    };
    for (let hit = lower.indexOf(low); hit >= 0 && ranges.length < 500; hit = lower.indexOf(low, hit + low.length)) {
      const range = new Range();
      range.setStart(...spot(hit));
      const [last, offset] = spot(hit + low.length - 1);
      range.setEnd(last, offset + 1);
      ranges.push(range);
    }
  }
  if (ranges.length) CSS.highlights.set("hit", new Highlight(...ranges));
}

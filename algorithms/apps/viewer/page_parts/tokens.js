// Single tokens: their spans, their colours, and what is told of them.

const UNIT = 1e-4;  // log-probabilities come as whole numbers of this

function logprobOf(segment, t) {
  const value = segment.tokens.logprobs ? segment.tokens.logprobs[t] : null;
  return value === null || value === undefined ? null : value * UNIT;
}
function at(values, t) { return Array.isArray(values) ? values[t] : values; }
function advantageOf(i, segment) {
  const value = number(segment.source === AGENT ? "agent_advantage" : "advantage", i);
  return value === null || value === undefined ? value : value * (segment.tokens.credit ?? 1);
}

// The pieces of a segment's text, one a token; null where they are not known.
function piecesOf(segment) {
  const lengths = segment.tokens.lengths;
  if (!lengths) return null;
  const pieces = [];
  let start = 0;
  for (const length of lengths) pieces.push(segment.text.slice(start, start += length));
  return pieces;
}

// Coefficient times advantage: how hard, and in which direction, the first update pushes log pi of a token. null: not known.
function pushOf(i, segment, t) {
  const advantage = advantageOf(i, segment);
  if (advantage === null || advantage === undefined) return null;
  if (segment.source === POLICY) return advantage;
  if (segment.source !== AGENT) return 0;
  const {low, high} = segment.tokens;
  if (advantage === 0) return 0;
  if (low === undefined) return null;
  return advantage * ((at(low, t) ?? 0) + (at(high, t) ?? at(low, t) ?? 0)) / 2;
}

function colourToken(span, i, segment, t, colour) {
  if (colour === "logprob") {
    const logprob = segment.tokens.pi ? segment.tokens.pi[t] * UNIT : logprobOf(segment, t);
    if (logprob !== null) {
      span.classList.add("surprise");
      span.style.setProperty("--heat", Math.min(1, -logprob / 4).toFixed(3));
    }
  } else if (colour === "push") {
    const push = pushOf(i, segment, t);
    if (push) {
      span.classList.add(push > 0 ? "up" : "down");
      span.style.setProperty("--heat", Math.min(1, Math.abs(push)).toFixed(3));
    }
  }
}

function tokenSpans(i, segment, s, colour) {
  const pieces = piecesOf(segment);
  const spans = [];
  const count = segment.tokens.ids ? segment.tokens.ids.length : 0;
  for (let t = 0; t < count; t++) {
    const id = segment.tokens.ids[t];
    const piece = pieces ? pieces[t] : "";
    const shown = piece || (segment.tokens.names && segment.tokens.names[id]) || String(id);
    const span = el("span", {class: piece ? "token" : "token control", "data-s": s, "data-t": t}, shown);
    colourToken(span, i, segment, t, colour);
    spans.push(span);
  }
  return spans;
}

// -- what is told of a token -------------------------------------------------------------------------------------

const STATES = {
  f: "raised to the floor c_min", c: "lowered to the cap c_max", "-": "neither at the floor nor at the cap",
  "?": "depends on π(token), which was not recorded",
};

function probability(logprob) {
  const p = Math.exp(logprob);
  return `${short(logprob, 4)}  (p ${p < 1e-3 ? p.toExponential(1).replace("-", "−") : short(p, 4)})`;
}

function tokenFacts(i, segment, t) {
  const {tokens, source} = segment;
  const objective = runOf(i).objective;
  const pieces = piecesOf(segment);
  const id = tokens.ids[t];
  const facts = [
    ["token", pieces && pieces[t] ? JSON.stringify(pieces[t]) : (tokens.names && tokens.names[id]) || "(text not known)"],
    ["id", String(id)],
    ["source", sourceName(source, segment.agent)],
  ];
  if (source !== POLICY && source !== AGENT) return [...facts, ["in the loss", "no: neither the policy's nor a helper's"]];
  const logprob = logprobOf(segment, t);
  if (source === POLICY) {
    facts.push(["logprob", logprob === null ? "not recorded" : probability(logprob)], ["μ", "the sampler: the policy itself"]);
  } else {
    const pi = tokens.pi ? tokens.pi[t] : null;
    facts.push(["logprob", pi === null || pi === undefined ? "π was not recorded" : probability(pi * UNIT)]);
    facts.push(["log μ", tokens.mu_known && logprob !== null ? probability(logprob) : "unknown; taken as μ = 1"]);
  }
  if (!objective) return [...facts, ["objective", "none: this run did not train"]];
  const advantage = advantageOf(i, segment);
  facts.push(["coefficient", coefficientWords(segment, t, advantage, objective)]);
  if (source === POLICY) facts.push(["clipped", "no: π is still π_old"]);
  else if (objective.agent_loss === "aipo" && tokens.states) facts.push(["clipped", STATES[tokens.states[t]]]);
  if (source === AGENT && objective.trust_region) facts.push(["trust region", "inside: π is still π_old"]);
  facts.push(["advantage", advantage === null ? "unknown: the step is not whole in the file" : signed(advantage)]);
  return facts;
}

function coefficientWords(segment, t, advantage, objective) {
  if (segment.source === POLICY) return objective.rollout_clip ? "near 1: π_old / π_rollout, clipped" : "1";
  const low = at(segment.tokens.low, t), high = at(segment.tokens.high, t);
  if (low === undefined || advantage === null) return "unknown";
  const value = low === high ? short(low, 4) : `between ${short(low, 4)} and ${short(high, 4)}`;
  return advantage === 0 ? `${value}  (no push: the advantage is 0)` : value;
}

// -- the tip beside a token --------------------------------------------------------------------------------------

function showTip(span) {
  const column = span.closest(".conversation");
  const {body} = column;
  const segment = body.segments[Number(span.dataset.s)];
  const facts = tokenFacts(body.row, segment, Number(span.dataset.t));
  const tip = byId("tip");
  fill(tip, el("dl", {}, facts.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)])));
  if (runOf(body.row).objective && (segment.source === POLICY || segment.source === AGENT)) {
    tip.append(el("p", {}, "As of the first update on its batch."));
  }
  tip.hidden = false;
  const token = span.getClientRects()[0] || span.getBoundingClientRect(), box = tip.getBoundingClientRect();
  const below = token.bottom + 6 + box.height < innerHeight;
  tip.style.left = `${Math.max(4, Math.min(token.left, innerWidth - box.width - 8))}px`;
  tip.style.top = `${below ? token.bottom + 6 : Math.max(4, token.top - box.height - 6)}px`;
  return facts;
}

function hideTip() { byId("tip").hidden = true; }

function startTips() {
  const detail = byId("detail");
  detail.addEventListener("pointerover", (event) => {
    const span = event.target.closest(".token");
    if (span) showTip(span);
    else hideTip();
  });
  detail.addEventListener("pointerleave", hideTip);
  detail.addEventListener("scroll", hideTip, {passive: true, capture: true});
  detail.addEventListener("click", (event) => {
    const span = event.target.closest(".token");
    if (span) moveCursor(span);
  });
}

// -- the token cursor, for the keyboard --------------------------------------------------------------------------

let cursor = null;

function moveCursor(span) {
  if (cursor) cursor.classList.remove("cursor");
  cursor = span;
  if (!span) return hideTip();
  span.classList.add("cursor");
  span.scrollIntoView({block: "nearest"});
  const facts = showTip(span);
  byId("said").textContent = facts.map(([name, value]) => `${name} ${value}`).join(", ");
}

function stepCursor(by) {
  const spans = [...byId("detail").querySelectorAll(".token")];
  if (!spans.length) return;
  const now = cursor && cursor.isConnected ? spans.indexOf(cursor) : -1;
  moveCursor(spans[now < 0 ? (by > 0 ? 0 : spans.length - 1) : Math.max(0, Math.min(spans.length - 1, now + by))]);
}

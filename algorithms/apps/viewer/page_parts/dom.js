// Elements and numbers. Whatever comes from a trace becomes a text node or the value of a plain attribute, never markup.

const SOURCES = ["prompt", "policy", "agent", "template"];
const PROMPT = 0, POLICY = 1, AGENT = 2, TEMPLATE = 3;

function byId(id) { return document.getElementById(id); }

// el("p", {class: "note", title: t}, "text", otherElement, null): strings become text nodes; functions listen to events.
function el(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") node.addEventListener(name, value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  append(node, children);
  return node;
}

function append(node, children) {
  for (const child of children.flat()) {
    if (child !== null && child !== undefined) node.append(child instanceof Node ? child : String(child));
  }
}

function fill(node, ...children) {
  node.replaceChildren();
  append(node, children);
  return node;
}

// 0.5 -> "0.5", 1 -> "1", -0.123456 -> "−0.123"; text (an infinity) stays.
function short(value, digits = 3) {
  if (value === null || value === undefined) return "unknown";
  if (typeof value !== "number") return String(value);
  return value.toFixed(digits).replace(/\.?0+$/, "").replace(/^-0$/, "0").replace("-", "−");
}

function signed(value) {
  return typeof value === "number" && value > 0 ? "+" + short(value) : short(value);
}

function plural(count, word) { return `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`; }

// A helper's colour: the three that come with the library have their own, others one of five by their name.
function agentClass(agent) {
  if (["verify", "knowledge", "reasoning"].includes(agent)) return `agent-${agent}`;
  let sum = 0;
  for (const character of agent) sum = (sum * 31 + character.codePointAt(0)) % 9973;
  return `agent-other${sum % 5}`;
}
function sourceClass(source, agent) { return source === AGENT ? agentClass(agent) : SOURCES[source]; }
function sourceName(source, agent) { return source === AGENT ? agent || "helper" : SOURCES[source]; }

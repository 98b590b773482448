// The list: only the rows on the screen are in the page, whatever their number.

const ROW_HEIGHT = 46;
const list = {items: [], selected: -1, render: null, onSelect: null};

// items: anything; render(item) -> {children, label}; onSelect(item, position) when the user picks another one.
function showItems(items, selected) {
  list.items = items;
  list.selected = selected;
  byId("rows").style.height = `${items.length * ROW_HEIGHT}px`;
  drawRows();
}

function drawRows() {
  const box = byId("list"), rows = byId("rows");
  const first = Math.max(0, Math.floor(box.scrollTop / ROW_HEIGHT) - 4);
  const last = Math.min(list.items.length, Math.ceil((box.scrollTop + box.clientHeight) / ROW_HEIGHT) + 4);
  const drawn = [];
  const wantedRows = new Set();
  for (let k = first; k < last; k++) wantedRows.add(k);
  // The selected row stays in the page for assistive technology, wherever the list is scrolled to.
  if (list.selected >= 0 && list.selected < list.items.length) wantedRows.add(list.selected);
  for (const k of wantedRows) {
    const {children, label, kind} = list.render(list.items[k]);
    const row = el("div", {
      class: `row ${kind || ""}`, role: "option", id: `row-${k}`, "data-k": k, "aria-label": label,
      "aria-selected": k === list.selected ? "true" : "false", "aria-setsize": list.items.length, "aria-posinset": k + 1,
    }, children);
    row.style.transform = `translateY(${k * ROW_HEIGHT}px)`;
    drawn.push(row);
  }
  fill(rows, drawn);
  if (list.selected >= 0) box.setAttribute("aria-activedescendant", `row-${list.selected}`);
  else box.removeAttribute("aria-activedescendant");
}

function select(k, {quiet = false} = {}) {
  if (!list.items.length) return;
  list.selected = Math.max(0, Math.min(list.items.length - 1, k));
  const box = byId("list"), top = list.selected * ROW_HEIGHT;
  if (top < box.scrollTop) box.scrollTop = top;
  else if (top + ROW_HEIGHT > box.scrollTop + box.clientHeight) box.scrollTop = top + ROW_HEIGHT - box.clientHeight;
  drawRows();
  if (!quiet) list.onSelect(list.items[list.selected]);
}

function startList(render, onSelect) {
  Object.assign(list, {render, onSelect});
  byId("list").addEventListener("scroll", () => requestAnimationFrame(drawRows), {passive: true});
  byId("list").addEventListener("click", (event) => {
    const row = event.target.closest(".row");
    if (row) select(Number(row.dataset.k));
  });
  new ResizeObserver(drawRows).observe(byId("list"));
}

// -- what a row shows --------------------------------------------------------------------------------------------

function outcome(i) {
  if (isFault(i) || (text("error", i) && !text("verdict", i))) return ["!", "error", "error"];
  if (text("verdict", i) === "correct") return ["✓", "right", "correct"];
  if (text("verdict", i)) return ["✗", "wrong", text("verdict", i)];
  return ["–", "none", "no answer"];
}

function sampleName(i) {
  const step = number("step", i);
  return `${step === null ? "" : `step ${step} · `}group ${number("group", i)} · sample ${number("sample", i)}`;
}

function renderRow(i) {
  const [mark, kind, word] = outcome(i);
  const agents = agentsOf(i);
  const dots = agents.map((agent) => el("i", {class: `dot ${agentClass(agent)}`, title: agent}));
  const several = runPrefix(i);
  return {
    kind,
    label: `${word}, ${text("task", i)}, ${several}${sampleName(i)}, reward ${short(number("reward", i))}, `
      + `${agents.length ? `asked ${agents.join(", ")}` : number("assisted", i) ? "asked nobody" : "solo"}`,
    children: [
      el("b", {class: "mark", "aria-hidden": "true"}, mark),
      el("span", {class: "task"}, text("task", i)),
      el("span", {class: "reward"}, short(number("reward", i), 2)),
      el("span", {class: "where"}, several + sampleName(i)),
      el("span", {class: "dots"}, dots, number("assisted", i) ? null : el("span", {class: "solo"}, "solo")),
    ],
  };
}

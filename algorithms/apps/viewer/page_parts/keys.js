// The keyboard.

const KEYS = [
  ["j  or  ↓", "next trajectory"],
  ["k  or  ↑", "previous trajectory"],
  ["Home, End, Page Up, Page Down", "in the list"],
  ["Enter", "into the trajectory"],
  ["Esc", "back to the list; out of the search; close this"],
  ["→  and  ←", "in a trajectory: the next and the previous token, with its numbers"],
  ["/", "search"],
  ["f", "filters"],
  ["x", "clear search and filters"],
  ["v,  g,  c", "one trajectory, its group, two checkpoints"],
  ["o", "what the colours show"],
  ["d", "light or dark"],
  ["?", "these keys"],
];

const ACTIONS = {
  j: () => select(list.selected + 1), ArrowDown: () => select(list.selected + 1),
  k: () => select(list.selected - 1), ArrowUp: () => select(list.selected - 1),
  v: () => setView("single"), g: () => setView("group"), c: () => setView("compare"),
  o: () => nextColour(), d: () => nextTheme(), x: () => clearFilters(filtersChanged),
  "/": () => { showList(); byId("search").focus(); byId("search").select(); },
  f: () => {
    showList();
    byId("filters").open = true;
    const first = byId("filter-grid").querySelector("select, input");
    if (first) first.focus();
  },
  "?": () => openHelp(),
};
const IN_LIST = {
  Home: () => select(0), End: () => select(list.items.length - 1),
  PageDown: () => select(list.selected + page()), PageUp: () => select(list.selected - page()),
  Enter: () => enterDetail(),
};
const IN_DETAIL = {ArrowRight: () => stepCursor(1), ArrowLeft: () => stepCursor(-1)};

function page() { return Math.max(1, Math.floor(byId("list").clientHeight / ROW_HEIGHT) - 1); }

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || byId("help").open) return;
  const target = event.target, typing = target.closest("input, select, textarea");
  const inDetail = byId("detail").contains(target);
  if (event.key === "Escape") {
    if (typing && target.id === "search" && target.value) return;  // the field clears itself
    moveCursor(null);
    showList();
    byId("list").focus();
    return;
  }
  if (typing) {
    if (event.key === "Enter" && target.id === "search") byId("list").focus();
    return;
  }
  // Up and down scroll a conversation that has the focus; buttons keep their own keys.
  if (inDetail && ["ArrowDown", "ArrowUp"].includes(event.key)) return;
  const action = (inDetail && IN_DETAIL[event.key]) || (!inDetail && !target.closest("button, summary") && IN_LIST[event.key]) || ACTIONS[event.key];
  if (action) {
    event.preventDefault();
    action();
  }
}

function enterDetail() {
  document.body.dataset.pane = "detail";
  byId("detail").focus();
}

function showList() { document.body.dataset.pane = "list"; }

function openHelp() {
  byId("help").showModal();
}

function startKeys() {
  fill(byId("help"), el("h2", {id: "help-title"}, "Keys"),
    el("dl", {}, KEYS.flatMap(([key, words]) => [el("dt", {}, key), el("dd", {}, words)])),
    el("form", {method: "dialog"}, el("button", {}, "Close")));
  document.addEventListener("keydown", onKey);
}

// Starts the page and keeps list, filters and views in step.

function setView(kind) {
  if (view.kind === kind) return;
  const before = shownRow();
  view.kind = kind;
  for (const button of document.querySelectorAll("[data-view]")) button.setAttribute("aria-pressed", String(button.dataset.view === kind));
  refreshList(before);
}

// The row that is shown, also where the list shows tasks.
function shownRow() {
  const item = list.items[list.selected];
  return typeof item === "object" ? item.left[0] : item;
}

// Shows what passes the filters and keeps the selection where it can.
function refreshList(keep = shownRow()) {
  const compare = view.kind === "compare";
  const items = compare ? comparison() : passing();
  list.render = compare ? renderTask : renderRow;
  const task = keep !== undefined && keep < data.size ? text("task", keep) : null;
  let selected = compare ? items.findIndex((t) => t.task === task) : items.indexOf(keep);
  if (selected < 0) selected = items.length ? 0 : -1;
  showItems(items, selected);
  if (selected >= 0) select(selected, {quiet: true});
  byId("sort").disabled = compare;  // the tasks that changed most stand first
  const filters = numFilters();
  byId("num-filters").textContent = filters ? `(${filters} set)` : "";
  const reading = wanted.query && search.left ? `, ${plural(search.left * data.index.chunk, "text")} still being read` : "";
  byId("count").textContent = compare
    ? `${plural(items.length, "task")} in both`
    : `${items.length.toLocaleString("en")} of ${data.size.toLocaleString("en")}${reading}`;
  showDetail(items[selected]);
}

function filtersChanged() { refreshList(); }

function nextColour() {
  const choice = byId("colour");
  choice.selectedIndex = (choice.selectedIndex + 1) % choice.options.length;
  choice.dispatchEvent(new Event("change"));
  byId("said").textContent = `Colours show ${choice.selectedOptions[0].textContent}`;
}

function nextTheme() {
  const dark = document.documentElement.dataset.theme
    ? document.documentElement.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = dark ? "light" : "dark";
}

function onSelect(item) {
  showDetail(item);
  const row = shownRow();
  if (row !== undefined) history.replaceState(null, "", `#${place(row)}`);
}

function startControls() {
  byId("title").textContent = document.title;
  const field = byId("search");
  field.addEventListener("input", () => { wanted.query = field.value.trim(); refreshList(); });
  fill(byId("sort"), Object.entries(SORTS).map(([id, [name]]) => el("option", {value: id}, name)));
  byId("sort").addEventListener("change", (e) => { wanted.sort = e.target.value; refreshList(); });
  for (const button of document.querySelectorAll("[data-view]")) button.addEventListener("click", () => setView(button.dataset.view));
  byId("colour").addEventListener("change", (e) => { view.colour = e.target.value; showDetail(list.items[list.selected]); });
  byId("theme").addEventListener("click", nextTheme);
  byId("help-button").addEventListener("click", openHelp);
  byId("list").addEventListener("dblclick", enterDetail);
  byId("list").addEventListener("click", (e) => {
    // On a narrow screen a tap opens what it chose.
    if (e.target.closest(".row") && matchMedia("(max-width: 760px)").matches) enterDetail();
  });
  if (matchMedia("(max-width: 760px)").matches) byId("filters").open = false;
}

// -- runs that go on ---------------------------------------------------------------------------------------------

const EVERY = 2000;

async function poll() {
  if (!document.hidden) {
    try {
      const index = await loadIndex();
      say(index.problem || null);
      const row = shownRow(), shown = row === undefined ? null : place(row);
      if (!index.problem && takeIndex(index)) {
        buildFilters(filtersChanged);
        refreshList(data.byPlace.get(shown));
        await readTexts(() => {});
        if (wanted.query) refreshList();
      }
    } catch (error) {
      say("The server does not answer; what is shown stands still.");
    }
  }
  setTimeout(poll, EVERY);
}

function say(problem) {
  byId("live").textContent = problem || "live";
  byId("live").className = problem ? "failure" : "live";
}

async function start() {
  startControls();
  startKeys();
  startTips();
  startList(renderRow, onSelect);
  let index;
  try {
    index = await loadIndex();
    if (index.problem) throw new Error(index.problem);
  } catch (error) {
    fill(byId("detail"), el("p", {class: "failure", role: "alert"}, `The traces cannot be read: ${error.message}`));
    return;
  }
  takeIndex(index);
  buildFilters(filtersChanged);
  refreshList(data.byPlace.get(location.hash.slice(1)));
  byId("list").focus({preventScroll: true});
  document.body.dataset.ready = "list";
  performance.mark("list");
  if (served) say(null);
  // Once the list is on the screen.
  await new Promise((next) => requestAnimationFrame(() => setTimeout(next)));
  await readTexts(() => { if (wanted.query) refreshList(); });
  document.body.dataset.ready = "texts";
  if (served) setTimeout(poll, EVERY);
}

showList();
start();

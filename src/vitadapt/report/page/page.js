// Filters, sorting and the table of runs. Names come from records and are only ever set as text.
const FIRST = 200;
const runs = JSON.parse(document.getElementById("data").textContent);
const filters = [...document.querySelectorAll(".filter")];
const search = document.getElementById("words");
const order = { column: -1, up: true };
let all = false;

function make(kind, text, attributes = {}) {
  const element = document.createElement(kind);
  if (text !== null) element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

// ---- filters: name -> chosen values, for those that leave something out
function chosen() {
  const found = new Map();
  for (const filter of filters) {
    const boxes = [...filter.querySelectorAll("input")];
    const on = boxes.filter((box) => box.checked);
    filter.querySelector(".chosen").textContent = on.length < boxes.length ? `${on.length}/${boxes.length}` : "";
    if (on.length < boxes.length) found.set(filter.dataset.filter, new Set(on.map((box) => box.value)));
  }
  return found;
}

function fits(about, wanted) {
  for (const [name, values] of wanted) if (about[name] !== undefined && !values.has(about[name])) return false;
  return true;
}

function apply() {
  const wanted = chosen();
  const names = filters.map((filter) => `main [data-${filter.dataset.filter}]`);
  if (names.length) {
    for (const element of document.querySelectorAll(names.join(","))) {
      element.classList.toggle("off", !fits(element.dataset, wanted));
    }
  }
  for (const picture of document.querySelectorAll(".picture")) {
    picture.querySelector(".nothing").hidden = picture.querySelector("figure:not(.off)") !== null;
  }
  document.getElementById("reset").hidden = wanted.size === 0 && search.value === "";
  list(wanted);
}

// ---- the table of runs
const table = document.getElementById("runs-table");
const isNumber = runs.columns.map((name) => name in runs.numbers);

function head() {
  const row = make("tr", null);
  runs.columns.forEach((name, index) => {
    const cell = make("th", null, isNumber[index] ? { scope: "col" } : { scope: "col", class: "word" });
    const button = make("button", name, { type: "button" });
    button.addEventListener("click", () => {
      order.up = order.column === index ? !order.up : !isNumber[index];
      order.column = index;
      heading(row, index, order.up);
      list(chosen());
    });
    cell.append(button);
    row.append(cell);
  });
  table.tHead.append(row);
}

function shown(value, index) {
  if (value === null) return "-";
  if (!isNumber[index]) return value;
  const digits = runs.numbers[runs.columns[index]];
  return value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

function line(run) {
  const row = make("tr", null);
  run.cells.forEach((value, index) => {
    row.append(make("td", shown(value, index), isNumber[index] ? {} : { class: "word" }));
  });
  const open = make("button", "+", { type: "button", class: "open", "aria-expanded": "false" });
  open.setAttribute("aria-label", `Details of ${run.cells[1]} on ${run.cells[0]}`);
  open.addEventListener("click", () => {
    const wide = open.getAttribute("aria-expanded") === "true";
    open.setAttribute("aria-expanded", String(!wide));
    open.textContent = wide ? "+" : "−";
    if (wide) row.nextElementSibling.remove();
    else row.after(details(run));
  });
  row.cells[0].prepend(open);
  return row;
}

function details(run) {
  const row = make("tr", null, { class: "details" });
  const cell = make("td", null, { colspan: runs.columns.length });
  const known = make("dl", null);
  for (const name of ["command", "chosen", "time", "notes", "versions", "record"]) {
    const value = Array.isArray(run[name]) ? run[name].join("; ") : run[name];
    if (!value) continue;
    const said = make("dd", null);
    said.append(make(name === "command" ? "code" : "span", value));
    known.append(make("dt", name), said);
  }
  cell.append(known);
  row.append(cell);
  return row;
}

function list(wanted) {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  const text = (run) => run.cells.join(" ").toLowerCase() + " " + Object.values(run.about).join(" ").toLowerCase();
  let rows = runs.rows.filter((run) => fits(run.about, wanted) && words.every((word) => text(run).includes(word)));
  if (order.column >= 0) rows = rows.toSorted((a, b) => compare(a.cells[order.column], b.cells[order.column], order.up));
  const some = all ? rows : rows.slice(0, FIRST);
  table.tBodies[0].replaceChildren(...some.map(line));
  document.getElementById("matching").textContent =
    rows.length === runs.rows.length ? `${rows.length} runs` : `${rows.length} of ${runs.rows.length} runs`;
  document.getElementById("shown").textContent = some.length < rows.length ? `The first ${some.length} of ${rows.length}.` : "";
  document.getElementById("more").hidden = some.length === rows.length;
}

for (const filter of filters) {
  const boxes = [...filter.querySelectorAll("input")];
  filter.addEventListener("change", apply);
  filter.querySelector("[data-all]").addEventListener("click", () => { boxes.forEach((box) => (box.checked = true)); apply(); });
  filter.querySelector("[data-none]").addEventListener("click", () => { boxes.forEach((box) => (box.checked = false)); apply(); });
  filter.addEventListener("toggle", () => { if (filter.open) filters.forEach((other) => { if (other !== filter) other.open = false; }); });
}
document.addEventListener("click", (event) => filters.forEach((filter) => { if (!filter.contains(event.target)) filter.open = false; }));
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  const open = filters.find((filter) => filter.open);
  if (open) { open.open = false; open.querySelector("summary").focus(); }
});
document.getElementById("reset").addEventListener("click", () => {
  document.querySelectorAll(".filter input").forEach((box) => (box.checked = true));
  search.value = "";
  apply();
});
document.getElementById("more").addEventListener("click", () => { all = true; list(chosen()); });
search.addEventListener("input", () => apply());
document.querySelector(".filters").addEventListener("submit", (event) => event.preventDefault());
head();
list(chosen());

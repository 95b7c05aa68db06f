"use strict";
// ---- sorting: numbers as numbers, what is missing last
function key(value) {
  if (value === null || value === "-" || value === "") return null;
  const number = Number.parseFloat(String(value).replaceAll(",", ""));
  return Number.isNaN(number) || !/^[-+.\d]/.test(String(value)) ? String(value) : number;
}

function compare(a, b, up) {
  const [x, y] = [key(a), key(b)];
  if (x === null || y === null) return (x === null) - (y === null);
  const less = typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y));
  return up ? less : -less;
}

function heading(row, index, up) {
  [...row.cells].forEach((cell, i) => {
    if (i === index) cell.setAttribute("aria-sort", up ? "ascending" : "descending");
    else cell.removeAttribute("aria-sort");
  });
}

function sortable(table) {
  const [row, body] = [table.tHead.rows[0], table.tBodies[0]];
  [...row.cells].forEach((cell, index) => {
    cell.querySelector("button").addEventListener("click", () => {
      const up = cell.getAttribute("aria-sort") === null ? cell.classList.contains("word") : cell.getAttribute("aria-sort") !== "ascending";
      const text = (line) => line.cells[index].textContent;
      body.append(...[...body.rows].sort((a, b) => compare(text(a), text(b), up)));
      heading(row, index, up);
    });
  });
}

// ---- light and dark; a page opened from a disk may not be allowed to remember
function theme(value) {
  if (value) document.documentElement.dataset.theme = value;
  else delete document.documentElement.dataset.theme;
}

const themes = document.getElementById("theme");
try {
  themes.value = localStorage.getItem("vitadapt-theme") ?? "";
  theme(themes.value);
} catch { /* nothing is remembered */ }
themes.addEventListener("change", () => {
  theme(themes.value);
  try { localStorage.setItem("vitadapt-theme", themes.value); } catch { /* nothing is remembered */ }
});
document.querySelectorAll(".sortable").forEach(sortable);


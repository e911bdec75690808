// Sort and filter tables, choose what curves are drawn against, hide contenders. Without it all is shown.
"use strict";

/** What a cell is sorted by: a number where it has one, else its text. */
function key(row, column) {
  const cell = row.cells[column];
  return "order" in cell.dataset ? Number(cell.dataset.order) : cell.textContent;
}

/** Numbers by size, an absent one (Infinity) last either way; texts by the alphabet. */
function compare(a, b, sign) {
  if (typeof a === "string") return sign * a.localeCompare(b, undefined, { numeric: true });
  if (a === b) return 0;
  if (a === Infinity || b === Infinity) return a === Infinity ? 1 : -1;
  return sign * (a - b);
}

function sort(table, header) {
  const sign = header.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  for (const other of header.parentNode.cells) other.setAttribute("aria-sort", "none");
  header.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
  const column = header.cellIndex;
  const rows = [...table.tBodies[0].rows];
  rows.sort((a, b) => compare(key(a, column), key(b, column), sign));
  table.tBodies[0].append(...rows);
}

function filter(rows, wanted, count) {
  const words = wanted.toLowerCase().split(/\s+/);
  for (const row of rows) {
    const text = [...row.cells].map((cell) => cell.textContent).join(" ").toLowerCase();
    row.hidden = !words.every((word) => text.includes(word));
  }
  const shown = rows.filter((row) => !row.hidden).length;
  count.textContent = wanted ? `${shown} of ${rows.length} rows` : "";
}

for (const box of document.querySelectorAll(".table")) {
  const table = box.querySelector("table");
  for (const button of table.querySelectorAll("thead button")) {
    button.addEventListener("click", () => sort(table, button.parentNode));
  }
  const input = box.querySelector("input[type=search]");
  const rows = [...table.tBodies[0].rows];
  input?.addEventListener("input", () => filter(rows, input.value, box.querySelector(".count")));
}

for (const figure of document.querySelectorAll("figure.choice")) {
  const views = [...figure.querySelectorAll(".view")];
  const show = (chosen) => views.forEach((view, i) => (view.hidden = i !== Number(chosen)));
  figure.addEventListener("change", (event) => show(event.target.value));
  show(figure.querySelector("input:checked").value);
}

for (const button of document.querySelectorAll(".legend button")) {
  button.addEventListener("click", () => {
    const shown = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(shown));
    const lines = `.figures [data-series="${button.dataset.series}"]`;
    for (const line of button.closest("section").querySelectorAll(lines)) {
      line.style.display = shown ? "" : "none";
    }
  });
}

// Tables: a click on a heading sorts, and on narrow screens each row stands as a list with its headings.
const UNITS = { k: 1e3, M: 1e6, B: 1e9, T: 1e12, P: 1e15 };
function valueOf(cell) {
  const text = cell.dataset.value ?? cell.textContent.trim();
  const found = /^-?[\d.,]+(?:e-?\d+)?/.exec(text);
  if (!found) return null;
  return Number(found[0].replaceAll(",", "")) * (UNITS[text[found[0].length]] ?? 1);
}
function sort(table, column, heading) {
  const falling = heading.ariaSort === "ascending";
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row) => [valueOf(row.cells[column]), row.cells[column].textContent.trim(), row]);
  const numeric = rows.some(([value]) => value !== null) && heading.classList.contains("n");
  rows.sort(([a, left], [b, right]) => {
    if (!numeric) return left.localeCompare(right) * (falling ? -1 : 1);
    // What has no figure stays at the end.
    if (a === null || b === null) return (a === null) - (b === null);
    return (a - b) * (falling ? -1 : 1);
  });
  for (const other of heading.parentNode.cells) other.ariaSort = null;
  heading.ariaSort = falling ? "descending" : "ascending";
  body.append(...rows.map(([, , row]) => row));
}
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  for (const row of table.tBodies[0].rows) {
    [...row.cells].forEach((cell, i) => { cell.dataset.label = headings[i].textContent; });
  }
  table.classList.add("stacks");
  headings.forEach((heading, i) => {
    heading.tabIndex = 0;
    heading.title = "Sort";
    heading.addEventListener("click", () => sort(table, i, heading));
    heading.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); sort(table, i, heading); }
    });
  });
}

"use strict";
// Tables that sort by a click on a heading.

function cellValue(row, column) {
  const text = row.cells[column].textContent.trim();
  const number = parseFloat(text.replace(/[<,*]/g, ""));
  return Number.isNaN(number) ? text : number;
}

function compareValues(one, two) {
  if (typeof one === typeof two) return typeof one === "number" ? one - two : one.localeCompare(two, undefined, { numeric: true });
  return typeof one === "number" ? -1 : 1; // numbers come before what has none
}

function sortTable(heading) {
  const row = heading.parentElement;
  const body = heading.closest("table").tBodies[0];
  const column = [...row.cells].indexOf(heading);
  const order = heading.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
  for (const other of row.cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", order);
  const sign = order === "ascending" ? 1 : -1;
  body.append(...[...body.rows].sort((a, b) => sign * compareValues(cellValue(a, column), cellValue(b, column))));
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("table:not([data-live]) thead button");
  if (button) sortTable(button.closest("th"));
});

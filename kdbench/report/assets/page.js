// Tables are sorted by the buttons in their headings; without scripts they stay in the study's order.
"use strict";

function sortBy(heading, order) {
  const table = heading.closest("table"), body = table.tBodies[0], column = heading.cellIndex;
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", order);
  const sign = order === "ascending" ? 1 : -1, numeric = heading.classList.contains("number");
  const key = row => row.cells[column].dataset.value;
  const rows = [...body.rows].sort((a, b) => {
    const x = key(a), y = key(b);
    if (x === "" || y === "") return (x === "") - (y === ""); // what is unknown goes last, either way
    return sign * (numeric ? x - y : x.localeCompare(y, "en", {numeric: true}));
  });
  body.append(...rows);
}

document.addEventListener("click", event => {
  const heading = event.target.closest("thead button")?.parentElement;
  if (!heading) return;
  const before = heading.getAttribute("aria-sort");
  const first = heading.classList.contains("number") ? "descending" : "ascending"; // the largest numbers first
  const other = first === "ascending" ? "descending" : "ascending";
  sortBy(heading, before === first ? other : first);
});

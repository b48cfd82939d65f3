"use strict";
// Tables sort by their heads and filter by words. Without this script they are plain tables.

function sortKey(cell) {
  if (cell.classList.contains("n")) return cell.dataset.v === undefined ? null : Number(cell.dataset.v.replace("inf", "Infinity"));
  return cell.textContent === "" ? null : cell.textContent;
}

// Empty cells stay at the end, and equal rows in their order.
function sortRows(table, column, direction) {
  const keyed = [...table.tBodies[0].rows].map((row) => [sortKey(row.cells[column]), row]);
  keyed.sort(([a], [b]) => {
    if (a === null || b === null) return (a === null) - (b === null);
    return direction * (typeof a === "number" ? a - b || 0 : a.localeCompare(b, "en", { numeric: true }));
  });
  table.tBodies[0].append(...keyed.map(([, row]) => row));
  [...table.tHead.rows[0].cells].forEach((head, number) => {
    if (number === column) head.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
    else head.removeAttribute("aria-sort");
  });
}

function filterRows(table, text, output) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean), rows = [...table.tBodies[0].rows];
  for (const row of rows) row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
  const shown = rows.filter((row) => !row.hidden).length;
  output.textContent = words.length ? `${shown} of ${rows.length} rows` : "";
}

function addFilter(figure, table) {
  const tools = document.createElement("div"), label = document.createElement("label"), input = document.createElement("input");
  const output = document.createElement("output");
  tools.className = "tools";
  input.type = "search";
  input.setAttribute("aria-label", `Filter: ${figure.querySelector("figcaption").textContent}`);
  label.append("Filter ", input);
  tools.append(label, output);
  figure.querySelector(".scroll").before(tools);
  input.addEventListener("input", () => filterRows(table, input.value, output));
}

const FILTERED_FROM = 6; // rows; shorter tables are seen at a glance

function enhance(root) {
  for (const figure of root.querySelectorAll("figure.table")) {
    const table = figure.querySelector("table"), rows = table.tBodies[0].rows.length;
    if (rows < 2) continue;
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => sortRows(table, column, head.getAttribute("aria-sort") === "ascending" ? -1 : 1));
    });
    if (rows >= FILTERED_FROM) addFilter(figure, table);
  }
}

enhance(document);

// What is folded on the screen stands open on paper.
addEventListener("beforeprint", () => {
  for (const part of document.querySelectorAll("details:not([open])")) part.dataset.folded = part.open = true;
});
addEventListener("afterprint", () => {
  for (const part of document.querySelectorAll("details[data-folded]")) part.open = false;
});

"use strict";
(() => {
  const root = document.documentElement;
  addEventListener("error", (event) => { root.dataset.error = event.message; });
  document.addEventListener("securitypolicyviolation", (event) => { root.dataset.error = event.violatedDirective; });

  /* What a cell is sorted by: its number, or its words; null where there is nothing. */
  const key = (row, column) => {
    const cell = row.cells[column];
    const value = cell.dataset.sort ?? cell.textContent.trim();
    if (value === "" || value === "null" || value === "–") return null;
    return cell.dataset.sort === undefined ? value.toLowerCase() : Number(value);
  };

  const compare = (a, b) => (typeof a === "number" ? a - b : a.localeCompare(b));

  /* Rows without a value stay last, whichever way the others are sorted. */
  const sort = (table, column, direction) => {
    const sign = direction === "ascending" ? 1 : -1;
    const rows = [...table.tBodies[0].rows].map((row) => [row, key(row, column)]);
    rows.sort(([, a], [, b]) => {
      if (a === null || b === null) return (a === null) - (b === null);
      return sign * compare(a, b);
    });
    table.tBodies[0].append(...rows.map(([row]) => row));
    for (const [place, heading] of [...table.tHead.rows[0].cells].entries()) {
      heading.removeAttribute("aria-sort");
      if (place === column) heading.setAttribute("aria-sort", direction);
    }
  };

  for (const table of document.querySelectorAll("table.sortable")) {
    for (const [column, heading] of [...table.tHead.rows[0].cells].entries()) {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...heading.childNodes);
      heading.append(button);
      const first = heading.classList.contains("num") && column > 0 ? "descending" : "ascending";
      const other = first === "ascending" ? "descending" : "ascending";
      button.addEventListener("click", () => {
        sort(table, column, heading.getAttribute("aria-sort") === first ? other : first);
      });
    }
  }

  /* A link can ask for an order: #sort=1 is as a click on the second heading, #sort=1,1 as two. */
  const asked = /^#sort=([\d,]+)$/.exec(location.hash);
  for (const column of asked ? asked[1].split(",") : []) {
    document.querySelectorAll("table.sortable thead button")[Number(column)]?.click();
  }
  root.dataset.ready = "yes";
})();

"use strict";
(() => {
  const quiet = { labelColor: "currentColor", titleColor: "currentColor", titleFontWeight: 500, labelFontSize: 12, titleFontSize: 12 };
  const config = {
    background: null,
    font: "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif",
    view: { stroke: null },
    axis: { ...quiet, gridColor: "currentColor", gridOpacity: 0.12, domainColor: "currentColor", domainOpacity: 0.3, tickColor: "currentColor", tickOpacity: 0.3, labelLimit: 140 },
    legend: { ...quiet, labelLimit: 140 },
    text: { fill: "currentColor" },
    rule: { color: "currentColor" },
    line: { strokeWidth: 2 },
    range: { category: ["#2f7ed8", "#e08a1e", "#2a9d74", "#c45ba0", "#d1495b", "#8a6fd1", "#4fb3bf", "#a08a3c", "#7d8a97", "#b7653e"] },
  };
  const charts = JSON.parse(document.getElementById("charts").textContent);
  for (const place of document.querySelectorAll("[data-chart]")) {
    vegaEmbed(place, charts[place.dataset.chart], { actions: false, renderer: "svg", config }).then(
      () => place.setAttribute("data-drawn", ""),
      (error) => { place.textContent = "This chart could not be drawn."; console.error(error); },
    );
  }

  const key = (row, column) => {
    const cell = row.children[column];
    return cell.dataset.key ?? cell.textContent;
  };
  const compare = (a, b) => {
    const [x, y] = [Number(a), Number(b)];
    return a !== "" && b !== "" && !Number.isNaN(x) && !Number.isNaN(y) ? x - y : a.localeCompare(b, "en", { numeric: true });
  };
  const sort = (table, head) => {
    const column = [...head.parentNode.children].indexOf(head);
    const before = head.getAttribute("aria-sort");
    const first = head.classList.contains("number") ? "descending" : "ascending";
    const other = first === "ascending" ? "descending" : "ascending";
    const order = before === first ? other : first;
    for (const one of head.parentNode.children) one.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", order);
    const sign = order === "ascending" ? 1 : -1;
    const rows = [...table.tBodies[0].rows].map((row) => [key(row, column), row]);
    rows.sort(([a], [b]) => (a === "" || b === "" ? (a === "") - (b === "") : sign * compare(a, b)));
    table.tBodies[0].append(...rows.map(([, row]) => row));
  };
  for (const button of document.querySelectorAll(".sortable th button")) {
    button.addEventListener("click", () => sort(button.closest("table"), button.closest("th")));
  }
})();

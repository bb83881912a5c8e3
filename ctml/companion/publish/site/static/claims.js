// Sorts and filters the table of claims. Without it the table is whole and in the order of the papers.
document.querySelectorAll(".claims").forEach((claims) => {
  const body = claims.querySelector("tbody");
  const rows = [...body.rows];
  const heads = [...claims.querySelectorAll("thead th")];
  const names = heads.map((head) => head.textContent);
  const value = (row, column) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();

  const filter = () => {
    const words = claims.querySelector("[data-search]").value.toLowerCase();
    const wanted = [...claims.querySelectorAll("select")].filter((s) => s.value);
    rows.forEach((row) => {
      row.hidden = !row.textContent.toLowerCase().includes(words) ||
        wanted.some((s) => value(row, names.indexOf(s.dataset.column)) !== s.value);
    });
    claims.querySelector("[data-count]").textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length}`;
  };

  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const direction = head.ariaSort === "ascending" ? -1 : 1;
    heads.forEach((other) => { other.ariaSort = "none"; });
    head.ariaSort = direction > 0 ? "ascending" : "descending";
    const sorted = [...rows].sort((a, b) =>
      direction * value(a, column).localeCompare(value(b, column), "en", { numeric: true }));
    body.append(...sorted);
  }));
  claims.querySelector("form").addEventListener("input", filter);
  claims.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
  filter();
});

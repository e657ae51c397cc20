// Tables that sort by a column: reference rows stay at the top, rows without a rank at the end.
const PLACES = { first: 0, last: 2 };

function sortKey(cell) {
  const text = cell.dataset.sort;
  return text === "" || text === undefined ? null : Number(text);
}

function compare(place, sign) {
  return (one, other) => {
    const groups = [one, other].map((row) => PLACES[row.dataset.place] ?? 1);
    if (groups[0] !== groups[1]) return groups[0] - groups[1];
    if (groups[0] === 0) return 0;
    const [a, b] = [one, other].map((row) => sortKey(row.cells[place]));
    if (a === null || b === null) return (a === null) - (b === null); // missing after all numbers
    return sign * (a - b);
  };
}

function sortBy(head) {
  const table = head.closest("table");
  const rising = head.getAttribute("aria-sort") !== "ascending";
  for (const each of table.tHead.rows[0].cells) each.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", rising ? "ascending" : "descending");
  const rows = [...table.tBodies[0].rows].sort(compare(head.cellIndex, rising ? 1 : -1));
  table.tBodies[0].append(...rows);
  say(`Sorted by ${head.querySelector(".sort").textContent}, ${rising ? "rising" : "falling"}.`);
}

for (const button of document.querySelectorAll(".sortable .sort"))
  button.addEventListener("click", () => sortBy(button.closest("th")));

for (const button of document.querySelectorAll(".save-records")) {
  button.hidden = false;
  button.addEventListener("click", async () => {
    const text = await unpackText(button.dataset.records);
    save("results.jsonl", new Blob([text], { type: "application/jsonl" }));
  });
}

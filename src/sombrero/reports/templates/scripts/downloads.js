// The numbers of every figure, one click away: written here, from what the page holds.
(() => {
  const manifoldTable = () => {
    const kinds = ["harmless", "harmful", "unit", "harmless, edited", "harmful, edited"];
    const rows = data.manifold.states.flatMap((state) =>
      kinds.flatMap((kind, part) => (state.x[part] || []).map((x, i) => [state.index, kind, i, x, state.y[part][i]])),
    );
    return { columns: ["state", "kind", "number", "x", "y"], rows };
  };
  const mapTable = () => {
    const people = data.map.people;
    const told = (state, unit) => {
      if (people === null || people.index !== state.index) return null;
      return people.units[unit].map(([name, count]) => `${name} ${count}`).join("; ");
    };
    const rows = data.map.states.flatMap((s) =>
      s.hits.map((hits, unit) => [
        s.index, unit, hits, s.rank[unit], s.u[unit], s.auroc[unit], s.low[unit], s.high[unit], s.odds[unit], told(s, unit),
      ]),
    );
    const measures = ["hits", "salience_rank", "neighbour_distance", "auroc", "auroc_low", "auroc_high", "log_odds"];
    return { columns: ["state", "unit", ...measures, "categories"], rows };
  };
  const made = { map: mapTable, manifold: manifoldTable };
  const table = (name) => (made[name] ? made[name]() : data.tables[name]);

  // A spreadsheet takes a text that begins with one of these signs for a formula: an apostrophe keeps it a text.
  const cell = (value) => {
    if (value === null) return "";
    if (typeof value === "number") return String(value);
    return '"' + (/^[=+\-@\t\r]/.test(value) ? "'" + value : value).replaceAll('"', '""') + '"';
  };
  const forms = {
    csv: ({ columns, rows }) => ["\ufeff" + columns.map(cell).join(","), ...rows.map((row) => row.map(cell).join(",")), ""].join("\r\n"),
    json: ({ columns, rows }) =>
      JSON.stringify(rows.map((row) => Object.fromEntries(row.map((value, i) => [columns[i], value]))), null, 1) + "\n",
  };
  const types = { csv: "text/csv", json: "application/json" };

  for (const button of document.querySelectorAll("button[data-table]")) {
    const { table: name, form } = button.dataset;
    button.parentElement.hidden = false;
    button.addEventListener("click", () => {
      const link = document.createElement("a");
      const address = URL.createObjectURL(new Blob([forms[form](table(name))], { type: types[form] + ";charset=utf-8" }));
      link.href = address;
      link.download = `${name}.${form}`;
      link.click();
      setTimeout(() => URL.revokeObjectURL(address), 60_000);
    });
  }
})();

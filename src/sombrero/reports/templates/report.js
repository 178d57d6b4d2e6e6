"use strict";
(() => {
  const data = JSON.parse(document.getElementById("report-data").textContent);
  const byId = (id) => document.getElementById(id);

  // On paper a chart is as wide as the page, without being drawn anew: its style sheet scales what has a viewBox.
  const scalable = (place) => {
    for (const svg of place.querySelectorAll(".main-svg")) {
      svg.setAttribute("viewBox", `0 0 ${svg.getAttribute("width")} ${svg.getAttribute("height")}`);
      svg.setAttribute("preserveAspectRatio", "xMinYMin meet");
    }
  };
  for (const [name, figure] of Object.entries(data.charts)) {
    const place = byId("chart-" + name);
    Plotly.newPlot(place, figure.data, figure.layout, { responsive: true, displayModeBar: false });
    place.on("plotly_afterplot", () => scalable(place));
    scalable(place);
  }

  const map = data.map;
  if (!map) return;
  const units = [...document.querySelectorAll(".unit")];
  const slider = byId("map-slider");
  const drawing = byId("map-drawing");
  const tip = byId("map-tip");
  let state = map.states[map.start];

  const precise = (value) => (value === null ? "–" : String(Number(value.toPrecision(4))));
  const fixed = (value) => (value === null ? "–" : value.toFixed(3));

  const lines = (unit) => {
    const total = state.hits.reduce((sum, hits) => sum + hits, 0);
    const share = total ? (100 * state.hits[unit]) / total : 0;
    const row = Math.floor(unit / map.n_columns) + 1;
    return [
      `Unit ${unit} (row ${row}, column ${(unit % map.n_columns) + 1}): ` +
        `${state.hits[unit]} of ${total} hits (${share.toFixed(1)}%)`,
      `salience rank ${state.rank[unit]}`,
      `AUROC ${fixed(state.auroc[unit])}`,
      `mean distance to neighbours ${precise(state.u[unit])}`,
    ];
  };

  const colour = (value, low, high) => {
    const last = map.colours.length - 1;
    if (value === null) return map.colours[0];
    return map.colours[Math.round((high > low ? (value - low) / (high - low) : 0.5) * last)];
  };

  const show = (place) => {
    state = map.states[place];
    const known = state.u.filter((value) => value !== null);
    const low = Math.min(...known);
    const high = Math.max(...known);
    const most = Math.max(...state.hits);
    units.forEach((group, unit) => {
      const hits = state.hits[unit];
      const scale = hits > 0 ? Math.max(map.marks[1], map.marks[0] * Math.sqrt(hits / most)) : 0;
      group.querySelector(".cell").setAttribute("fill", colour(state.u[unit], low, high));
      group.querySelector(".hits").setAttribute("transform", `scale(${scale.toFixed(3)})`);
      group.querySelector("text").textContent = String(hits);
      group.setAttribute("aria-label", lines(unit).join(", "));
    });
    byId("map-state").textContent = state.name;
    byId("map-single").textContent = fixed(state.single);
    byId("map-low").textContent = known.length ? precise(low) : "–";
    byId("map-high").textContent = known.length ? precise(high) : "–";
    slider.setAttribute("aria-valuetext", state.name);
  };

  const point = (group) => {
    tip.textContent = lines(Number(group.dataset.unit)).join("\n");
    tip.hidden = false;
    const frame = drawing.getBoundingClientRect();
    const cell = group.getBoundingClientRect();
    const left = cell.left + cell.width / 2 - frame.left - tip.offsetWidth / 2;
    tip.style.left = Math.max(0, Math.min(left, frame.width - tip.offsetWidth)) + "px";
    const above = cell.top - frame.top - tip.offsetHeight - 6;
    tip.style.top = (above >= -frame.top ? above : cell.bottom - frame.top + 6) + "px";
  };
  const hide = () => { tip.hidden = true; };

  const moves = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -map.n_columns, ArrowDown: map.n_columns };
  units.forEach((group, unit) => {
    group.addEventListener("mouseenter", () => point(group));
    group.addEventListener("mouseleave", hide);
    group.addEventListener("click", () => { group.focus(); point(group); });
    group.addEventListener("focus", () => point(group));
    group.addEventListener("blur", hide);
    group.addEventListener("keydown", (event) => {
      if (event.key === "Escape") hide();
      const next = units[unit + moves[event.key]];
      if (!(event.key in moves)) return;
      event.preventDefault();
      if (!next) return;
      group.setAttribute("tabindex", "-1");
      next.setAttribute("tabindex", "0");
      next.focus();
    });
  });
  slider.addEventListener("input", () => { hide(); show(Number(slider.value)); });
  slider.value = String(map.start);
})();

// The manifold: another state index, the same traces.
(() => {
  const manifold = data.manifold;
  if (!manifold) return;
  const slider = byId("manifold-slider");
  const edges = (values) => manifold.pairs.flatMap(([one, other]) => [values[one], values[other], null]);
  const ways = (before, after) => after.flatMap((value, i) => [before[i], value, null]);
  const traces = ([harmless, harmful, units, ...edited]) => {
    const moved = edited.length ? [ways(edited[2], edited[1]), edited[0], edited[1]] : [];
    return [harmless, harmful, ...moved, edges(units), units];
  };
  const show = () => {
    const state = manifold.states[Number(slider.value)];
    charts.change("manifold", traces(state.x), traces(state.y));
    byId("manifold-state").textContent = state.name;
    byId("manifold-share").textContent = state.share;
    slider.setAttribute("aria-valuetext", state.name);
  };
  slider.addEventListener("input", show);
  slider.value = slider.defaultValue;
})();


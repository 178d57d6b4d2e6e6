// The map: another state index or plane, and what a unit is about, by mouse, finger and keyboard.
function mapExplorer() {
  const map = data.map;
  if (!map) return;
  const units = [...document.querySelectorAll(".unit")];
  const between = byId("map-between");
  const links = [...between.children];
  const slider = byId("map-slider");
  const drawing = byId("map-drawing");
  const tip = byId("map-tip");
  const people = map.people;
  let state = map.states[map.start];
  let plane = "distance";

  const precise = (value) => (value === null ? "–" : String(Number(value.toPrecision(4))));
  const fixed = (value) => (value === null ? "–" : value.toFixed(3));
  const minus = (text) => text.replace("-", "−");
  const spread = (values) => {
    const known = values.filter((value) => value !== null);
    return known.length ? [Math.min(...known), Math.max(...known)] : [null, null];
  };
  const shade = (value, [low, high]) => {
    if (value === null) return -1;
    return Math.round((high > low ? (value - low) / (high - low) : 0.5) * (map.shades.length - 1));
  };
  const fill = (place) => (place < 0 ? map.unknown : map.shades[place]);
  const mark = (hits, most) => (hits > 0 ? Math.max(map.marks[1], map.marks[0] * Math.sqrt(hits / most)) : 0);
  const known = () => people !== null && people.index === state.index;

  const planes = {
    distance: {
      values: () => state.u,
      about: "Fill: distance between neighbours, and of each unit its mean (U-matrix), scaled anew at each state index; " +
        "darker is farther. White mark and number: training prompts whose best unit it is.",
    },
    hits: { values: () => state.hits, text: String, about: "Training prompts whose best unit it is; darker is more." },
    auroc: {
      values: () => state.auroc,
      text: (value) => value.toFixed(2),
      about: "How well the unit's direction separates harmful from harmless held-out prompts; darker is better.",
    },
    odds: {
      values: () => state.odds,
      text: (value) => minus((Math.round(10 * value) / 10 + 0).toFixed(1)),
      about: "Mean log-odds that the answers to the unit's prompts begin with a refusal; darker is more.",
    },
    category: {
      values: () => state.hits.map(() => null),
      about: "The most frequent category among the unit's prompts.",
    },
  };

  const lines = (unit) => {
    const total = state.hits.reduce((sum, hits) => sum + hits, 0);
    const share = total ? (100 * state.hits[unit]) / total : 0;
    const row = Math.floor(unit / map.n_columns) + 1;
    const interval =
      state.low[unit] === null ? "" : ` (95% interval ${fixed(state.low[unit])}–${fixed(state.high[unit])})`;
    const told = [
      `Unit ${unit} (row ${row}, column ${(unit % map.n_columns) + 1}): ` +
        `${state.hits[unit]} of ${total} hits (${share.toFixed(1)}%)`,
      `salience rank ${state.rank[unit]}`,
      `AUROC ${fixed(state.auroc[unit])}${interval}`,
      `mean distance to neighbours ${precise(state.u[unit])}`,
    ];
    if (state.odds[unit] !== null) told.push(`mean refusal log-odds ${minus(state.odds[unit].toFixed(2))}`);
    if (known() && people.units[unit].length) {
      told.push("categories: " + people.units[unit].map(([name, count]) => `${name} ${count}`).join(", "));
    }
    return told;
  };

  const paintCategories = () => {
    units.forEach((group, unit) => {
      const letter = known() ? people.letters[unit] : "";
      const place = letter === "…" ? people.fills.length - 1 : letter.charCodeAt(0) - 65;
      const cell = group.querySelector(".cell");
      cell.setAttribute("fill", letter ? people.fills[place] : map.unknown);
      const text = group.querySelector("text");
      text.textContent = letter;
      text.setAttribute("class", letter && people.inks[place] === "#ffffff" ? "light" : "dark");
    });
    if (!known()) byId("map-about").textContent = `Known at state ${people.index} alone: move the slider there.`;
  };

  const paintValues = (values, range, text) => {
    units.forEach((group, unit) => {
      const place = shade(values[unit], range);
      group.querySelector(".cell").setAttribute("fill", fill(place));
      const label = group.querySelector("text");
      label.textContent = values[unit] === null ? "–" : text(values[unit]);
      label.setAttribute("class", place >= 0 && map.inks[place] === "#ffffff" ? "light" : "dark");
    });
  };

  const paintDistances = (range) => {
    const most = Math.max(...state.hits);
    units.forEach((group, unit) => {
      group.querySelector(".cell").setAttribute("fill", fill(shade(state.u[unit], range)));
      const scale = 0.5 * mark(state.hits[unit], most);
      group.querySelector(".hits").setAttribute("transform", `scale(${scale.toFixed(3)})`);
      const label = group.querySelector("text");
      label.textContent = state.hits[unit] || "";
      label.setAttribute("class", "small");
    });
    links.forEach((link, i) => link.setAttribute("fill", fill(shade(state.between[i], range))));
  };

  const show = (place) => {
    state = map.states[place];
    const isDistance = plane === "distance";
    const values = planes[plane].values();
    const range = isDistance ? spread([...state.u, ...state.between]) : spread(values);
    if (plane === "hits") range[0] = 0;
    byId("map-about").textContent = planes[plane].about;
    between.toggleAttribute("hidden", !isDistance);
    units.forEach((group, unit) => {
      group.querySelector(".cell").setAttribute("transform", `scale(${isDistance ? 0.5 : 1})`);
      group.querySelector(".hits").toggleAttribute("hidden", !isDistance);
      group.setAttribute("aria-label", lines(unit).join(", "));
    });
    if (isDistance) paintDistances(range);
    else if (plane === "category") paintCategories();
    else paintValues(values, range, planes[plane].text);
    byId("map-low").textContent = minus(precise(range[0]));
    byId("map-high").textContent = minus(precise(range[1]));
    for (const name of ["low", "ramp", "high"]) byId("map-" + name).hidden = plane === "category";
    byId("map-keys").hidden = plane !== "category";
    byId("map-state").textContent = state.name;
    byId("map-single").textContent = fixed(state.single);
    slider.setAttribute("aria-valuetext", state.name);
    [...byId("map-strip").children].forEach((item, i) => item.setAttribute("aria-pressed", String(i === place)));
  };

  const element = (name, attributes) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  };
  const path = (unit, size) => {
    const [x, y] = map.points[unit];
    return "M" + map.corners.map(([dx, dy]) => `${(x + size * dx).toFixed(1)} ${(y + size * dy).toFixed(1)}`).join("L") + "Z";
  };
  const small = (found, place) => {
    const item = document.createElement("button");
    item.type = "button";
    item.setAttribute("aria-label", `${found.name}, single direction AUROC ${fixed(found.single)}`);
    const svg = element("svg", { viewBox: map.box.join(" "), "aria-hidden": "true" });
    const range = spread(found.u);
    const byShade = new Map();
    found.u.forEach((value, unit) => {
      const colour = fill(shade(value, range));
      byShade.set(colour, (byShade.get(colour) || "") + path(unit, 0.97));
    });
    for (const [colour, shape] of byShade) svg.append(element("path", { d: shape, fill: colour, class: "still" }));
    const most = Math.max(...found.hits);
    const marks = found.hits.map((hits, unit) => (hits ? path(unit, mark(hits, most)) : "")).join("");
    svg.append(element("path", { d: marks, class: "hits" }));
    const caption = document.createElement("span");
    const index = document.createElement("b");
    index.textContent = String(found.index);
    caption.append(index, " ", found.single === null ? "–" : found.single.toFixed(3));
    item.append(caption, svg);
    item.addEventListener("click", () => { slider.value = String(place); hide(); show(place); });
    return item;
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
  function hide() { tip.hidden = true; }

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
  if (people !== null) {
    [...people.keys, ["…", "another category"]].forEach(([letter, name], i) => {
      const item = document.createElement("li");
      const swatch = document.createElement("b");
      const place = letter === "…" ? people.fills.length - 1 : i;
      swatch.textContent = letter;
      swatch.style.background = people.fills[place];
      swatch.style.color = people.inks[place];
      item.append(swatch, " ", name);
      byId("map-keys").append(item);
    });
  }
  byId("map-strip").append(...map.states.map(small));
  slider.addEventListener("input", () => { hide(); show(Number(slider.value)); });
  for (const choice of document.querySelectorAll("input[name=plane]")) {
    choice.addEventListener("change", () => { plane = choice.value; hide(); show(Number(slider.value)); });
    choice.checked = choice.value === plane;
  }
  slider.value = String(map.start);
  show(map.start);
}
mapExplorer();


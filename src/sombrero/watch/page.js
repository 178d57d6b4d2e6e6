// Draws what /events tells. All text goes in as text, never as markup: names, errors and settings come from outside.
"use strict";

const MOST_ROWS = 500;
const at = (id) => document.getElementById(id);
const trials = [];
let last = null;

function element(name, text, kind) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

function drawn(name, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

const share = (count) => `${count.count}/${count.n}`;
const figure = (value) => (value === null || value === undefined ? "–" : Number(value).toPrecision(3));

function span(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  return whole < 120 ? `${whole} s` : whole < 7200 ? `${Math.round(whole / 60)} min` : `${(whole / 3600).toFixed(1)} h`;
}

function refusals(trial) {
  if (trial.refusals !== null) {
    return `${trial.refusals}/${trial.n}` + (trial.n_true ? `, ${trial.lost ?? "?"}/${trial.n_true} lost` : "");
  }
  return trial.predicted === null ? "–" : `≈${trial.predicted}/${trial.n}`;
}

function showNow(run) {
  const now = run.now;
  const bar = at("bar");
  bar.hidden = true;
  if (!now || !now.stage) {
    at("now").textContent = run.summary ? "This run is finished." : "No stage is running.";
    return;
  }
  const elapsed = now.updated - now.started;
  let text = `${now.stage}: ${span(elapsed)}`;
  if (now.total) {
    bar.hidden = false;
    bar.max = now.total;
    bar.value = now.done;
    text += `, ${now.done} of ${now.total}`;
    if (now.done > 0 && now.done < now.total) text += `, about ${span((elapsed / now.done) * (now.total - now.done))} left`;
  }
  const silent = run.clock - now.updated + (Date.now() - run.received) / 1000;
  at("now").textContent = text + (silent > 30 ? `. Last sign of life ${span(silent)} ago.` : "");
}

function showFigures(run) {
  const lines = [];
  if (run.base) lines.push(["base, search prompts", `refusals ${share(run.base)}`]);
  const best = trials.find((trial) => trial.number === run.best);
  if (best) lines.push([`best so far, trial ${best.number}`, `refusals ${refusals(best)}, KL ${figure(best.kl)}`]);
  for (const [name, found] of Object.entries(run.summary ?? {})) {
    const kl = found.kl === null ? "" : `, KL ${figure(found.kl)}`;
    lines.push([`${name}, reporting prompts`, `refusals ${share(found.refusals)}${kl}`]);
  }
  at("figures").replaceChildren(...lines.flatMap(([name, value]) => [element("dt", name), element("dd", value)]));
}

function showTrials(run) {
  const front = new Set(run.front);
  const rows = trials.slice(-MOST_ROWS).reverse().map((trial) => {
    const row = element("tr", undefined, front.has(trial.number) ? "front" : "");
    const marks = [trial.state, ...(front.has(trial.number) ? ["front"] : []), ...(trial.number === run.best ? ["best"] : [])];
    const edit = trial.error ?? `${trial.rule}, ${trial.units === "single" ? "single" : `units ${trial.units}`}`;
    for (const text of [trial.number, refusals(trial), figure(trial.kl), marks.join(", "), edit]) row.append(element("td", text));
    return row;
  });
  at("trials").replaceChildren(...rows);
  const more = trials.length > MOST_ROWS ? `; the last ${MOST_ROWS} are listed` : "";
  at("count").textContent = `${trials.length} of ${run.planned} trials${more}`;
}

function showPlot(run) {
  const plot = at("plot");
  const left = 50, right = 620, top = 15, bottom = 270;
  const shown = trials.filter((trial) => trial.kl !== null);
  const logs = shown.map((trial) => Math.log10(Math.max(trial.kl, 1e-4)));
  const low = Math.floor(Math.min(0, ...logs)), high = Math.ceil(Math.max(low + 1, ...logs));
  const x = (kl) => left + ((Math.log10(Math.max(kl, 1e-4)) - low) / (high - low)) * (right - left);
  const y = (rate) => bottom - rate * (bottom - top);
  const parts = [
    drawn("line", { class: "axis", x1: left, y1: bottom, x2: right, y2: bottom }),
    drawn("line", { class: "axis", x1: left, y1: top, x2: left, y2: bottom }),
    drawn("text", { x: (left + right) / 2, y: 312, "text-anchor": "middle" }, "first-token KL (nats, log scale)"),
    drawn("text", { x: left + 6, y: top + 4 }, run.goal === "calibrate" ? "false refusals" : "refusals"),
  ];
  for (let power = low; power <= high; power += 1) {
    parts.push(drawn("text", { x: x(10 ** power), y: bottom + 18, "text-anchor": "middle" }, `${Number((10 ** power).toPrecision(1))}`));
  }
  for (const rate of [0, 0.5, 1]) parts.push(drawn("text", { x: left - 6, y: y(rate) + 4, "text-anchor": "end" }, `${100 * rate}%`));
  for (const trial of shown) {
    const kind = trial.state === "generated" ? "dot" : "screened";
    const mark = drawn("circle", { class: kind, cx: x(trial.kl), cy: y(trial.rate), r: 4 });
    mark.append(drawn("title", {}, `trial ${trial.number}: refusals ${refusals(trial)}, KL ${figure(trial.kl)}`));
    parts.push(mark);
  }
  const byNumber = new Map(shown.map((trial) => [trial.number, trial]));
  const front = run.front.map((number) => byNumber.get(number)).filter(Boolean);
  if (front.length) {
    const steps = front.map((trial, place) => (place ? `H ${x(trial.kl)} V ${y(trial.rate)}` : `M ${x(trial.kl)} ${y(trial.rate)}`));
    parts.push(drawn("path", { class: "front", d: steps.join(" ") }));
  }
  const best = byNumber.get(run.best);
  if (best) parts.push(drawn("circle", { class: "best", cx: x(best.kl), cy: y(best.rate), r: 9 }));
  plot.replaceChildren(...parts);
}

function show(run) {
  at("problem").hidden = !run.problem;
  at("problem").textContent = run.problem ?? "";
  if (run.problem) {
    trials.length = 0;
    return;
  }
  run.received = Date.now();
  trials.length = run.from;
  trials.push(...run.trials);
  last = run;
  document.title = `${run.name} – Sombrero`;
  at("title").textContent = run.name;
  at("model").textContent = `${run.model}, goal ${run.goal}`;
  at("report").hidden = !run.report;
  at("stages").replaceChildren(...run.stages.map((stage) => {
    const row = element("tr");
    row.append(element("td", stage.name), element("td", Number(stage.seconds).toFixed(1)));
    return row;
  }));
  for (const id of ["front", "search"]) at(id).hidden = trials.length === 0; // axes around nothing say nothing
  showNow(run);
  showFigures(run);
  showTrials(run);
  showPlot(run);
}

const source = new EventSource("/events");
source.onopen = () => { at("link").textContent = "live"; };
source.onerror = () => { at("link").textContent = "connection lost; trying again"; };
source.onmessage = (event) => show(JSON.parse(event.data));
setInterval(() => { if (last) showNow(last); }, 5000);

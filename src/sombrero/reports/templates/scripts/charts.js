// Charts are drawn when they come near the window, the rest while the reader is idle: the page is usable before.
const charts = (() => {
  const waiting = new Map(Object.entries(data.charts));
  const place = (name) => byId("chart-" + name);

  const load = () => {
    if (window.Plotly) return;
    const source = byId("chart-library");
    const code = document.createElement("script");
    code.textContent = source.textContent; // the page's policy allows exactly this text
    document.head.append(code);
    source.remove();
  };
  // On paper a chart is as wide as the page, without being drawn anew: its style sheet scales what has a viewBox.
  const scalable = (chart) => {
    for (const svg of chart.querySelectorAll(".main-svg")) {
      svg.setAttribute("viewBox", `0 0 ${svg.getAttribute("width")} ${svg.getAttribute("height")}`);
      svg.setAttribute("preserveAspectRatio", "xMinYMin meet");
    }
  };
  const draw = (name) => {
    if (!waiting.has(name)) return;
    const figure = waiting.get(name), chart = place(name);
    waiting.delete(name);
    load();
    Plotly.newPlot(chart, figure.data, figure.layout, { responsive: true, displayModeBar: false });
    chart.on("plotly_afterplot", () => scalable(chart));
    scalable(chart);
    chart.dataset.drawn = "true";
  };
  const drawAll = () => [...waiting.keys()].forEach(draw);

  const near = new IntersectionObserver(
    (found) => found.filter((entry) => entry.isIntersecting).forEach((entry) => draw(entry.target.id.slice(6))),
    { rootMargin: "400px" },
  );
  for (const name of waiting.keys()) near.observe(place(name));
  const whenIdle = window.requestIdleCallback || ((job) => setTimeout(job, 60));
  const drawNext = () => {
    const [name] = waiting.keys();
    if (name === undefined) return;
    draw(name);
    whenIdle(drawNext);
  };
  addEventListener("load", () => whenIdle(drawNext));
  addEventListener("beforeprint", drawAll);

  // Other x and y for the first traces of a chart, drawn or not.
  const change = (name, x, y) => {
    const figure = data.charts[name];
    if (waiting.has(name)) figure.data.forEach((trace, i) => { trace.x = x[i]; trace.y = y[i]; });
    else Plotly.restyle(place(name), { x, y }, x.map((_, i) => i));
  };
  return { change };
})();


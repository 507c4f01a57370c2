// The plot and its legend, on Chart.js; and how a table row tells its values.

const $ = id => document.getElementById(id);
// The first ten are told apart well and stand out (3:1) on white and on black; from there on hues a golden angle apart.
const COLOURS = ["#3578e5", "#d9730d", "#2a9d5c", "#d6456f", "#8a63d2", "#0f96a5", "#ad800a", "#b8509a", "#64901f", "#7c8794"];
const TICK_STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800, 604800, 1209600, 2592000];
let chart = null;

const colour = i => COLOURS[i] || `hsl(${Math.round(i * 137.508) % 360} 55% 52%)`;
const two = n => String(n).padStart(2, "0");

export function nameOf(metric) {
  const pairs = Object.entries(metric).filter(([k]) => k !== "__name__").map(pairText);
  const name = metric.__name__ || "";
  return pairs.length || !name ? `${name}{${pairs.join(", ")}}` : name;
}

function pairText([k, v]) {
  return `${/^[a-zA-Z_][a-zA-Z0-9_]*$/.test(k) ? k : JSON.stringify(k)}=${JSON.stringify(v)}`;
}

export function timeText(unix, clockOnly = false, withSeconds = true) {
  const d = new Date(unix * 1000);
  const clock = `${two(d.getHours())}:${two(d.getMinutes())}${withSeconds ? `:${two(d.getSeconds())}` : ""}`;
  return clockOnly ? clock : `${d.getFullYear()}-${two(d.getMonth() + 1)}-${two(d.getDate())} ${clock}`;
}

// A histogram's points are its counts. A missing step is a gap, as is what has no place on an axis (NaN and infinities).
function pointsOf(series, step) {
  const samples = [...(series.values || []), ...(series.histograms || []).map(([t, h]) => [t, h.count])].sort((a, b) => a[0] - b[0]);
  const out = [];
  samples.forEach(([t, v], i) => {
    if (i && t - samples[i - 1][0] > step * 1.5) out.push({ x: samples[i - 1][0] + step, y: null });
    const y = Number(v);
    out.push({ x: t, y: Number.isFinite(y) ? y : null });
  });
  return out;
}

// A point between gaps has no line that shows it.
function radii(points) {
  const bare = i => !points[i] || points[i].y === null;
  return points.map((p, i) => (bare(i - 1) && bare(i + 1) ? 2.5 : 0));
}

// Ticks at round times of the local clock.
function timeTicks(start, end, width) {
  const wanted = (end - start) / Math.max(width / 70, 2);
  const step = TICK_STEPS.find(s => s >= wanted) || TICK_STEPS.at(-1);
  const zone = new Date(start * 1000).getTimezoneOffset() * 60;
  const ticks = [];
  for (let t = Math.ceil((start - zone) / step) * step + zone; t <= end; t += step) ticks.push({ value: t });
  return ticks;
}

function timeLabel(t, ticks) {
  const d = new Date(t * 1000), step = ticks.length > 1 ? ticks[1].value - ticks[0].value : 3600;
  const midnight = !d.getHours() && !d.getMinutes() && !d.getSeconds();
  if (midnight || step >= 86400) return `${two(d.getMonth() + 1)}-${two(d.getDate())}`;
  return timeText(t, true, step < 60);
}

// With as many digits as tell neighbouring ticks apart.
export function valueLabel(v, spacing) {
  const size = Math.abs(v);
  const [factor, unit] = [[1e18, "E"], [1e15, "P"], [1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"], [1, ""]].find(([f]) => size >= f) || [1, ""];
  const decimals = 1 - Math.floor(Math.log10(spacing / factor));
  if (size >= 1e21 || !(decimals < 20)) return String(+v.toPrecision(6));
  return +(+(v / factor).toFixed(Math.max(decimals, 0))).toPrecision(15) + unit;
}

function tooltipLabel(item) {
  const { metric, label } = item.dataset;
  const lines = metric && Object.keys(metric).length
    ? [metric.__name__, ...Object.entries(metric).filter(([k]) => k !== "__name__").map(pairText)].filter(Boolean) : [label];
  if (lines.length > 12) lines.splice(11, lines.length, "…");
  const widest = Math.max(20, Math.min(70, Math.floor(item.chart.width / 8)));
  return [item.parsed.y, ...lines.map(l => (l.length > widest ? `${l.slice(0, widest - 1)}…` : l))].map(l => ` ${l}`);
}

/*
 * Draws a range query's result. fallback names a series without labels; zoomed(start, end) is called when a part was selected with the mouse.
 */
export function plot(result, { start, end, step, fallback, zoomed }) {
  const css = getComputedStyle(document.documentElement);
  const text = css.getPropertyValue("--dim").trim(), grid = css.getPropertyValue("--grid").trim();
  const datasets = result.map((r, i) => {
    const data = pointsOf(r, step), label = nameOf(r.metric);
    return { label: label === "{}" ? fallback : label, metric: r.metric, data, borderColor: colour(i), backgroundColor: colour(i), borderWidth: 1.6,
      borderJoinStyle: "round", pointRadius: radii(data), pointHoverRadius: 3.5, pointHitRadius: 8 };
  });
  clear();
  chart = new Chart($("plot"), {
    type: "line",
    data: { datasets },
    options: {
      animation: false, parsing: false, normalized: true, maintainAspectRatio: false,
      interaction: { mode: "nearest", intersect: false },
      plugins: {
        legend: { display: false },
        tooltip: { filter: (item, i) => i < 3, caretPadding: 8, boxPadding: 4, backgroundColor: "#20262eee", borderColor: "#59626f", borderWidth: 1,
          callbacks: { title: items => items.length ? timeText(items[0].parsed.x) : "", label: tooltipLabel } },
      },
      scales: {
        x: { type: "linear", min: start, max: end, afterBuildTicks: axis => { axis.ticks = timeTicks(start, end, axis.width || axis.maxWidth); },
          ticks: { color: text, maxRotation: 0, autoSkip: false, callback: (v, i, ticks) => timeLabel(v, ticks) }, grid: { color: grid, borderColor: grid } },
        y: { ticks: { color: text, maxTicksLimit: 9, callback: (v, i, ticks) => valueLabel(v, Math.abs(ticks.at(-1).value - ticks[0].value) / Math.max(ticks.length - 1, 1)) },
          grid: { color: grid, borderColor: grid } },
      },
    },
  });
  const longest = Math.max(...datasets.map(d => d.label.length), 10);
  $("legend").style.gridTemplateColumns = `repeat(auto-fill, minmax(min(100%, ${longest + 6}ch), 1fr))`;
  $("legend").replaceChildren(...datasets.map((d, i) => legendEntry(d, i)));
  selectable(start, end, zoomed);
}

export function clear() {
  if (chart) chart.destroy();
  chart = null;
  $("legend").replaceChildren();
}

// A click shows only this series (again: all); with Ctrl it is switched by itself.
function legendEntry(dataset, i) {
  const b = document.createElement("button"), mark = document.createElement("i"), name = document.createElement("span");
  b.type = "button";
  b.title = "Show only this series; with Ctrl: hide or show it";
  b.setAttribute("aria-pressed", "true");
  mark.style.background = dataset.borderColor;
  name.textContent = dataset.label;
  b.append(mark, name);
  b.onclick = e => {
    const all = [...$("legend").children];
    const isOn = x => x.getAttribute("aria-pressed") === "true";
    const alone = all.every((x, k) => isOn(x) === (k === i));
    all.forEach((x, k) => {
      const on = e.ctrlKey || e.metaKey ? isOn(x) !== (k === i) : alone || k === i;
      x.setAttribute("aria-pressed", String(on));
      chart.setDatasetVisibility(k, on);
    });
    chart.update();
  };
  return b;
}

// Dragging over the plot with the mouse selects a part of the time.
function selectable(start, end, zoomed) {
  const canvas = $("plot"), box = $("selection");
  const at = e => Math.min(Math.max(e.offsetX, chart.chartArea.left), chart.chartArea.right);
  let from = null;
  canvas.onpointerdown = e => {
    if (e.pointerType !== "mouse" || e.button !== 0 || !chart) return;
    from = at(e);
    canvas.setPointerCapture(e.pointerId);
  };
  canvas.onpointermove = e => {
    if (from === null) return;
    const { top, bottom } = chart.chartArea, left = Math.min(from, at(e));
    Object.assign(box.style, { left: `${left}px`, width: `${Math.abs(at(e) - from)}px`, top: `${top}px`, height: `${bottom - top}px` });
    box.hidden = false;
  };
  canvas.onpointerup = e => {
    if (from === null) return;
    const [a, b] = [from, at(e)].sort((x, y) => x - y).map(x => chart.scales.x.getValueForPixel(x));
    const wide = Math.abs(at(e) - from) > 5;
    from = null;
    box.hidden = true;
    if (wide) zoomed(Math.max(a, start), Math.min(b, end));
  };
  canvas.onpointercancel = () => { from = null; box.hidden = true; };
}

// --- table ---

function element(tag, text, cls) {
  const e = document.createElement(tag);
  if (text !== undefined) e.textContent = text;
  if (cls) e.className = cls;
  return e;
}

const BRACKETS = ["(]", "[)", "()", "[]"]; // by the API's number of which bounds belong to a bucket

function histogramElement(h) {
  const all = element("div", `count ${h.count}, sum ${h.sum}`);
  const details = element("details"), buckets = h.buckets || [];
  details.append(element("summary", `${buckets.length} buckets`));
  for (const [bounds, low, high, count] of buckets)
    details.append(element("div", `${BRACKETS[bounds][0]}${+(+low).toPrecision(6)}, ${+(+high).toPrecision(6)}${BRACKETS[bounds][1]}: ${count}`));
  if (buckets.length) all.append(details);
  return all;
}

function sampleElement([t, v], withTime) {
  const e = typeof v === "string" ? element("div", v) : histogramElement(v);
  if (withTime) e.append(element("small", `  @ ${timeText(t)}${t % 1 ? `.${String(Math.round((t % 1) * 1000)).padStart(3, "0")}` : ""}`));
  return e;
}

// The rows of an instant query's answer, at most maxRows.
export function tabulate(data, maxRows) {
  const table = element("table"), matrix = data.resultType === "matrix";
  const row = (...cells) => {
    const tr = element("tr");
    tr.append(...cells);
    table.append(tr);
  };
  if (data.resultType === "scalar" || data.resultType === "string") row(element("td", data.result[1]));
  else for (const r of data.result.slice(0, maxRows)) {
    const label = element("td"), value = element("td", undefined, "value"), name = r.metric.__name__ || "";
    label.append(element("b", name), nameOf(r.metric).slice(name.length));
    const samples = matrix ? [...(r.values || []), ...(r.histograms || [])].sort((a, b) => a[0] - b[0]) : [r.value || r.histogram];
    value.append(...samples.map(s => sampleElement(s, matrix)));
    row(label, value);
  }
  $("table").replaceChildren(table);
}

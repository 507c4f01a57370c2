// The explorer: one query, a table and a plot of it. Everything that is shown is in the URL, so that it can be shared.
"use strict";

const $ = id => document.getElementById(id);
const api = path => `${apiBase()}/api/v1/${path}`;
const MAX_PLOTTED = 200; // series; the rest is told in the status line
const MAX_ROWS = 2000;
const RANGES = ["5m", "15m", "30m", "1h", "2h", "6h", "12h", "1d", "2d", "1w"];
const UNITS = { ms: 1e-3, s: 1, m: 60, h: 3600, d: 86400, w: 604800 };
let chart = null;
let running = null; // AbortController of the query under way

function apiBase() {
  return document.documentElement.dataset.prefix || "prometheus";
}

function seconds(duration) {
  const m = /^([0-9.]+)(ms|s|m|h|d|w)?$/.exec(duration.trim());
  return m ? Number(m[1]) * UNITS[m[2] || "s"] : NaN;
}

// --- state: the URL and the controls ---

function state() {
  const end = $("end").value;
  return {
    expr: $("query").value.trim(),
    tab: document.querySelector("[role=tab][aria-selected=true]").dataset.tab,
    range: $("range").value,
    end: end ? new Date(end).getTime() / 1000 : null,
    step: $("step").value.trim(),
    tenant: $("tenant").value.trim(),
  };
}

function showState(params) {
  $("query").value = params.get("expr") || "";
  $("range").value = RANGES.includes(params.get("range")) ? params.get("range") : "1h";
  $("step").value = params.get("step") || "";
  $("tenant").value = params.get("tenant") || localStorage.getItem("tenant") || "";
  setEnd(params.get("end") ? Number(params.get("end")) : null);
  selectTab(params.get("tab") === "table" ? "table" : "graph");
  fitEditor();
}

function urlOf(s) {
  const params = new URLSearchParams();
  for (const key of ["expr", "tab", "range", "end", "step", "tenant"]) if (s[key]) params.set(key, s[key]);
  return `${location.pathname}?${params}`;
}

function setEnd(unix) {
  if (unix === null) { $("end").value = ""; return; }
  const d = new Date(unix * 1000);
  $("end").value = new Date(d.getTime() - d.getTimezoneOffset() * 60000).toISOString().slice(0, 19);
}

function selectTab(tab) {
  for (const b of document.querySelectorAll("[role=tab]")) b.setAttribute("aria-selected", String(b.dataset.tab === tab));
  for (const e of document.querySelectorAll(".graph-only")) e.style.display = tab === "graph" ? "" : "none";
  $("graph").hidden = tab !== "graph";
  $("table").hidden = tab !== "table";
}

// --- asking ---

async function ask(path, params, signal) {
  const headers = {};
  if ($("tenant").value.trim()) headers["X-Scope-OrgID"] = $("tenant").value.trim();
  const answer = await fetch(api(path), { method: "POST", headers, body: new URLSearchParams(params), signal });
  if (answer.status === 401) {
    document.querySelector(".tenant").hidden = false;
    throw new Error(`${(await answer.text()).trim()}: fill in the tenant above`);
  }
  const text = await answer.text();
  let parsed;
  try { parsed = JSON.parse(text); } catch { throw new Error(text.trim() || answer.statusText); }
  if (parsed.status !== "success") throw new Error(parsed.error);
  return parsed;
}

async function askGet(path, params) {
  const headers = {};
  if ($("tenant").value.trim()) headers["X-Scope-OrgID"] = $("tenant").value.trim();
  const answer = await fetch(`${api(path)}?${new URLSearchParams(params)}`, { headers });
  return answer.ok ? (await answer.json()).data : [];
}

// About 250 points, as Prometheus's page; never finer than a second.
function autoStep(range) {
  return Math.max(Math.floor(range / 250), 1);
}

function say(...parts) {
  $("status").replaceChildren(...parts.map(([cls, text]) => {
    const e = document.createElement("div");
    e.className = cls;
    e.textContent = text;
    return e;
  }));
}

async function run(push = true) {
  const s = state();
  if (push) history.pushState(null, "", urlOf(s));
  if (s.tenant) localStorage.setItem("tenant", s.tenant);
  hideCompletions();
  if (!s.expr) { say(); return; }
  if (running) running.abort();
  const mine = running = new AbortController();
  say(["", "Running…"]);
  const began = performance.now();
  try {
    const end = s.end ?? Date.now() / 1000;
    const graph = s.tab === "graph";
    const range = seconds(s.range);
    const step = s.step ? seconds(s.step) : autoStep(range);
    const answer = graph
      ? await ask("query_range", { query: s.expr, start: end - range, end, step }, mine.signal)
      : await ask("query", { query: s.expr, time: end }, mine.signal);
    const took = Math.round(performance.now() - began);
    if (graph) plot(answer.data.result, end - range, end); else tabulate(answer.data);
    const n = Array.isArray(answer.data.result) && answer.data.resultType !== "scalar" && answer.data.resultType !== "string" ? answer.data.result.length : 1;
    const cut = graph && n > MAX_PLOTTED ? `, the first ${MAX_PLOTTED} are drawn` : !graph && n > MAX_ROWS ? `, the first ${MAX_ROWS} are listed` : "";
    say(["", `${n} series${cut}, ${took} ms${graph ? `, step ${step} s` : ""}`],
      ...(answer.warnings || []).map(w => ["warning", w]), ...(answer.infos || []).map(w => ["", w]));
  } catch (e) {
    if (e.name !== "AbortError") say(["error", e.message]);
  } finally {
    if (running === mine) running = null;
  }
}

// --- showing ---

function nameOf(metric) {
  const rest = Object.entries(metric).filter(([k]) => k !== "__name__").map(([k, v]) => `${k}="${v}"`);
  const name = metric.__name__ || "";
  return rest.length || !name ? `${name}{${rest.join(", ")}}` : name;
}

function element(tag, text, cls) {
  const e = document.createElement(tag);
  if (text !== undefined) e.textContent = text;
  if (cls) e.className = cls;
  return e;
}

function describeHistogram(h) {
  return `count ${h.count}, sum ${h.sum}, ${(h.buckets || []).length} buckets`;
}

function tabulate(data) {
  const rows = data.resultType === "vector" || data.resultType === "matrix" ? data.result : [{ metric: null, value: data.result }];
  const table = element("table");
  for (const r of rows.slice(0, MAX_ROWS)) {
    const tr = element("tr");
    const label = element("td");
    if (r.metric) {
      label.append(element("b", r.metric.__name__ || ""));
      label.append(nameOf(r.metric).slice((r.metric.__name__ || "").length));
    } else {
      label.append(data.resultType);
    }
    const values = r.values ? r.values.map(([t, v]) => `${v} @${t}`)
      : r.histograms ? r.histograms.map(([t, h]) => `${describeHistogram(h)} @${t}`)
      : [r.histogram ? describeHistogram(r.histogram[1]) : r.value[1]];
    const value = element("td");
    for (const v of values) value.append(element("div", v));
    tr.append(label, value);
    table.append(tr);
  }
  $("table").replaceChildren(rows.length ? table : element("p", "No series."));
}

// Hues a golden angle apart: neighbours differ, and any number of series has a colour.
const colour = i => `hsl(${(i * 137.508 + 212) % 360} 65% 50%)`;

function pointsOf(series) {
  const values = series.values || (series.histograms || []).map(([t, h]) => [t, h.count]);
  const out = [];
  let step = Infinity;
  for (let i = 1; i < values.length; i++) step = Math.min(step, values[i][0] - values[i - 1][0]);
  values.forEach(([t, v], i) => {
    // A gap of more than a step breaks the line.
    if (i && t - values[i - 1][0] > step * 1.5) out.push({ x: values[i - 1][0] + step, y: null });
    const y = Number(v.replace("Inf", "Infinity"));
    out.push({ x: t, y: Number.isFinite(y) ? y : null });
  });
  return out;
}

function timeLabel(t, span) {
  const d = new Date(t * 1000);
  const two = n => String(n).padStart(2, "0");
  const clock = `${two(d.getHours())}:${two(d.getMinutes())}${span <= 900 ? `:${two(d.getSeconds())}` : ""}`;
  return span > 86400 ? `${two(d.getMonth() + 1)}-${two(d.getDate())} ${clock}` : clock;
}

function siLabel(v) {
  const a = Math.abs(v);
  for (const [factor, unit] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]])
    if (a >= factor) return `${+(v / factor).toPrecision(4)}${unit}`;
  return String(+v.toPrecision(4));
}

function plot(result, start, end) {
  const css = getComputedStyle(document.documentElement);
  const text = css.getPropertyValue("--dim"), line = css.getPropertyValue("--line");
  const shown = result.slice(0, MAX_PLOTTED);
  const datasets = shown.map((r, i) => ({
    label: nameOf(r.metric), data: pointsOf(r), borderColor: colour(i), backgroundColor: colour(i), borderWidth: 1.5,
    pointRadius: (r.values || r.histograms).length === 1 ? 3 : 0, pointHitRadius: 6, spanGaps: false,
  }));
  if (chart) chart.destroy();
  chart = new Chart($("plot"), {
    type: "line",
    data: { datasets },
    options: {
      animation: false, parsing: false, normalized: true, maintainAspectRatio: false,
      interaction: { mode: "nearest", intersect: false },
      plugins: {
        legend: { display: false },
        tooltip: { callbacks: { title: items => new Date(items[0].parsed.x * 1000).toLocaleString(), label: item => ` ${item.parsed.y}  ${item.dataset.label}` } },
      },
      scales: {
        x: { type: "linear", min: start, max: end, ticks: { color: text, maxRotation: 0, autoSkipPadding: 24, callback: v => timeLabel(v, end - start) }, grid: { color: line } },
        y: { ticks: { color: text, callback: siLabel }, grid: { color: line } },
      },
    },
  });
  $("legend").replaceChildren(...datasets.map((d, i) => legendEntry(d, i)), ...(result.length ? [] : [element("p", "No series.")]));
}

// A click shows only this series (again: all); with Ctrl it is switched by itself.
function legendEntry(dataset, i) {
  const b = element("button");
  b.type = "button";
  b.setAttribute("aria-pressed", "true");
  const mark = element("i");
  mark.style.background = dataset.borderColor;
  b.append(mark, dataset.label);
  b.onclick = e => {
    const all = [...$("legend").children];
    const alone = all.every((x, k) => (x.getAttribute("aria-pressed") === "true") === (k === i));
    all.forEach((x, k) => {
      const on = e.ctrlKey || e.metaKey ? (x.getAttribute("aria-pressed") === "true") !== (k === i) : alone || k === i;
      x.setAttribute("aria-pressed", String(on));
      chart.setDatasetVisibility(k, on);
    });
    chart.update();
  };
  return b;
}

// --- completion ---

const known = { metrics: null, functions: null };
let choice = -1;
let offered = []; // [{text, kind, from, to}]

async function load(key, fetcher) {
  if (!known[key]) known[key] = fetcher().catch(() => { known[key] = null; return []; });
  return known[key];
}

const metrics = () => load("metrics", () => askGet("label/__name__/values", {}));
const functions = () => load("functions", async () => (await fetch("static/functions.json")).json());

// What stands before the cursor: inside the braces of a selector, a label name or a quoted value; else a word.
function contextAt(text, at) {
  const before = text.slice(0, at);
  const open = before.lastIndexOf("{");
  if (open > before.lastIndexOf("}")) {
    const metric = (/([a-zA-Z_:][a-zA-Z0-9_:]*)\s*$/.exec(before.slice(0, open)) || [])[1] || "";
    const inside = before.slice(open + 1);
    const value = /([a-zA-Z_][a-zA-Z0-9_]*)\s*(?:=~|!~|!=|=)\s*"([^"]*)$/.exec(inside);
    if (value) return { kind: "value", metric, label: value[1], word: value[2] };
    const name = /(?:^|,)\s*([a-zA-Z0-9_]*)$/.exec(inside);
    return name ? { kind: "label", metric, word: name[1] } : null;
  }
  const grouping = /\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^()]*)$/.exec(before);
  if (grouping) return { kind: "label", metric: "", word: /([a-zA-Z0-9_]*)$/.exec(grouping[1])[1] };
  if (/\[[^\]]*$/.test(before) || (before.split('"').length - 1) % 2) return null;
  const word = /[a-zA-Z_:][a-zA-Z0-9_:]*$/.exec(before);
  return word ? { kind: "word", word: word[0] } : null;
}

async function candidates(c) {
  const match = c.metric ? { "match[]": c.metric } : {};
  if (c.kind === "label") return (await askGet("labels", match)).filter(l => l !== "__name__").map(text => ({ text, kind: "label" }));
  if (c.kind === "value") return (await askGet(`label/${c.label}/values`, match)).map(text => ({ text, kind: "value" }));
  const [m, f] = await Promise.all([metrics(), functions()]);
  return [...f.map(text => ({ text, kind: "function" })), ...m.map(text => ({ text, kind: "metric" }))];
}

function rank(text, word) {
  const i = text.toLowerCase().indexOf(word.toLowerCase());
  return i < 0 ? -1 : (i === 0 ? 0 : 1000) + text.length;
}

async function complete() {
  const box = $("query"), at = box.selectionStart;
  const c = contextAt(box.value, at);
  if (!c || (c.kind === "word" && c.word.length < 1)) return hideCompletions();
  const all = await candidates(c);
  if (box.selectionStart !== at) return; // typed on meanwhile
  offered = all.map(o => ({ ...o, rank: rank(o.text, c.word) })).filter(o => o.rank >= 0 && o.text !== c.word)
    .sort((a, b) => a.rank - b.rank || (a.text < b.text ? -1 : 1)).slice(0, 50)
    .map(o => ({ ...o, from: at - c.word.length, to: at }));
  choice = offered.length ? 0 : -1;
  showCompletions();
}

function showCompletions() {
  const list = $("completions");
  list.replaceChildren(...offered.map((o, i) => {
    const li = element("li");
    li.setAttribute("role", "option");
    li.setAttribute("aria-selected", String(i === choice));
    li.append(element("span", o.text), element("small", o.kind));
    li.onmousedown = e => { e.preventDefault(); choice = i; accept(); };
    return li;
  }));
  list.hidden = !offered.length;
  $("query").setAttribute("aria-expanded", String(!list.hidden));
  list.querySelector("[aria-selected=true]")?.scrollIntoView({ block: "nearest" });
}

function hideCompletions() {
  offered = [];
  showCompletions();
}

function accept() {
  const o = offered[choice], box = $("query");
  box.setRangeText(o.kind === "function" ? `${o.text}(` : o.text, o.from, o.to, "end");
  hideCompletions();
  box.focus();
  fitEditor();
}

// --- wiring ---

function fitEditor() {
  const box = $("query");
  box.style.height = "auto";
  box.style.height = `${box.scrollHeight + 2}px`;
}

function shift(direction) {
  const s = state();
  setEnd((s.end ?? Date.now() / 1000) + direction * seconds(s.range) / 2);
  run();
}

function onKey(e) {
  if (offered.length) {
    const move = { ArrowDown: 1, ArrowUp: -1 }[e.key];
    if (move) {
      choice = (choice + move + offered.length) % offered.length;
      showCompletions();
      return e.preventDefault();
    }
    if (e.key === "Tab") { accept(); return e.preventDefault(); }
    if (e.key === "Escape") { hideCompletions(); return e.preventDefault(); }
  }
  if (e.key === "Enter" && !e.shiftKey) { e.preventDefault(); run(); }
}

async function format() {
  try {
    $("query").value = (await ask("format_query", { query: $("query").value })).data;
    fitEditor();
    say();
  } catch (e) { say(["error", e.message]); }
}

function start() {
  $("range").append(...RANGES.map(r => element("option", r)));
  showState(new URLSearchParams(location.search));
  $("form").onsubmit = e => { e.preventDefault(); run(); };
  $("query").onkeydown = onKey;
  $("query").oninput = () => { fitEditor(); complete(); };
  $("query").onblur = hideCompletions;
  $("format").onclick = format;
  $("range").onchange = $("end").onchange = $("step").onchange = () => run();
  $("now").onclick = () => { setEnd(null); run(); };
  $("earlier").onclick = () => shift(-1);
  $("later").onclick = () => shift(1);
  $("tenant").onchange = () => { known.metrics = null; run(); };
  $("share").onclick = async () => {
    const s = state();
    // A link shows what I see: a moving end is pinned.
    s.end = s.end ?? Math.floor(Date.now() / 1000);
    const url = new URL(urlOf(s), location.href).href;
    try { await navigator.clipboard.writeText(url); say(["", "Link copied."]); } catch { say(["", url]); }
  };
  for (const b of document.querySelectorAll("[role=tab]")) b.onclick = () => { selectTab(b.dataset.tab); run(); };
  addEventListener("popstate", () => { showState(new URLSearchParams(location.search)); run(false); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => run(false));
  metrics().then(list => { if (!list.length) ask("labels", {}).catch(e => say(["error", e.message])); });
  run(false);
}

start();

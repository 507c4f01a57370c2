// The explorer: one query, a table and a plot of it. Everything that is shown is in the URL, so that it can be shared.
import { Completion } from "./complete.js";
import { clear, plot, tabulate, timeText } from "./plot.js";

const $ = id => document.getElementById(id);
const main = document.querySelector("main");
const MAX_PLOTTED = 200; // series; the status line tells of the others
const MAX_ROWS = 2000;
const RANGES = ["5m", "15m", "30m", "1h", "3h", "6h", "12h", "1d", "2d", "1w", "2w", "4w", "12w"];
const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400];
const UNITS = { ms: 1e-3, s: 1, m: 60, h: 3600, d: 86400, w: 604800, y: 31536000 };
let config = { prefix: "/prometheus", multitenancy: false, functions: [] };
let completion = null;
let running = null; // AbortController of the query under way
let redraw = null;  // draws the last answer again
let shownEnd = 0;   // of the last answer, seconds

// --- times ---

// "90", "1.5h", "1h30m" in seconds; else NaN.
function seconds(duration) {
  const text = duration.trim();
  if (/^[0-9.]+$/.test(text)) return Number(text);
  if (!/^([0-9.]+(ms|[smhdwy]))+$/.test(text)) return NaN;
  return [...text.matchAll(/([0-9.]+)(ms|[smhdwy])/g)].reduce((sum, m) => sum + Number(m[1]) * UNITS[m[2]], 0);
}

function durationText(s) {
  let out = "", rest = Math.round(s);
  for (const [unit, size] of [["w", 604800], ["d", 86400], ["h", 3600], ["m", 60], ["s", 1]]) {
    if (rest >= size) out += `${Math.floor(rest / size)}${unit}`;
    rest %= size;
  }
  return out || "1s";
}

// Local time as it is shown, any form that Date reads, or Unix seconds; null: now; else NaN.
function parseEnd(text) {
  if (!text || text === "now") return null;
  if (/^[0-9]{9,}(\.[0-9]+)?$/.test(text)) return Number(text);
  return new Date(text.replace(/^(\S+) /, "$1T")).getTime() / 1000;
}

// At most 300 points, a round number of seconds apart.
const autoStep = range => STEPS.find(s => range / s <= 300) || Math.ceil(range / 300 / 86400) * 86400;

// --- state: the URL and the controls ---

function state() {
  return { expr: $("query").value.trim(), tab: main.dataset.tab, range: $("range").value, end: parseEnd($("end").value.trim()),
    step: $("step").value.trim(), tenant: config.multitenancy ? $("tenant").value.trim() : "" };
}

function showState(params) {
  $("query").value = params.get("expr") || "";
  setRange(params.get("range") || "1h");
  $("step").value = params.get("step") || "";
  $("tenant").value = params.get("tenant") || localStorage.getItem("tenant") || "";
  setEnd(Number(params.get("end")) || null);
  selectTab(params.get("tab") === "table" ? "table" : "graph");
  fitEditor();
}

function urlOf(s) {
  const params = new URLSearchParams();
  for (const key of ["expr", "tab", "range", "end", "step", "tenant"]) if (s[key]) params.set(key, s[key]);
  return `${location.pathname}?${params}`;
}

function setEnd(unix) {
  $("end").value = unix === null ? "" : timeText(unix);
}

// A range that is not among the offered ones becomes the last of them.
function setRange(text) {
  const offered = RANGES.includes(text) || !(seconds(text) > 0) ? RANGES : [...RANGES, text];
  $("range").replaceChildren(...offered.map(r => new Option(r)));
  $("range").value = offered.includes(text) ? text : "1h";
}

function selectTab(tab) {
  main.dataset.tab = tab;
  for (const b of document.querySelectorAll("[role=tab]")) b.setAttribute("aria-selected", String(b.dataset.tab === tab));
  $("end-label").textContent = tab === "graph" ? "End" : "Time";
}

// --- asking ---

async function ask(path, params, signal, method = "POST") {
  const headers = {}, tenant = $("tenant").value.trim(), body = new URLSearchParams(params);
  if (config.multitenancy && tenant) headers["X-Scope-OrgID"] = tenant;
  // Relative, so that it also works behind a proxy's path.
  const url = `${config.prefix.replace(/^\//, "")}/api/v1/${path}`;
  const answer = await (method === "GET" ? fetch(`${url}?${body}`, { headers, signal }) : fetch(url, { method, headers, body, signal }));
  const text = await answer.text();
  if (answer.status === 401) throw new Error(`${text.trim()}: fill in the tenant above`);
  let parsed;
  try { parsed = JSON.parse(text); } catch { throw new Error(text.trim() || `${answer.status} ${answer.statusText}`); }
  if (parsed.status !== "success") throw new Error(parsed.error);
  return parsed;
}

function say(...parts) {
  $("status").replaceChildren(...parts.map(([cls, text]) => {
    const e = document.createElement("div");
    e.className = cls;
    e.textContent = text;
    return e;
  }));
}

// Shows one of the panes, or none.
function pane(id) {
  for (const p of ["hint", "graph", "table"]) $(p).hidden = p !== id;
}

async function hint() {
  pane("hint");
  redraw = null;
  say();
  const lines = ["Type a PromQL query and press Enter.", "Completion offers functions, metrics, labels and values: arrows choose, Tab or Enter accepts."];
  let metrics = null;
  try { metrics = (await ask("label/__name__/values", {}, undefined, "GET")).data; } catch (e) { say(["error", e.message]); }
  if (metrics && !metrics.length) lines.push("", `There are no metrics yet. Remote write goes to ${new URL("api/v1/push", location.href).href}`);
  $("hint").replaceChildren(...lines.map(l => Object.assign(document.createElement("p"), { textContent: l })));
}

// What the controls mean as parameters of a query; a control that means nothing is marked and told.
function parameters(s) {
  const range = seconds(s.range), step = s.step ? seconds(s.step) : autoStep(range);
  const bad = { end: Number.isNaN(s.end), step: !(step > 0) };
  for (const id of ["end", "step"]) $(id).setAttribute("aria-invalid", String(bad[id]));
  if (bad.end) throw new Error(`not a time: ${$("end").value} (such as ${timeText(Date.now() / 1000)}, or empty for now)`);
  if (bad.step && s.tab === "graph") throw new Error(`not a step: ${s.step} (such as 15s or 5m, or empty for a fitting one)`);
  // The next whole second, so that what was just written is seen and a link can tell it.
  const end = s.end ?? Math.ceil(Date.now() / 1000);
  return { start: end - range, end, step };
}

function showAnswer(s, { start, end, step }, { data }) {
  const n = Array.isArray(data.result) ? data.result.length : 0;
  const notes = [];
  if (s.tab === "graph") {
    redraw = () => plot(data.result.slice(0, MAX_PLOTTED), { start, end, step, fallback: s.expr, zoomed: zoom });
    if (n > MAX_PLOTTED) notes.push(`the first ${MAX_PLOTTED} are drawn`);
    if (data.result.some(r => r.histograms)) notes.push("histograms are drawn by their count");
  } else {
    redraw = () => tabulate(data, MAX_ROWS);
    if (n > MAX_ROWS) notes.push(`the first ${MAX_ROWS} are listed`);
  }
  const series = data.resultType === "vector" || data.resultType === "matrix";
  if (series && !n) {
    pane("hint");
    $("hint").replaceChildren(Object.assign(document.createElement("p"), { textContent: `No series match this query ${s.tab === "graph" ? "in this range" : "at this time"}.` }));
    redraw = null;
  } else {
    pane(s.tab);
    redraw();
  }
  return [series ? `${n} series` : data.resultType, ...notes];
}

async function run(push = true) {
  const s = state(), url = urlOf(s);
  if (push && url !== location.pathname + location.search) history.pushState(null, "", url);
  document.title = s.expr ? `${s.expr} - Brunn` : "Explore - Brunn";
  if (s.tenant) localStorage.setItem("tenant", s.tenant);
  completion.hide();
  if (running) running.abort();
  running = null;
  main.setAttribute("aria-busy", "false");
  if (!s.expr) return hint();
  const mine = running = new AbortController();
  main.setAttribute("aria-busy", "true");
  const began = performance.now();
  const slow = setTimeout(() => say(["", "Running…"]), 200);
  try {
    const p = parameters(s);
    const answer = s.tab === "graph" ? await ask("query_range", { query: s.expr, ...p }, mine.signal)
      : await ask("query", { query: s.expr, time: p.end }, mine.signal);
    const took = Math.round(performance.now() - began);
    shownEnd = p.end;
    const notes = showAnswer(s, p, answer);
    say(["", [...notes, `${took} ms`, ...(s.tab === "graph" ? [`step ${Number.isInteger(p.step) ? durationText(p.step) : `${p.step}s`}`] : [])].join(", ")],
      ...(answer.warnings || []).map(w => ["warning", w]), ...(answer.infos || []).map(w => ["", w]));
  } catch (e) {
    if (e.name === "AbortError") return;
    pane(null);
    redraw = null;
    clear();
    say(["error", e.message]);
  } finally {
    clearTimeout(slow);
    if (running === mine) {
      running = null;
      main.setAttribute("aria-busy", "false");
    }
  }
}

// --- wiring ---

function fitEditor() {
  const box = $("query");
  box.style.height = "auto";
  box.style.height = `${box.scrollHeight + 2}px`;
}

function shift(direction) {
  const s = state();
  setEnd(Math.round((s.end || Date.now() / 1000) + direction * seconds(s.range) / 2));
  run();
}

function zoom(start, end) {
  const range = Math.max(Math.round(end - start), 1);
  setRange(durationText(range));
  setEnd(Math.round(start) + range);
  run();
}

function onKey(e) {
  if (completion.key(e)) return e.preventDefault();
  if (e.key === "Enter" && !e.shiftKey && !e.isComposing) { e.preventDefault(); run(); }
}

async function format() {
  try {
    $("query").value = (await ask("format_query", { query: $("query").value })).data;
    fitEditor();
    run();
  } catch (e) { say(["error", e.message]); }
}

async function share() {
  const s = state();
  // A link shows what I see: a moving end is pinned.
  s.end = s.end || shownEnd || Math.ceil(Date.now() / 1000);
  const url = new URL(urlOf(s), location.href).href;
  try {
    await navigator.clipboard.writeText(url);
    say(["", "Link copied."]);
  } catch { say(["", url]); } // no clipboard without TLS or leave: it can be copied from here
}

async function start() {
  try { config = await (await fetch("static/explore.json")).json(); } catch { /* the defaults fit the default configuration */ }
  const names = async (path, params) => (await ask(path, params, undefined, "GET")).data;
  completion = new Completion($("query"), $("completions"), config.functions, names, fitEditor);
  document.querySelector(".tenant").hidden = !config.multitenancy;
  showState(new URLSearchParams(location.search));
  $("form").onsubmit = e => { e.preventDefault(); run(); };
  $("query").onkeydown = onKey;
  $("query").oninput = () => { fitEditor(); completion.update(); };
  $("query").onblur = () => completion.hide();
  $("format").onclick = format;
  $("range").onchange = $("end").onchange = $("step").onchange = () => run();
  $("now").onclick = () => { setEnd(null); run(); };
  $("earlier").onclick = () => shift(-1);
  $("later").onclick = () => shift(1);
  $("tenant").onchange = () => { completion.forget(); run(); };
  $("share").onclick = share;
  for (const b of document.querySelectorAll("[role=tab]")) b.onclick = () => { selectTab(b.dataset.tab); run(); };
  addEventListener("popstate", () => { showState(new URLSearchParams(location.search)); run(false); });
  addEventListener("resize", fitEditor);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => redraw && redraw());
  if (!$("query").value) $("query").focus();
  await run(false);
  main.dataset.started = "";
}

start();

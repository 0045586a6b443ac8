"use strict";
// The board: asks the server for runs, curves of the ticked ones, and a comparison of the two chosen arms.

const PAUSE = 2000; // between two questions, in milliseconds
const ROWS = 200; // shown at once
const byId = (id) => document.getElementById(id);
const view = { runs: [], shown: ROWS, sort: "age", sign: 1, ticked: new Set(), arms: [], curves: "", drawn: null, comparison: null };

function element(name, content, attributes = {}) {
  const made = document.createElement(name);
  made.append(content);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function ageOf(seconds) {
  for (const [unit, size] of [["d", 86400], ["h", 3600], ["min", 60]]) if (seconds >= size) return `${Math.floor(seconds / size)} ${unit}`;
  return `${Math.max(0, Math.floor(seconds))} s`;
}

function matching() {
  const words = byId("words").value.toLowerCase().split(/\s+/).filter(Boolean);
  const found = view.runs.filter((run) => words.every((word) => run.text.includes(word)));
  const order = (one, two) => {
    const [a, b] = [one[view.sort], two[view.sort]];
    if (a === null || b === null) return (a === null) - (b === null);
    return view.sign * (typeof a === "number" && typeof b === "number" ? a - b : String(a) < String(b) ? -1 : String(a) > String(b) ? 1 : 0);
  };
  return found.sort(order);
}

function rowOf(run) {
  const box = element("input", "", { type: "checkbox", "aria-label": `curves of ${run.name}`, "data-run": run.name });
  box.checked = view.ticked.has(run.name);
  const place = view.arms.findIndex((arm) => arm.study === run.study && arm.arm === run.arm);
  const button = element("button", run.arm ?? "", { type: "button", "aria-pressed": String(place >= 0), "data-study": run.study, "data-arm": run.arm });
  const cells = [box, element("span", run.status, { class: run.status }), run.study ?? "", button, run.seed ?? "", run.metric ?? ""];
  cells.push(run.test === null ? "" : run.test.toFixed(4), run.age === null ? "" : ageOf(run.age), run.name);
  const row = document.createElement("tr");
  row.append(...cells.map((cell) => element("td", String(cell) === cell || typeof cell === "number" ? String(cell) : cell)));
  return row;
}

function showRuns() {
  const found = matching();
  const focused = document.activeElement?.dataset?.run;
  byId("rows").replaceChildren(...found.slice(0, view.shown).map(rowOf));
  if (focused) byId("rows").querySelector(`[data-run="${CSS.escape(focused)}"]`)?.focus();
  byId("count").textContent = `${found.length.toLocaleString("en")} of ${view.runs.length.toLocaleString("en")} runs`;
  byId("more").hidden = found.length <= view.shown;
}

async function ask(path) {
  const answer = await fetch(path);
  const content = await answer.json();
  if (!answer.ok) throw new Error(content.error ?? `the server answered ${answer.status}`);
  return content;
}

async function askRuns() {
  const content = await ask("/api/runs");
  const text = JSON.stringify(content);
  if (text === view.text) return;
  view.text = text;
  view.runs = content.map((run) => ({ ...run, age: run.started ? (Date.now() - Date.parse(run.started)) / 1000 : null, text: `${run.status} ${run.study} ${run.arm} seed${run.seed} ${run.metric} ${run.name}`.toLowerCase() }));
  showRuns();
}

async function askCurves() {
  const names = view.runs.map((run) => run.name).filter((name) => view.ticked.has(name));
  const query = new URLSearchParams([...names.map((name) => ["run", name]), ...(view.key ? [["key", view.key]] : [])]).toString();
  const live = view.runs.some((run) => view.ticked.has(run.name) && run.status === "running");
  if (query === view.curves && !live) return;
  view.curves = query;
  const { keys, key, chart } = names.length ? await ask(`/api/curves?${query}`) : { keys: [], key: "", chart: null };
  if (query !== view.curves) return; // others were ticked meanwhile
  byId("curves-note").textContent = names.length ? (chart ? chart.title : "The ticked runs have no epochs yet.") : "No runs are ticked.";
  byId("keys-line").hidden = byId("curves").hidden = !chart;
  byId("keys").replaceChildren(...keys.map((name) => element("option", name, name === key ? { selected: "" } : {})));
  view.drawn = chart;
  if (chart) byId("curves").setAttribute("aria-label", `${chart.title}. ${chart.says}`);
  drawCurves();
}

function drawCurves() {
  if (view.drawn) drawChart(byId("curves"), view.drawn, null, null, false);
}

function tableOf(cells) {
  const table = document.createElement("table");
  const [head, ...rows] = cells;
  table.createTHead().append(element("tr", ""));
  table.tHead.rows[0].append(...head.map((name) => element("th", name, { scope: "col" })));
  const body = table.createTBody();
  for (const row of rows) {
    const line = body.insertRow();
    line.append(...row.map((cell, place) => element(place ? "td" : "th", cell, place ? {} : { scope: "row" })));
  }
  return element("div", table, { class: "scroll", tabindex: "0", role: "region", "aria-label": head.join(", ") });
}

async function askComparison() {
  const [baseline, other] = view.arms;
  const place = byId("comparison");
  place.replaceChildren();
  view.comparison = null;
  if (!baseline) return (byId("compare-note").textContent = "No arms are chosen.");
  if (!other) return (byId("compare-note").textContent = `Baseline ${baseline.arm} of ${baseline.study}: click another arm of this study.`);
  byId("compare-note").textContent = `Comparing ${other.arm} with ${baseline.arm} of ${baseline.study}.`;
  try {
    const found = await ask(`/api/compare?${new URLSearchParams({ study: baseline.study, baseline: baseline.arm, arm: other.arm })}`);
    if (view.arms[1] !== other) return;
    view.comparison = found;
    byId("compare-note").textContent = found.sentences.join(" ");
    place.append(...found.warnings.map((warning) => element("p", warning, { class: "warning" })), ...found.tables.map(tableOf));
    for (const chart of found.charts) {
      const spot = element("div", "", { class: "chart", role: "img", "aria-label": `${chart.title}. ${chart.says}` });
      const figure = element("figure", element("figcaption", chart.title));
      figure.append(spot);
      place.append(figure);
      drawChart(spot, chart, null, null, false);
    }
  } catch (error) {
    byId("compare-note").textContent = error.message;
  }
}

function chooseArm(study, arm) {
  const [baseline, other] = view.arms;
  const same = (one) => one && one.study === study && one.arm === arm;
  if (same(baseline) && !other) view.arms = [];
  else if (baseline && !other && baseline.study === study) view.arms = [baseline, { study, arm }];
  else view.arms = [{ study, arm }];
  showRuns();
  askComparison();
}

function sortBy(heading) {
  const key = heading.dataset.key;
  view.sign = view.sort === key ? -view.sign : 1;
  view.sort = key;
  for (const other of heading.parentElement.cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", view.sign > 0 ? "ascending" : "descending");
  showRuns();
}

let asking = false;
let again = false; // something was ticked while the last question was open
async function refresh() {
  again = asking;
  if (asking || document.hidden) return;
  asking = true;
  try {
    await askRuns();
    await askCurves();
    byId("state").textContent = "live; reads only";
  } catch (error) {
    byId("state").textContent = error instanceof TypeError ? "the board has ended; start it again with factorlm board" : error.message;
  } finally {
    asking = false;
    if (again) refresh();
  }
}

document.addEventListener("DOMContentLoaded", () => {
  byId("search").addEventListener("submit", (event) => event.preventDefault());
  byId("words").addEventListener("input", () => {
    view.shown = ROWS;
    showRuns();
  });
  byId("more").addEventListener("click", () => {
    view.shown += ROWS;
    showRuns();
  });
  byId("none").addEventListener("click", () => {
    view.ticked.clear();
    showRuns();
    refresh();
  });
  byId("keys").addEventListener("change", (event) => {
    view.key = event.target.value;
    refresh();
  });
  document.querySelector("table[data-live] thead").addEventListener("click", (event) => {
    const heading = event.target.closest("th[data-key]");
    if (heading) sortBy(heading);
  });
  byId("rows").addEventListener("change", (event) => {
    const { run } = event.target.dataset;
    if (event.target.checked) view.ticked.add(run);
    else view.ticked.delete(run);
    refresh();
  });
  byId("rows").addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) chooseArm(button.dataset.study, button.dataset.arm);
  });
  let width = window.innerWidth;
  window.addEventListener("resize", () => {
    if (window.innerWidth === width) return;
    width = window.innerWidth;
    drawCurves();
    if (view.comparison) for (const [place, chart] of view.comparison.charts.entries()) drawChart(document.querySelectorAll("#comparison .chart")[place], chart, null, null, false);
  });
  document.addEventListener("visibilitychange", refresh);
  refresh();
  setInterval(refresh, PAUSE);
});

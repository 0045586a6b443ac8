"use strict";
// The page of a study: charts, and a filter by arm and slice for charts and tables.

const filter = document.getElementById("filter");
const figures = [...document.querySelectorAll("figure")].map((figure) => ({
  place: figure.querySelector(".chart"),
  chart: JSON.parse(figure.querySelector("script").textContent),
}));

function chosen(name) {
  const boxes = filter ? [...filter.querySelectorAll(`input[name=${name}]:checked`)] : [];
  return new Set(boxes.map((box) => box.value));
}

function filterRows(arms, slices) {
  for (const row of document.querySelectorAll("tr[data-arm]")) {
    row.hidden = !arms.has(row.dataset.arm) || (row.dataset.slice !== undefined && !slices.has(row.dataset.slice));
  }
}

let drawing = 0; // a later call ends an earlier one

async function drawAll() {
  const own = ++drawing;
  const arms = chosen("arm");
  const slices = chosen("slice");
  filterRows(arms, slices);
  for (const { place, chart } of figures) {
    if (own !== drawing) return;
    await drawChart(place, chart, arms, slices, false);
    await new Promise((resolve) => setTimeout(resolve));
  }
  document.body.dataset.drawn = "true";
}

function drawPrinted() {
  drawing += 1;
  for (const { place, chart } of figures) drawChart(place, chart, chosen("arm"), chosen("slice"), true);
  for (const details of document.querySelectorAll("details")) details.open = true;
}

document.addEventListener("DOMContentLoaded", () => {
  if (filter) {
    filter.addEventListener("change", drawAll);
    filter.addEventListener("reset", () => setTimeout(drawAll));
  }
  if (!window.Plotly) {
    for (const { place } of figures) place.textContent = "The chart needs the file assets/plotly-….min.js of the run store beside this folder.";
    return;
  }
  window.addEventListener("beforeprint", drawPrinted);
  window.addEventListener("afterprint", drawAll);
  let width = window.innerWidth;
  window.addEventListener("resize", () => {
    if (window.innerWidth !== width) drawAll();
    width = window.innerWidth;
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  drawAll();
});

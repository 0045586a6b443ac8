"use strict";
// Draws charts as reporting/charts.py describes them.

const PAPER_WIDTH = 640; // of a printed chart, in pixels
const ROW_HEIGHT = 17;

function theme(printed) {
  const style = getComputedStyle(document.documentElement);
  const colour = (name, paper) => (printed ? paper : style.getPropertyValue(name).trim());
  return { text: colour("--text", "#000"), line: colour("--line", "#bbb"), paper: colour("--paper", "#fff") };
}

// Traces of the chosen arms; where a chart has slices, every arm gets a row of its own within each chosen slice.
function chosenTraces(chart, arms, slices) {
  const traces = chart.data.filter((trace) => !trace.meta || !arms || arms.has(trace.meta));
  if (!chart.slices) return traces.map((trace) => ({ ...trace }));
  const kept = chart.slices.map((name, place) => place).filter((place) => !slices || slices.has(chart.slices[place]));
  const pick = (values) => kept.map((place) => values[place]);
  return traces.map((trace, place) => ({
    ...trace,
    x: pick(trace.x),
    y: kept.map((_, row) => row + (0.75 * (place - (traces.length - 1) / 2)) / traces.length),
    customdata: pick(trace.customdata),
    error_x: { ...trace.error_x, array: pick(trace.error_x.array), arrayminus: pick(trace.error_x.arrayminus) },
    text: pick(chart.slices),
    hovertemplate: `%{text}: ${trace.hovertemplate}`,
  }));
}

function chartLayout(chart, traces, colours, slices, width) {
  const legend = traces.filter((trace) => trace.showlegend !== false).length > 1;
  const axis = { gridcolor: colours.line, linecolor: colours.line, zerolinecolor: colours.line };
  const layout = {
    height: 380, showlegend: legend, dragmode: false, hovermode: "closest", paper_bgcolor: "transparent", plot_bgcolor: "transparent",
    font: { color: colours.text, family: "system-ui, sans-serif", size: 12 }, margin: { l: 50, r: 15, t: 15, b: 50 },
    legend: { orientation: "h", y: 1, yanchor: "bottom", x: 0 },
    ...chart.layout,
    width,
  };
  layout.xaxis = { ...axis, ...chart.layout.xaxis };
  layout.yaxis = { ...axis, ...chart.layout.yaxis };
  layout.shapes = (chart.layout.shapes || []).map((shape) => ({
    layer: "below", fillcolor: colours.line, opacity: shape.type === "rect" ? 0.35 : 1, ...shape,
    line: { color: colours.text, width: shape.type === "rect" ? 0 : 1 },
  }));
  if (chart.slices) {
    const names = chart.slices.filter((name) => !slices || slices.has(name));
    layout.height = 130 + names.length * (14 + ROW_HEIGHT * traces.length);
    Object.assign(layout.yaxis, { tickvals: names.map((_, row) => row), ticktext: names, range: [names.length - 0.5, -0.5] });
  }
  if (layout.yaxis.type === "category") layout.yaxis.range = [traces.length - 0.5, -0.5];
  if (legend) {
    const longest = Math.max(...traces.map((trace) => (trace.name || "").length));
    const columns = Math.max(1, Math.floor((width - 60) / (55 + 7 * longest)));
    const space = 20 * Math.ceil(traces.filter((trace) => trace.showlegend !== false).length / columns);
    layout.height += space;
    layout.margin = { ...layout.margin, t: layout.margin.t + space };
  }
  return layout;
}

function drawChart(place, chart, arms, slices, printed) {
  const width = printed ? PAPER_WIDTH : place.clientWidth;
  const colours = theme(printed);
  const traces = chosenTraces(chart, arms, slices);
  for (const trace of traces) {
    if (trace.marker && trace.mode) trace.marker = { ...trace.marker, line: { color: colours.paper, width: 0.5 } };
  }
  const layout = chartLayout(chart, traces, colours, slices, width);
  return Plotly.react(place, traces, layout, { displaylogo: false, modeBarButtons: [["toImage"]], staticPlot: printed });
}

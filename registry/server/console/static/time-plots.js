// Draws the plots of a page with uPlot from the JSON beside each: `plot-NAME` from `data-NAME`. A part of the page that
// renews itself leaves the drawing where it is (hx-morph-skip); then only its values change.
"use strict";

const drawn = new Map();  // of an element: its drawing and what it shows
const HEIGHT = 200;
const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;

function offset(at) {
  const minutes = -at.getTimezoneOffset();
  if (!minutes) return "UTC";
  const size = Math.abs(minutes);
  return `UTC${minutes < 0 ? "−" : "+"}${Math.floor(size / 60)}${size % 60 ? ":" + String(size % 60).padStart(2, "0") : ""}`;
}

const two = number => String(number).padStart(2, "0");
function clock(seconds, step) {
  const at = new Date(seconds * 1000);
  const day = `${two(at.getMonth() + 1)}-${two(at.getDate())}`;
  return step >= 86400 ? day : `${day} ${two(at.getHours())}:${two(at.getMinutes())}`;
}

function text(value) {
  if (value === null || value === undefined) return "–";
  return Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(3)));
}

function colours() {
  const style = getComputedStyle(document.documentElement);
  const of = name => style.getPropertyValue(name).trim();
  return {
    line: of("--line"), quiet: of("--quiet"),
    series: number => of(number ? `--series-${number}` : "--line-strong"),
  };
}

// Vertical lines where something happened, with what it was where there is room.
function drawMarks(plot, marks, colour) {
  const { ctx, bbox } = plot;
  const scale = devicePixelRatio;
  ctx.save();
  ctx.strokeStyle = ctx.fillStyle = colour;
  ctx.lineWidth = scale;
  ctx.font = `${10.5 * scale}px system-ui, sans-serif`;
  let row = 0, end = -Infinity;
  for (const mark of marks) {
    if (mark.at < plot.scales.x.min || mark.at > plot.scales.x.max) continue;
    const x = Math.round(plot.valToPos(mark.at, "x", true));
    ctx.setLineDash([3 * scale, 3 * scale]);
    ctx.beginPath();
    ctx.moveTo(x, bbox.top);
    ctx.lineTo(x, bbox.top + bbox.height);
    ctx.stroke();
    const width = ctx.measureText(mark.text).width + 4 * scale;
    row = x < end ? row + 1 : 0;
    if (row > 2) continue;
    const left = x + width + 3 * scale > bbox.left + bbox.width;
    const at = bbox.top + (10 + 13 * row) * scale;
    ctx.textAlign = left ? "right" : "left";
    ctx.fillText(mark.text, x + (left ? -3 : 3) * scale, at);
    end = Math.max(end, x + (left ? 0 : width));
  }
  ctx.restore();
}

function options(place, shown) {
  const c = colours();
  const axis = { stroke: c.quiet, font: "11px system-ui, sans-serif", labelFont: "11px system-ui, sans-serif",
    grid: { stroke: c.line, width: 1 }, ticks: { stroke: c.line, width: 1, size: 4 } };
  const width = place.clientWidth;
  return {
    width, height: HEIGHT,
    cursor: { y: false, points: { size: 6 }, drag: { x: false, y: false }, sync: { key: "time" } },
    legend: { live: true },
    scales: {
      x: { time: true },
      y: { range: (_plot, _low, high) => [0, high > 0 ? high * 1.12 : 1] },
    },
    series: [
      { label: "Time", value: (_plot, value) => value === null ? "–" : clock(value, shown.data.step) },
      ...shown.data.lines.map(line => ({
        label: line.name, stroke: c.series(line.colour), width: 1.6, spanGaps: false,
        points: { size: 4 }, value: (_plot, value) => text(value),
      })),
    ],
    axes: [
      { ...axis, size: 40, space: 56, values: times },
      { ...axis, size: 46, space: 30, values: (_plot, splits) => splits.map(text) },
    ],
    hooks: { drawAxes: [plot => drawMarks(plot, shown.data.marks, c.quiet)] }  // below the lines,
  };
}

// Of the time axis: hours, and the day where it changes.
function times(_plot, splits, _axis, _space, step) {
  let before = "";
  return splits.map(seconds => {
    const at = new Date(seconds * 1000);
    const day = `${two(at.getMonth() + 1)}-${two(at.getDate())}`;
    const hour = step >= 86400 ? "" : `${two(at.getHours())}:${two(at.getMinutes())}`;
    const label = hour && day === before ? hour : hour ? `${hour}\n${day}` : day;
    before = day;
    return label;
  });
}

const values = data => [data.times, ...data.lines.map(line => line.values)];
const shape = data => JSON.stringify([data.unit, data.step, data.lines.map(line => [line.name, line.colour])]);

function draw(place, again) {
  const source = document.getElementById("data-" + place.id.slice("plot-".length));
  if (!source || !place.clientWidth) return;
  let shown = drawn.get(place);
  if (shown && !again && shown.text === source.textContent) return;
  const data = JSON.parse(source.textContent);
  if (shown && !again && shape(shown.data) === shape(data)) {
    Object.assign(shown, { data, text: source.textContent });
    shown.plot.setData(values(data));
    return;
  }
  if (shown) shown.plot.destroy();
  shown = { data, text: source.textContent };
  shown.plot = new uPlot(options(place, shown), values(data), place);
  drawn.set(place, shown);
  widths.observe(place);
}

const widths = new ResizeObserver(entries => {
  for (const { target } of entries) {
    const shown = drawn.get(target);
    if (shown && target.clientWidth && shown.plot.width !== target.clientWidth) {
      shown.plot.setSize({ width: target.clientWidth, height: HEIGHT });
    }
  }
});

function drawAll(again = false) {
  for (const place of [...drawn.keys()]) {
    if (!place.isConnected) { drawn.get(place).plot.destroy(); drawn.delete(place); }
  }
  for (const place of document.querySelectorAll(".plot[id^='plot-']")) draw(place, again);
  for (const note of document.querySelectorAll("[data-zone]")) {
    note.textContent = `Plots show the time of your browser, ${zone} (${offset(new Date())}); tables show UTC.`;
  }
}

document.addEventListener("htmx:after:swap", () => drawAll());
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawAll(true));
drawAll();

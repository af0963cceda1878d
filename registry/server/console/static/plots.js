// Draws the plots of a page with uPlot: <div class="plot" data-plot="JSON">, or <div class="plot" id="plot-NAME"> with its
// JSON in <script id="data-NAME">, which a part of the page that renews itself brings anew while the drawing stays
// (hx-morph-skip). A table beside each says the same.
// x: numbers, or with time: seconds since 1970, shown in UTC; step: of them, in seconds. labels: names of the whole numbers
// of x. series: [{label, values, colour}]. unit: of y. log: a logarithmic scale. dots: no lines. zoomed: y does not begin at 0.
// limits: [{at, text}], lines across. marks: [{at, text}], lines upright.
"use strict";

const drawn = new Map();  // of an element: its drawing, its data and their text
const two = number => String(number).padStart(2, "0");

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function text(value, unit) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  const digits = size >= 1000 ? Math.round(value).toLocaleString("en")
    : size > 0 && size < 0.001 ? value.toExponential(Number.isInteger(Math.log10(size)) ? 0 : 1) : String(Number(value.toPrecision(3)));
  return unit ? `${digits} ${unit}` : digits;
}

function moment(seconds, step) {
  const at = new Date(seconds * 1000);
  const day = `${two(at.getUTCMonth() + 1)}-${two(at.getUTCDate())}`;
  return [day, step >= 86400 ? "" : `${two(at.getUTCHours())}:${two(at.getUTCMinutes())}`];
}

// Of the time axis: hours, and the day where it changes.
function times(_plot, splits, _axis, _space, step) {
  let before = "";
  return splits.map(seconds => {
    const [day, hour] = moment(seconds, step);
    const label = hour && day === before ? hour : hour ? `${hour}\n${day}` : day;
    before = day;
    return label;
  });
}

// Lines where a limit is or something happened, with what it was where there is room for it.
function annotate(plot, data) {
  const { ctx, bbox } = plot;
  const scale = devicePixelRatio;
  ctx.save();
  ctx.lineWidth = scale;
  ctx.font = `${10.5 * scale}px system-ui, sans-serif`;
  ctx.textAlign = "left";
  ctx.setLineDash([3 * scale, 3 * scale]);
  const stroke = (fromX, fromY, toX, toY) => {
    ctx.beginPath();
    ctx.moveTo(fromX, fromY);
    ctx.lineTo(toX, toY);
    ctx.stroke();
  };
  ctx.strokeStyle = ctx.fillStyle = colour("--bad");
  for (const limit of data.limits ?? []) {
    const y = plot.valToPos(limit.at, "y", true);
    if (y < bbox.top || y > bbox.top + bbox.height) continue;
    stroke(bbox.left, y, bbox.left + bbox.width, y);
    ctx.fillText(limit.text, bbox.left + 4 * scale, y - 4 * scale);
  }
  ctx.strokeStyle = ctx.fillStyle = colour("--quiet");
  const rows = [[], [], []];  // what is written in each: from, to
  for (const mark of data.marks ?? []) {
    if (mark.at < plot.scales.x.min || mark.at > plot.scales.x.max) continue;
    const x = Math.round(plot.valToPos(mark.at, "x", true));
    stroke(x, bbox.top, x, bbox.top + bbox.height);
    const width = ctx.measureText(mark.text).width + 6 * scale;
    const from = x + width > bbox.left + bbox.width ? x - width : x;
    const row = rows.findIndex(taken => taken.every(([first, last]) => from >= last || from + width <= first));
    if (row < 0) continue;
    rows[row].push([from, from + width]);
    ctx.fillText(mark.text, from + 3 * scale, bbox.top + (10 + 13 * row) * scale);
  }
  ctx.restore();
}

function yAxis(data) {
  if (!data.log) {
    const room = data.zoomed
      ? (_plot, low, high) => [low - (high - low || 0.1) * 0.15, high + (high - low || 0.1) * 0.15]
      : (_plot, low, high) => [Math.min(0, low ?? 0), high > 0 ? high * 1.12 : 1];
    return [{ range: room }, {}];
  }
  const ends = [...data.series.flatMap(each => each.values), ...(data.limits ?? []).map(limit => limit.at)].filter(at => at > 0);
  const decades = [10 ** Math.floor(Math.log10(Math.min(...ends)) - 0.01), 10 ** Math.ceil(Math.log10(Math.max(...ends)) + 0.01)];
  const whole = at => Math.abs(Math.log10(at) - Math.round(Math.log10(at))) < 1e-9;
  return [{ distr: 3, range: decades }, { filter: (_plot, splits) => splits.map(at => whole(at) ? at : null) }];
}

function xAxis(data) {
  if (data.time) return [{ time: true }, { values: times, size: 40, space: 56 }];
  if (!data.labels) return [{ time: false }, {}];
  const many = data.labels.length > 8;
  return [{ time: false, range: (_plot, low, high) => [low - 0.3, high + 0.3] },
    { splits: () => data.x, values: (_plot, splits) => splits.map(at => data.labels[at] ?? ""), rotate: many ? -35 : 0, size: many ? 64 : 30 }];
}

function named(data, at) {
  if (at === null) return "–";
  return data.time ? moment(at, data.step).join(" ").trim() : data.labels ? data.labels[at] ?? "" : text(at);
}

function options(place, shown) {
  const { data } = shown;
  const quiet = colour("--quiet"), line = colour("--line");
  const axis = { stroke: quiet, font: "11px system-ui, sans-serif", grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1, size: 4 } };
  const [x, below] = xAxis(data), [y, beside] = yAxis(data);
  const few = data.x.length < 40;
  return {
    width: place.clientWidth, height: 220, scales: { x, y },
    tzDate: at => uPlot.tzDate(new Date(at * 1000), "Etc/UTC"),
    cursor: { y: false, points: { size: 7 }, drag: { x: false, y: false }, sync: data.time ? { key: "time" } : undefined },
    series: [
      { label: data.time ? "UTC" : data.name ?? "", value: (_plot, at) => named(shown.data, at) },
      ...data.series.map((each, number) => {
        const stroke = colour(each.colour === 0 ? "--line-strong" : `--series-${each.colour ?? number % 5 + 1}`);
        return {
          label: each.label, stroke, width: data.dots ? 0 : 1.8, spanGaps: false, dash: number >= 5 ? [6, 4] : undefined,
          points: { show: data.dots || few ? true : undefined, size: data.dots ? 7 : 4, fill: stroke },
          value: (_plot, value) => text(value, data.unit),
        };
      }),
    ],
    axes: [{ ...axis, ...below }, { ...axis, size: 58, space: 30, values: (_plot, splits) => splits.map(at => at === null ? "" : text(at, data.unit)), ...beside }],
    hooks: { drawAxes: [plot => annotate(plot, shown.data)] },  // below the lines
  };
}

const values = data => [data.x, ...data.series.map(each => each.values)];
const shape = data => JSON.stringify([data.unit, data.step, data.labels, data.limits, data.series.map(each => [each.label, each.colour])]);

function draw(place, again) {
  const said = place.dataset.plot ?? document.getElementById("data-" + place.id.slice("plot-".length))?.textContent;
  if (!said) return;
  place.hidden = false;
  if (!place.clientWidth) return;
  let shown = drawn.get(place);
  if (shown && !again && shown.said === said) return;
  const data = JSON.parse(said);
  if (shown && !again && shape(shown.data) === shape(data)) {
    Object.assign(shown, { data, said });
    shown.plot.setData(values(data));
    return;
  }
  if (shown) shown.plot.destroy();
  shown = { data, said };
  shown.plot = new uPlot(options(place, shown), values(data), place);
  drawn.set(place, shown);
  widths.observe(place);
}

const widths = new ResizeObserver(entries => {
  for (const { target } of entries) {
    const shown = drawn.get(target);
    if (shown && target.clientWidth && shown.plot.width !== target.clientWidth) {
      shown.plot.setSize({ width: target.clientWidth, height: shown.plot.height });
    }
  }
});

function drawAll(again = false) {
  for (const place of [...drawn.keys()]) {
    if (!place.isConnected) { drawn.get(place).plot.destroy(); drawn.delete(place); }
  }
  for (const place of document.querySelectorAll(".plot[data-plot], .plot[id^='plot-']")) draw(place, again);
}

document.addEventListener("htmx:after:swap", () => drawAll());
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawAll(true));
drawAll();

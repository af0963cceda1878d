// Draws the figures that a page holds: <div class="plot" data-plot='{"x": [...], "series": [{"label", "values"}]}' hidden>.
// time: x is in seconds since 1970. labels: names of the whole numbers of x. log: a logarithmic scale. unit: of y.
// limits: [{"at", "text"}], lines across. marks: [{"at", "text"}], lines upright. The table beside it says the same.
"use strict";

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function figure(value, unit) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  const text = size >= 1000 ? Math.round(value).toLocaleString("en")
    : size > 0 && size < 0.001 ? value.toExponential(Number.isInteger(Math.log10(size)) ? 0 : 1) : String(Number(value.toPrecision(3)));
  return unit ? `${text} ${unit}` : text;
}

function lines(plot, data) {
  const { ctx, bbox } = plot;
  ctx.save();
  ctx.font = `${11 * devicePixelRatio}px system-ui, sans-serif`;
  ctx.lineWidth = devicePixelRatio;
  ctx.textAlign = "left";
  ctx.setLineDash([4 * devicePixelRatio, 3 * devicePixelRatio]);
  for (const limit of data.limits ?? []) {
    const y = plot.valToPos(limit.at, "y", true);
    if (y < bbox.top || y > bbox.top + bbox.height) continue;
    ctx.strokeStyle = ctx.fillStyle = colour("--bad");
    ctx.beginPath(); ctx.moveTo(bbox.left, y); ctx.lineTo(bbox.left + bbox.width, y); ctx.stroke();
    ctx.fillText(limit.text, bbox.left + 4 * devicePixelRatio, y - 4 * devicePixelRatio);
  }
  for (const mark of data.marks ?? []) {
    const x = plot.valToPos(mark.at, "x", true);
    if (x < bbox.left || x > bbox.left + bbox.width) continue;
    ctx.strokeStyle = ctx.fillStyle = colour("--quiet");
    ctx.beginPath(); ctx.moveTo(x, bbox.top); ctx.lineTo(x, bbox.top + bbox.height); ctx.stroke();
    ctx.fillText(mark.text, x + 4 * devicePixelRatio, bbox.top + 11 * devicePixelRatio);
  }
  ctx.restore();
}

function draw(box) {
  const data = JSON.parse(box.dataset.plot);
  box.hidden = false;
  box.replaceChildren();
  const axis = { stroke: colour("--quiet"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line") } };
  const few = data.x.length < 40;
  const series = data.series.map((each, number) => ({
    label: each.label,
    stroke: colour(`--series-${number % 5 + 1}`),
    width: data.dots ? 0 : 2,
    dash: number >= 5 ? [6, 4] : undefined,
    points: { show: data.dots || few, size: data.dots ? 7 : 5, fill: colour(`--series-${number % 5 + 1}`) },
    value: (_, value) => figure(value, data.unit),
  }));
  const named = data.labels && {
    splits: () => data.x,
    values: (_, splits) => splits.map(at => data.labels[at] ?? ""),
    rotate: data.labels.length > 8 ? -35 : 0,
    size: data.labels.length > 8 ? 64 : 30,
  };
  const ends = [...data.series.flatMap(each => each.values), ...(data.limits ?? []).map(limit => limit.at)].filter(at => at > 0);
  const decades = [10 ** Math.floor(Math.log10(Math.min(...ends)) - 0.01), 10 ** Math.ceil(Math.log10(Math.max(...ends)) + 0.01)];
  const y = data.log ? { distr: 3, range: decades } : { range: (_, low, high) => [Math.min(0, low ?? 0), high > 0 ? high * 1.08 : 1] };
  if (data.zoomed) y.range = (_, low, high) => [low - (high - low || 0.1) * 0.15, high + (high - low || 0.1) * 0.15];
  const x = { time: Boolean(data.time) };
  if (data.labels) x.range = (_, low, high) => [low - 0.3, high + 0.3];
  new uPlot({
    width: box.clientWidth, height: 230, scales: { x, y },
    tzDate: at => uPlot.tzDate(new Date(at * 1000), "Etc/UTC"),
    series: [{ label: data.time ? "UTC" : data.name ?? "", value: data.labels ? (_, at) => data.labels[at] ?? "" : undefined }, ...series],
    axes: [{ ...axis, ...named }, { ...axis, size: 62, filter: data.log ? (_, splits) => splits.map(at => Number.isInteger(Math.log10(at)) || Math.abs(Math.log10(at) - Math.round(Math.log10(at))) < 1e-9 ? at : null) : undefined, values: (_, splits) => splits.map(value => value === null ? "" : figure(value, data.unit)) }],
    cursor: { points: { size: 8 } },
    hooks: { draw: [plot => lines(plot, data)] },
  }, [data.x, ...data.series.map(each => each.values)], box);
  box.dataset.drawn = box.clientWidth;
}

function drawAll() {
  for (const box of document.querySelectorAll(".plot[data-plot]")) draw(box);
}

addEventListener("resize", () => {
  for (const box of document.querySelectorAll(".plot[data-plot]")) if (Number(box.dataset.drawn) !== box.clientWidth) draw(box);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
document.addEventListener("htmx:after:swap", drawAll);
if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", drawAll);
else drawAll();

// Four charts of the last minutes with one cursor: IOPS, throughput, queue depth, and how latencies were spread.
/* global uPlot */

import { element, setText } from "./tables.js";
import * as format from "./format.js";

// A cell as /live sends it.
export const CELL = { at: 0, reads: 1, writes: 2, others: 3, readBytes: 4, writtenBytes: 5, errors: 6, depth: 7, meanDepth: 8, mean: 9, p50: 10, p99: 11, counts: 12 };
const GAP_S = 3; // without a cell for longer than that, a line is interrupted
const SYNC = "live";
const SHORTEST_S = 60; // that charts show, when there is no more yet
const BINARY = Array.from({ length: 50 }, (_, power) => 2 ** power);

const CHARTS = [
  { id: "iops", title: "IOPS", text: format.count, lines: [["reads", "Reads", "reads"], ["writes", "Writes", "writes", [7, 3]], ["others", "Other", "others", [2, 3]]] },
  { id: "throughput", title: "Throughput", text: format.rate, incrs: BINARY, lines: [["readBytes", "Reads", "reads"], ["writtenBytes", "Writes", "writes", [7, 3]]] },
  { id: "depth", title: "Queue depth", text: format.count, lines: [["depth", "Now", "reads"], ["meanDepth", "Mean", "writes", [7, 3]]] },
  { id: "latency", title: "Latency", text: format.time, heat: true, lines: [["p50", "Median", "median"], ["p99", "p99", "tail", [7, 3]]] },
];

// Latencies on the heat map's axis, which is logarithmic as the buckets are: bucket i lies from i to i + 1.
const FIRST_OCTAVE = 8;
export function position(ns) {
  if (ns == null) return null;
  const octave = Math.max(FIRST_OCTAVE, Math.floor(Math.log2(ns)));
  return Math.max(0, 4 * (octave - FIRST_OCTAVE) + 4 * (ns / 2 ** octave - 1) + 1);
}
const MARKS = [];
for (let power = 2; power < 11; power += 1) for (const factor of [1, 2, 5]) MARKS.push([position(factor * 10 ** power), factor * 10 ** power, factor]);

const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

export class Charts {
  constructor(where) {
    this.cells = [];
    this.seconds = 300;
    this.charts = CHARTS.map((chart) => this.place(where, chart));
    this.build();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.build());
    new ResizeObserver(() => this.resize()).observe(where);
  }

  place(where, chart) {
    const values = chart.lines.map(() => element("b", {}, "–"));
    const legend = element("ul", { class: "legend", id: `${chart.id}-legend` });
    chart.lines.forEach(([, name, colour, dash], index) =>
      legend.append(element("li", {}, element("i", { class: `key ${colour}${dash ? " dashed" : ""}`, "aria-hidden": "true" }), `${name} `, values[index])));
    if (chart.heat) legend.append(element("li", { class: "scale" }, "few ", element("i", { class: "heat", "aria-hidden": "true" }), " many"));
    const time = element("span", { class: "muted at" });
    const title = element("h2", { id: `${chart.id}-title` }, chart.title, " ", time);
    const plot = element("div", { class: "plot", id: `${chart.id}-plot`, tabindex: "0", role: "group", "aria-roledescription": "chart", "aria-labelledby": `${chart.id}-title`, "aria-describedby": `${chart.id}-legend hint` });
    plot.addEventListener("keydown", (pressed) => this.step(pressed));
    plot.addEventListener("blur", () => this.leave());
    where.append(element("figure", { id: chart.id }, element("figcaption", {}, title, legend), plot));
    return { ...chart, plot, values, time };
  }

  // Canvases know nothing of style sheets: they are made again when the colours change.
  build() {
    const stops = style("heat").split(/[\s,]+/).map((hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)));
    this.heat = Array.from({ length: 64 }, (_, step) => {
      const at = (step / 63) * (stops.length - 1);
      const low = Math.min(Math.floor(at), stops.length - 2);
      return `rgb(${stops[low].map((from, part) => Math.round(from + (stops[low + 1][part] - from) * (at - low))).join(",")})`;
    });
    for (const chart of this.charts) {
      chart.u?.destroy();
      chart.u = new uPlot(this.options(chart), this.columns(chart), chart.plot);
    }
    this.legend();
  }

  options(chart) {
    const axis = { stroke: style("muted"), grid: { stroke: style("grid"), width: 1 }, ticks: { show: false }, font: "12px system-ui, sans-serif" };
    const line = { width: 1.6, spanGaps: false, points: { show: false } };
    const lines = chart.lines.map(([, , colour, dash]) => ({
      ...line, stroke: style(colour), dash, fill: dash || chart.heat ? undefined : `${style(colour)}22`,
    }));
    // On the heat map's colours a line needs an edge to be seen.
    if (chart.heat) lines.unshift(...lines.map(() => ({ ...line, stroke: style("card"), width: 4.5 })));
    return {
      ...this.size(chart),
      legend: { show: false },
      padding: [10, 8, 0, 0],
      cursor: { sync: { key: SYNC }, drag: { x: false, y: false }, y: false, points: { size: 7 } },
      scales: { x: { time: false, range: () => this.span() }, y: { range: (u, low, high) => (chart.heat ? this.heatSpan() : [0, Math.max(1, high * 1.08)]) } },
      axes: [
        { ...axis, size: 28, space: 80, incrs: [10, 20, 30, 60, 120], values: (u, splits) => splits.map(format.clock), grid: { show: false } },
        { ...axis, size: 70, space: 28, ...(chart.incrs && { incrs: chart.incrs }), ...(chart.heat ? { splits: () => this.marks(chart), grid: { show: false } } : {}), values: (u, splits) => splits.map((at) => (chart.heat ? format.time(MARKS.find(([where]) => where === at)[1]) : chart.text(at))) },
      ],
      series: [{}, ...lines],
      hooks: {
        setCursor: [() => this.legend()],
        drawAxes: chart.heat ? [(u) => this.drawHeat(u)] : [],
      },
    };
  }

  size(chart) {
    return { width: chart.plot.clientWidth || 300, height: chart.plot.clientHeight || 200 };
  }

  resize() {
    for (const chart of this.charts) chart.u.setSize(this.size(chart));
  }

  span() {
    const last = this.cells.at(-1)?.[CELL.at] ?? Date.now() / 1000;
    const first = this.cells[0]?.[CELL.at] ?? last;
    return [last - Math.min(this.seconds, Math.max(SHORTEST_S, last - first)), last];
  }

  set({ cells, seconds }) {
    this.seconds = seconds;
    this.cells = [];
    for (const cell of cells) this.append(cell);
    this.draw();
  }

  add(cell) {
    if (cell[CELL.at] <= (this.cells.at(-1)?.[CELL.at] ?? 0)) return;
    this.append(cell);
    const oldest = cell[CELL.at] - this.seconds - 2;
    while (this.cells[0][CELL.at] < oldest) this.cells.shift();
    this.draw();
  }

  append(cell) {
    const before = this.cells.at(-1)?.[CELL.at];
    if (before && cell[CELL.at] - before > GAP_S) this.cells.push([before + 1, ...Array(11).fill(null), []]);
    this.cells.push(cell);
  }

  draw() {
    for (const chart of this.charts) chart.u.setData(this.columns(chart));
    this.legend();
  }

  columns(chart) {
    const column = (index, change) => this.cells.map((cell) => (change ? change(cell[index]) : cell[index]));
    const lines = chart.lines.map(([key]) => column(CELL[key], chart.heat && position));
    return [column(CELL.at), ...(chart.heat ? lines : []), ...lines];
  }

  // ---- the heat map

  heatSpan() {
    let [low, high] = [Infinity, -Infinity];
    for (const cell of this.cells) {
      const { [CELL.counts]: counts } = cell;
      if (!counts.length) continue;
      low = Math.min(low, counts[0]);
      high = Math.max(high, counts.at(-2) + 1);
    }
    if (low > high) return [position(1e3), position(1e6)];
    return [Math.max(0, low - 2), Math.max(high + 1, low + 12)];
  }

  // As many labels as have room: 1-2-5, 1 alone, or each third power of ten.
  marks(chart) {
    const [low, high] = this.heatSpan();
    const inside = MARKS.filter(([at]) => at >= low && at <= high);
    const room = Math.max(2, Math.floor(chart.plot.clientHeight / 30));
    if (inside.length <= room) return inside.map(([at]) => at);
    const tens = inside.filter(([, , factor]) => factor === 1);
    return tens.filter((_, index) => index % Math.ceil(tens.length / room) === 0).map(([at]) => at);
  }

  drawHeat(u) {
    const most = Math.log1p(Math.max(1, ...this.cells.map((cell) => cell[CELL.counts].reduce((top, value, index) => (index % 2 ? Math.max(top, value) : top), 0))));
    const { ctx } = u;
    ctx.save();
    ctx.beginPath();
    ctx.rect(u.bbox.left, u.bbox.top, u.bbox.width, u.bbox.height);
    ctx.clip();
    this.cells.forEach((cell, at) => {
      const counts = cell[CELL.counts];
      const before = Math.max(this.cells[at - 1]?.[CELL.at] ?? -Infinity, cell[CELL.at] - GAP_S);
      const start = at && before > cell[CELL.at] - GAP_S ? before : cell[CELL.at] - 1;
      const left = Math.floor(u.valToPos(start, "x", true));
      const width = Math.ceil(u.valToPos(cell[CELL.at], "x", true)) - left;
      for (let pair = 0; pair < counts.length; pair += 2) {
        const top = Math.floor(u.valToPos(counts[pair] + 1, "y", true));
        ctx.fillStyle = this.heat[Math.round((63 * Math.log1p(counts[pair + 1])) / most)];
        ctx.fillRect(left, top, width, Math.ceil(u.valToPos(counts[pair], "y", true)) - top);
      }
    });
    ctx.restore();
  }

  // ---- the cursor

  get chosen() {
    const { idx, left } = this.charts[0].u?.cursor ?? {};
    return idx == null || left < 0 ? null : idx;
  }

  legend() {
    if (this.charts.some((chart) => !chart.u)) return;
    const at = this.chosen;
    const cell = at == null ? this.cells.at(-1) : this.cells[at];
    for (const chart of this.charts) {
      setText(chart.time, at == null || !cell ? "" : format.clock(cell[CELL.at]));
      chart.lines.forEach(([key], index) => setText(chart.values[index], cell ? chart.text(cell[CELL[key]]) : "–"));
    }
  }

  step(pressed) {
    const last = this.cells.length - 1;
    const now = this.chosen ?? last;
    const large = Math.max(1, Math.round(this.seconds / 10));
    const to = { ArrowLeft: now - 1, ArrowRight: now + 1, PageUp: now - large, PageDown: now + large, Home: 0, End: last }[pressed.key];
    if (pressed.key === "Escape") this.leave();
    else if (to !== undefined && last >= 0) this.point(Math.min(last, Math.max(0, to)));
    else return;
    pressed.preventDefault();
  }

  point(index) {
    for (const { u } of this.charts) {
      u.setCursor({ left: Math.max(0, u.valToPos(this.cells[index][CELL.at], "x")), top: 4 }, true, false);
    }
    this.legend();
  }

  leave() {
    for (const { u } of this.charts) u.setCursor({ left: -10, top: -10 }, true, false);
    this.legend();
  }
}

// Small charts of one series, and the same in words.

import {el, setText, svg} from "./parts.js";
import {clock} from "./words.js";

const HEIGHT = 168, LEFT = 62, RIGHT = 8, TOP = 10, BOTTOM = 22;
const NARROWEST = 240, LABEL_EVERY = 80, LABEL_HALF = 18; // pixels

const ROUND = [1, 2, 3, 4, 6, 8, 10, 20, 30, 40, 60, 80, 100, 200, 300, 400, 600, 800, 1024];
const ROUND_S = [60, 120, 300, 600, 1800, 3600, 7200, 10800, 21600];

// The smallest round number of bytes that is no less than n.
function nice(n) {
  let unit = 1;
  while (n > 1024 * unit) unit *= 1024;
  return ROUND.find((step) => n <= step * unit) * unit;
}

// Round times of the day between two, at most so many.
function times(from, to, most) {
  const step = ROUND_S.find((s) => (to - from) / s <= most) ?? ROUND_S.at(-1);
  const zone = new Date(from * 1000).getTimezoneOffset() * 60;
  const found = [];
  for (let at = Math.ceil((from - zone) / step) * step + zone; at <= to; at += step) found.push(at);
  return found;
}

export class Chart {
  // how: {title, kind: "line" or "bars", format(value), top: the scale's end, or it follows the values}
  constructor(how) {
    Object.assign(this, how, {points: [], from: 0, to: 1, at: null});
    this.head = el("strong", {class: "chart-head"});
    this.readout = el("span", {class: "quiet chart-readout"});
    this.svg = svg("svg", {class: `chart ${how.kind}`, role: "img", tabindex: "0", height: HEIGHT,
      onpointermove: (e) => this.point(e.offsetX), onpointerleave: () => this.pick(null),
      onkeydown: (e) => this.key(e), onblur: () => this.pick(null)});
    this.rows = el("tbody");
    const table = el("table", {}, el("caption", {class: "visually-hidden"}, how.title),
      el("thead", {}, el("tr", {}, el("th", {scope: "col"}, "Time"), el("th", {scope: "col", class: "number"}, how.title))),
      this.rows);
    this.node = el("figure", {},
      el("figcaption", {}, el("span", {class: "chart-title"}, how.title), this.head, this.readout),
      this.svg, el("details", {}, el("summary", {}, "As numbers"), el("div", {class: "numbers"}, table)));
    new ResizeObserver(() => this.draw()).observe(this.svg);
  }

  // points: {from, to, value (null: nothing to tell), note}; head and summary: words for all of it.
  set(points, from, to, head, summary) {
    Object.assign(this, {points, from, to});
    setText(this.head, head);
    this.svg.setAttribute("aria-label", summary);
    const told = points.filter((p) => p.value !== null).reverse();
    this.rows.replaceChildren(...told.map((p) => el("tr", {}, el("td", {}, clock(p.from)),
      el("td", {class: "number"}, this.format(p.value)))));
    this.draw();
  }

  x(time) {
    return LEFT + (time - this.from) / (this.to - this.from) * (this.width - LEFT - RIGHT);
  }

  y(value) {
    return TOP + (this.high - value) / (this.high - this.low) * (HEIGHT - TOP - BOTTOM);
  }

  draw() {
    if (!this.points.length) return;
    const values = this.points.map((p) => p.value ?? 0);
    this.width = Math.max(NARROWEST, this.svg.clientWidth || 600);
    this.high = this.top ?? nice(Math.max(1024, ...values));
    this.low = this.top ? 0 : -nice(-Math.min(0, ...values));
    if (this.low > -1024) this.low = 0;
    this.svg.setAttribute("viewBox", `0 0 ${this.width} ${HEIGHT}`);
    this.mark = svg("line", {class: "mark", y1: TOP, y2: HEIGHT - BOTTOM});
    this.svg.replaceChildren(...this.grid(), ...(this.kind === "line" ? this.line() : this.bars()), this.mark);
    this.pick(this.at);
  }

  grid() {
    const levels = this.low < 0 ? [this.low, 0, this.high] : [0, this.high / 2, this.high];
    const nodes = levels.flatMap((v) => [
      svg("line", {class: v === 0 ? "base" : "grid", x1: LEFT, x2: this.width - RIGHT, y1: this.y(v), y2: this.y(v)}),
      svg("text", {x: LEFT - 8, y: this.y(v) + 4, "text-anchor": "end"}, this.format(v)),
    ]);
    for (const time of times(this.from, this.to, Math.floor((this.width - LEFT) / LABEL_EVERY))) {
      const x = this.x(time), last = x > this.width - RIGHT - LABEL_HALF;
      nodes.push(svg("line", {class: "grid", x1: x, x2: x, y1: HEIGHT - BOTTOM, y2: HEIGHT - BOTTOM + 4}),
        svg("text", {x: last ? this.width - RIGHT : x, y: HEIGHT - 4, "text-anchor": last ? "end" : "middle"}, clock(time)));
    }
    return nodes;
  }

  // Where nothing was asked there is nothing to draw: parts of a line, and dots for the lonely.
  line() {
    const runs = [];
    let run = null;
    for (const p of this.points) {
      if (p.value === null) run = null;
      else if (run) run.push(p);
      else runs.push(run = [p]);
    }
    return runs.flatMap((points) => {
      const at = points.map((p) => [this.x((p.from + p.to) / 2), this.y(p.value)]);
      if (at.length === 1) return [svg("circle", {class: "dot", cx: at[0][0], cy: at[0][1], r: 2.5})];
      const path = at.map(([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`).join(" L ");
      return [svg("path", {class: "area", d: `M ${at[0][0]} ${this.y(0)} L ${path} L ${at.at(-1)[0]} ${this.y(0)} Z`}),
        svg("path", {class: "stroke", d: `M ${path}`})];
    });
  }

  bars() {
    return this.points.filter((p) => p.value).map((p) => {
      const left = this.x(Math.max(p.from, this.from)), right = this.x(Math.min(p.to, this.to));
      const top = this.y(Math.max(0, p.value)), bottom = this.y(Math.min(0, p.value));
      return svg("rect", {class: p.value < 0 ? "bar below" : "bar", x: left + 0.5, y: top,
        width: Math.max(1, right - left - 1), height: Math.max(0.5, bottom - top)});
    });
  }

  point(offset) {
    const scale = this.width / (this.svg.clientWidth || this.width);
    const time = this.from + (offset * scale - LEFT) / (this.width - LEFT - RIGHT) * (this.to - this.from);
    this.pick(this.points.find((p) => p.from <= time && time < p.to)?.from ?? null);
  }

  key(event) {
    const step = {ArrowLeft: -1, ArrowRight: 1}[event.key];
    if (!step || !this.points.length) return;
    event.preventDefault();
    const now = this.points.findIndex((p) => p.from === this.at);
    const next = now < 0 ? this.points.length - 1 : now + step;
    this.pick(this.points[Math.min(this.points.length - 1, Math.max(0, next))].from);
  }

  // Says one point's numbers; it is known by its time, as others come.
  pick(from) {
    const p = this.points.find((q) => q.from === from);
    this.at = p ? from : null;
    this.mark.style.display = p ? "" : "none";
    if (!p) {
      setText(this.readout, "");
      return;
    }
    const said = [p.value === null ? "nothing asked" : this.format(p.value), p.note];
    setText(this.readout, `${clock(p.from, p.to - p.from < 60)}: ${said.filter(Boolean).join(", ")}`);
    const x = this.x((p.from + p.to) / 2);
    this.mark.setAttribute("x1", x);
    this.mark.setAttribute("x2", x);
  }
}

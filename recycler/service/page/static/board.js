// A board: a still frame of axes, drawn by plotly, with the trials painted on a canvas above it.
// A drag selects a range, a click chooses a trial. Both are told to the page, which paints again.

import { number } from "./dom.js";
import { colour, draw } from "./figure.js";
import { marks } from "./marks.js";

const NEAR = 12; // px
const FAINT = { front: 1, search: 0.45, pruned: 0.4 };
const SIZE = { front: 6, search: 2.4, pruned: 2.6 };

export class Board {
  /** kind: `scatter` or `parallel`; tell: {range(objective, ends), clear(objectives), choose(number)} */
  constructor(host, kind, model, tell) {
    Object.assign(this, { host, kind, model, tell, panels: [], chosen: null, pick: null, guess: null });
    this.frame = document.createElement("div");
    this.canvas = document.createElement("canvas");
    this.canvas.setAttribute("aria-hidden", "true"); // the table beside it says the same
    this.tip = document.createElement("div");
    this.tip.className = "tip";
    this.tip.hidden = true;
    host.replaceChildren(this.frame, this.canvas, this.tip);
    this.listen();
    new ResizeObserver(() => { if (this.figure && Math.abs(host.clientWidth - this.width) > 2) this.draw(this.figure); }).observe(host);
  }

  async draw(figure) {
    this.figure = figure;
    this.width = this.host.clientWidth;
    const adapt = (layout) => { layout.width = this.width; layout.autosize = false; if (this.kind === "scatter" && layout.height < 400 && this.width > 600) layout.height = 430; layout.margin = { ...layout.margin, l: this.width < 500 ? 48 : 60, r: 12 }; };
    await draw(this.frame, figure, { still: true, adapt, after: () => this.measure() });
  }

  /** Where the axes are, in pixels. */
  measure() {
    const layout = this.frame._fullLayout, found = this.model.found;
    const axis = (a) => ({ from: a._offset, length: a._length, r0: a.range[0], r1: a.range[1] });
    const place = (i) => (i ? String(i + 1) : "");
    if (this.kind === "scatter") {
      this.panels = found.panels.filter((_, i) => layout["xaxis" + place(i)]).map(([across, up], i) => ({
        across, up, x: axis(layout["xaxis" + place(i)]), y: axis(layout["yaxis" + place(i)]),
      }));
    } else {
      const x = axis(layout.xaxis), y = axis(layout.yaxis);
      const names = this.model.objectives.filter((o) => found.axes[o.name]);
      names.sort((a, b) => a.held_out - b.held_out);
      this.axes = names.map((o, i) => ({ name: o.name, max: o.direction === "max", ...found.axes[o.name], at: x.from + ((i - x.r0) / (x.r1 - x.r0)) * x.length }));
      this.panels = [{ x, y }];
    }
    const scale = window.devicePixelRatio || 1, c = this.canvas;
    c.width = this.frame.clientWidth * scale; c.height = layout.height * scale;
    c.style.width = `${this.frame.clientWidth}px`; c.style.height = `${layout.height}px`;
    this.context = c.getContext("2d");
    this.context.setTransform(scale, 0, 0, scale, 0, 0);
    this.paint();
  }

  paint() {
    if (!this.context) return;
    this.context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    if (this.kind === "scatter") for (const panel of this.panels) this.scatter(panel);
    else this.lines();
    this.context.globalAlpha = 1;
  }

  // --- scatter ---

  /** Pixels of a value on an axis; outside it, at the border. */
  static at(axis, v, vertical) {
    const share = Math.min(0.985, Math.max(0.015, (v - axis.r0) / (axis.r1 - axis.r0)));
    return vertical ? axis.from + (1 - share) * axis.length : axis.from + share * axis.length;
  }

  static inside(axis, v) { const s = (v - axis.r0) / (axis.r1 - axis.r0); return s >= 0 && s <= 1; }

  values(name) { return name ? this.model.values[name] : this.model.trials.number; }

  scatter(panel) {
    const { context: c, model } = this, xs = this.values(panel.across), ys = this.values(panel.up);
    const paper = colour("paper"), ink = colour("ink"), styles = model.found.styles, symbols = model.found.symbols;
    const buckets = new Map();
    for (let i = 0; i < model.k; i += 1) {
      const group = model.group[i], x = xs[i], y = ys[i];
      if (!group || Number.isNaN(x) || Number.isNaN(y) || model.hidden.has(group)) continue;
      const own = group === "front" ? symbols[model.trials.kind[i]] ?? "circle" : styles[group].symbol;
      const out = !Board.inside(panel.x, x) || !Board.inside(panel.y, y);
      const p = group === "front" ? model.members.get(model.trials.number[i])?.p ?? 1 : 1;
      const key = `${group}|${own}|${model.keep[i]}|${out ? 1 : 0}|${Math.ceil(p * 4)}`;
      if (!buckets.has(key)) buckets.set(key, []);
      buckets.get(key).push(Board.at(panel.x, x, false), Board.at(panel.y, y, true));
    }
    const order = Object.keys(styles);
    const ordered = [...buckets].map(([key, at]) => [key.split("|"), at]).sort((a, b) => a[0][2] - b[0][2] || order.indexOf(a[0][0]) - order.indexOf(b[0][0]));
    for (const [[group, symbol, kept, out, p], at] of ordered) {
      c.globalAlpha = (FAINT[group] ?? 0.95) * (kept === "1" ? 1 : 0.13) * (group === "front" ? 0.35 + 0.1625 * p : 1);
      const fill = styles[group].colour === "#000000" ? ink : styles[group].colour;
      marks(c, symbol, at, SIZE[group] ?? 5, fill, FAINT[group] < 1 || kept === "0" ? "" : paper, out === "1");
    }
    this.extras(panel, xs, ys, ink);
    this.box(panel);
  }

  /** The ring around the pick, that around the chosen trial, and what is predicted. */
  extras(panel, xs, ys, ink) {
    const { context: c, model } = this;
    c.globalAlpha = 1;
    for (const [n, r, dash] of [[this.pick, 10, []], [this.chosen, 13, [3, 3]]]) {
      const i = model.row.get(n);
      if (i === undefined || Number.isNaN(xs[i]) || Number.isNaN(ys[i])) continue;
      c.beginPath(); c.setLineDash(dash); c.strokeStyle = ink; c.lineWidth = 1.8;
      c.arc(Board.at(panel.x, xs[i]), Board.at(panel.y, ys[i], true), r, 0, 7); c.stroke();
    }
    c.setLineDash([]);
    const x = panel.across ? this.guess?.[panel.across] : null, y = this.guess?.[panel.up];
    if (!x || !y) return;
    const px = (v) => Board.at(panel.x, v), py = (v) => Board.at(panel.y, v, true);
    c.strokeStyle = c.fillStyle = colour("accent"); c.lineWidth = 1.5;
    c.beginPath();
    c.moveTo(px(x.mean[0]), py(y.expected)); c.lineTo(px(x.mean[1]), py(y.expected));
    c.moveTo(px(x.expected), py(y.mean[0])); c.lineTo(px(x.expected), py(y.mean[1]));
    c.stroke();
    marks(c, "diamond", [px(x.expected), py(y.expected)], 6, colour("paper"), colour("accent"));
  }

  box(panel) {
    const { context: c, model } = this, edge = (axis, name, vertical) => {
      const ends = name && model.ranges[name];
      if (!ends) return vertical ? [axis.from, axis.from + axis.length] : [axis.from, axis.from + axis.length];
      const clip = (v) => Math.min(axis.from + axis.length, Math.max(axis.from, vertical ? axis.from + (1 - (v - axis.r0) / (axis.r1 - axis.r0)) * axis.length : axis.from + ((v - axis.r0) / (axis.r1 - axis.r0)) * axis.length));
      return [clip(ends[0]), clip(ends[1])].sort((a, b) => a - b);
    };
    if (!model.ranges[panel.across] && !model.ranges[panel.up]) return;
    const [x0, x1] = edge(panel.x, panel.across, false), [y0, y1] = edge(panel.y, panel.up, true);
    c.globalAlpha = 0.1; c.fillStyle = colour("accent"); c.fillRect(x0, y0, x1 - x0, y1 - y0);
    c.globalAlpha = 0.9; c.strokeStyle = colour("accent"); c.lineWidth = 1; c.strokeRect(x0, y0, x1 - x0, y1 - y0);
  }

  // --- parallel coordinates ---

  share(axis, v) {
    const s = (v - axis.low) / (axis.high - axis.low);
    return Math.min(0.98, Math.max(0.02, axis.max ? s : 1 - s));
  }

  height(axis, v) { const y = this.panels[0].y; return y.from + (1 - (this.share(axis, v) - y.r0) / (y.r1 - y.r0)) * y.length; }

  lines() {
    const { context: c, model, axes } = this, styles = model.found.styles, ink = colour("ink");
    const rank = new Map(Object.keys(styles).map((kind, i) => [kind, i]));
    const rows = [];
    for (let i = 0; i < model.k; i += 1) if (model.group[i] && model.group[i] !== "pruned" && !model.hidden.has(model.group[i])) rows.push(i);
    rows.sort((a, b) => model.keep[a] - model.keep[b] || rank.get(model.group[a]) - rank.get(model.group[b]));
    let look = "";
    c.lineJoin = "bevel";
    const columns = axes.map((axis) => model.values[axis.name]);
    let open = 0;
    for (const i of rows) {
      const group = model.group[i], kept = model.keep[i], next = group + kept;
      if (next !== look || open > 60) {
        if (open) c.stroke();
        c.beginPath(); open = 0;
        if (next !== look) {
          look = next;
          c.globalAlpha = (group === "front" ? 0.9 : group === "search" ? (rows.length > 1000 ? 0.12 : 0.3) : 0.7) * (kept ? 1 : group === "search" ? 0.15 : 0.12);
          c.strokeStyle = styles[group].colour === "#000000" ? ink : styles[group].colour;
          c.lineWidth = group === "front" ? 2 : 1;
          c.setLineDash(group === "front" || group === "search" ? [] : [3, 3]);
        }
      }
      let pen = false;
      for (let a = 0; a < axes.length; a += 1) {
        const v = columns[a][i];
        if (Number.isNaN(v)) { pen = false; continue; }
        const y = this.height(axes[a], v);
        if (pen) c.lineTo(axes[a].at, y); else c.moveTo(axes[a].at, y);
        pen = true;
      }
      open += 1;
    }
    if (open) c.stroke();
    c.setLineDash([]);
    for (const axis of axes) {
      const ends = model.ranges[axis.name];
      if (!ends) continue;
      const [a, b] = ends.map((v) => this.height(axis, v)).sort((p, q) => p - q);
      c.globalAlpha = 0.2; c.fillStyle = colour("accent"); c.fillRect(axis.at - 9, a, 18, b - a);
      c.globalAlpha = 1; c.strokeStyle = colour("accent"); c.lineWidth = 1; c.strokeRect(axis.at - 9, a, 18, b - a);
    }
  }

  // --- pointer ---

  listen() {
    const c = this.canvas;
    let from = null;
    const at = (event) => { const box = c.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
    c.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      const [x, y] = at(event), panel = this.panelAt(x, y);
      if (!panel) return;
      from = { x, y, panel, moved: false };
      c.setPointerCapture(event.pointerId);
    });
    c.addEventListener("pointermove", (event) => {
      const [x, y] = at(event);
      if (!from) { this.hover(x, y); return; }
      if (!from.moved && Math.hypot(x - from.x, y - from.y) < 5) return;
      from.moved = true;
      this.tip.hidden = true;
      this.brush(from, x, y);
    });
    const up = (event) => {
      if (!from) return;
      const [x, y] = at(event), was = from;
      from = null;
      if (was.moved) return;
      const near = this.nearest(x, y);
      if (near !== null) this.tell.choose(this.model.trials.number[near]);
      else this.tell.clear(this.kind === "scatter" ? [was.panel.across, was.panel.up] : [was.panel.axis.name]);
    };
    c.addEventListener("pointerup", up);
    c.addEventListener("pointercancel", () => { from = null; });
    c.addEventListener("pointerleave", () => { this.tip.hidden = true; });
  }

  panelAt(x, y) {
    if (this.kind === "parallel") {
      const axis = this.axes?.reduce((best, a) => (Math.abs(a.at - x) < Math.abs(best.at - x) ? a : best));
      return axis ? { axis } : null;
    }
    return this.panels.find((p) => x >= p.x.from && x <= p.x.from + p.x.length && y >= p.y.from && y <= p.y.from + p.y.length) ?? null;
  }

  brush(from, x, y) {
    const ends = (a, b) => (a < b ? [a, b] : [b, a]);
    const back = (axis, px, vertical) => {
      const share = Math.min(1, Math.max(0, (px - axis.from) / axis.length));
      const raw = axis.r0 + (vertical ? 1 - share : share) * (axis.r1 - axis.r0);
      return share <= 0 || share >= 1 ? raw + (raw - (axis.r0 + axis.r1) / 2) * 1e6 : raw; // to the border: no limit
    };
    if (this.kind === "parallel") {
      const { axis } = from.panel, frame = this.panels[0].y;
      const value = (px) => {
        const s = frame.r0 + (1 - (px - frame.from) / frame.length) * (frame.r1 - frame.r0), share = axis.max ? s : 1 - s;
        return share <= 0 ? -1e9 : share >= 1 ? 1e9 : axis.low + share * (axis.high - axis.low);
      };
      this.tell.range({ [axis.name]: ends(value(from.y), value(y)) });
      return;
    }
    const { panel } = from, found = { [panel.up]: ends(back(panel.y, from.y, true), back(panel.y, y, true)) };
    if (panel.across) found[panel.across] = ends(back(panel.x, from.x, false), back(panel.x, x, false));
    this.tell.range(found);
  }

  nearest(x, y) {
    const model = this.model;
    let best = null, least = NEAR * NEAR;
    if (this.kind === "parallel") {
      const axis = this.panelAt(x, y)?.axis;
      if (!axis || Math.abs(axis.at - x) > 2 * NEAR) return null;
      for (let i = 0; i < model.k; i += 1) {
        const v = model.values[axis.name][i];
        if (!model.group[i] || !model.keep[i] || Number.isNaN(v)) continue;
        const d = (this.height(axis, v) - y) ** 2 - (model.group[i] === "front" ? 4 : 0);
        if (d < least) { least = d; best = i; }
      }
      return best;
    }
    const panel = this.panelAt(x, y);
    if (!panel) return null;
    const xs = this.values(panel.across), ys = this.values(panel.up);
    for (let i = 0; i < model.k; i += 1) {
      if (!model.group[i] || !model.keep[i] || Number.isNaN(xs[i]) || Number.isNaN(ys[i])) continue;
      const d = (Board.at(panel.x, xs[i]) - x) ** 2 + (Board.at(panel.y, ys[i], true) - y) ** 2 - (model.group[i] === "search" ? 0 : 9);
      if (d < least) { least = d; best = i; }
    }
    return best;
  }

  hover(x, y) {
    const i = this.panels.length ? this.nearest(x, y) : null;
    this.canvas.style.cursor = i === null ? "crosshair" : "pointer";
    this.tip.hidden = i === null;
    if (i === null) return;
    const { model } = this, t = model.trials, p = model.members.get(t.number[i])?.p;
    const rows = model.objectives.filter((o) => !Number.isNaN(model.values[o.name][i])).map((o) => `${o.title}: ${number(model.values[o.name][i])}${model.error(i, o.name) ? ` ± ${number(model.error(i, o.name))}` : ""}`);
    const head = document.createElement("b");
    head.textContent = `${t.number[i]} ${t.name[i]}`;
    this.tip.replaceChildren(head, ...[...rows, p === undefined || p === null ? "" : `P(non-dominated) ${p.toFixed(2)}`, model.weights(i).slice(0, 4).map(([n, w]) => `${n} ${w.toFixed(2)}`).join(", ")].filter(Boolean).map((text) => { const line = document.createElement("div"); line.textContent = text; return line; }));
    const right = x > this.host.clientWidth / 2;
    Object.assign(this.tip.style, { top: `${y + 14}px`, left: right ? "auto" : `${x + 14}px`, right: right ? `${this.host.clientWidth - x + 14}px` : "auto" });
  }
}

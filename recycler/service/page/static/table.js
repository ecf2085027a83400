// The table of trials: sorted, filtered as the plots are, a page at a time.

import { fill, h, number } from "./dom.js";
import { colour } from "./figure.js";
import { sample } from "./marks.js";

const ROWS = 25;

export class Table {
  constructor(table, pages, model, tell) {
    Object.assign(this, { table, pages, model, tell, sort: "", page: 0, rows: [] });
    table.tBodies[0].addEventListener("click", (event) => {
      const row = event.target.closest("tr[data-trial]");
      if (row && !event.target.closest("a")) tell.choose(Number(row.dataset.trial));
    });
  }

  head() {
    const model = this.model, button = (name, text, title, kind = "") => h(`th${kind}`, { scope: "col", "aria-sort": this.sort.replace(/^-/, "") === name ? (this.sort[0] === "-" ? "descending" : "ascending") : null, title },
      h("button", { type: "button", onclick: () => this.by(name) }, text));
    fill(this.table.tHead, h("tr", button("number", "Trial", "number of the trial", ".num"), button("name", "Merge", "name and kind"),
      ...model.objectives.map((o) => button(`score.${o.name}`, o.title, `${o.direction === "max" ? "higher" : "lower"} is better${o.held_out ? "; held out: the search never saw it" : ""}`, ".num")),
      button("p", "P(front)", "probability that the merge is non-dominated, by a bootstrap over items", ".num"), button("state", "State", "")));
  }

  by(name) {
    const objective = name.startsWith("score.") && this.model.objective(name.slice(6));
    const first = name === "p" || objective?.direction === "max" ? `-${name}` : name;
    const other = first[0] === "-" ? name : `-${name}`;
    this.sort = this.sort === first ? other : first;
    this.page = 0;
    this.head();
    this.update();
    this.tell.sorted(this.sort);
  }

  /** Order: members first, then by number; or as the user sorted. */
  ordered() {
    const { model } = this, t = model.trials, rows = [];
    for (let i = 0; i < model.k; i += 1) if (model.keep[i]) rows.push(i);
    const name = this.sort.replace(/^-/, ""), way = this.sort[0] === "-" ? -1 : 1;
    if (!name) {
      const rank = (i) => (t.number[i] === this.pick ? 0 : model.group[i] === "front" ? 1 : t.kind[i] === "reference" ? 2 : ["single", "uniform", "merge-best", "greedy"].includes(t.kind[i]) ? 3 : 4);
      const keys = rows.map((i) => [rank(i), i]);
      return keys.sort((a, b) => a[0] - b[0] || t.number[a[1]] - t.number[b[1]]).map((pair) => pair[1]);
    }
    const values = name.startsWith("score.") ? model.values[name.slice(6)] : null;
    const key = (i) => (values ? values[i] : name === "p" ? model.members.get(t.number[i])?.p ?? NaN : name === "state" ? t.state[i] : t[name][i]);
    const empty = (v) => typeof v === "number" && Number.isNaN(v);
    return rows.map((i) => [key(i), i]).sort((a, b) => (empty(a[0]) - empty(b[0])) || way * (a[0] < b[0] ? -1 : a[0] > b[0] ? 1 : 0) || a[1] - b[1]).map((pair) => pair[1]);
  }

  update() {
    this.rows = this.ordered();
    const pages = Math.max(1, Math.ceil(this.rows.length / ROWS));
    this.page = Math.min(this.page, pages - 1);
    const shown = this.rows.slice(this.page * ROWS, (this.page + 1) * ROWS);
    const body = this.table.tBodies[0], focused = document.activeElement?.closest?.("tr[data-trial]")?.dataset.trial;
    body.replaceChildren(...(shown.length ? shown.map((i) => this.row(i)) : [h("tr", h("td", { colSpan: this.model.objectives.length + 4 }, h("p.muted", this.model.k ? "No trial fits these filters." : "No trial was proposed yet.")))]));
    if (focused) body.querySelector(`tr[data-trial="${focused}"] a`)?.focus({ preventScroll: true });
    this.turn(pages);
  }

  row(i) {
    const { model } = this, t = model.trials, group = model.group[i], style = model.found?.styles[group];
    const p = model.members.get(t.number[i])?.p;
    const mark = style ? sample(model.found.symbols[t.kind[i]] ?? "circle", style.colour === "#000000" ? colour("ink") : style.colour) : null;
    const score = (o) => {
      const v = model.values[o.name][i], e = model.error(i, o.name);
      return h("td.num", Number.isNaN(v) ? h("span.muted", { title: `not scored on ${model.split} items` }, "–") : `${number(v)}${e ? ` ± ${number(e)}` : ""}`);
    };
    const marks = [t.number[i] === this.pick ? "pick" : "", t.number[i] === model.found?.knee && t.number[i] !== this.pick ? "knee" : "", group === "pruned" ? "estimate" : ""].filter(Boolean).join(", ");
    return h(`tr${group === "front" ? ".front" : ""}${t.number[i] === this.pick ? ".pick" : ""}${group === "search" || group === "pruned" ? ".faint" : ""}`,
      { "data-trial": String(t.number[i]), "aria-selected": t.number[i] === this.chosen ? "true" : null },
      h("td.num", String(t.number[i])),
      h("td", mark, h("a", { href: `/studies/${encodeURIComponent(model.study)}/trials/${t.number[i]}` }, t.name[i]), marks ? h("span.muted", ` ${marks}`) : null),
      ...model.objectives.map(score), h("td.num", p === undefined ? "" : p === null ? "unknown" : p.toFixed(2)),
      h("td", h(`span.status.${t.state[i]}`, { title: model.failures[t.number[i]] ?? null }, t.state[i])));
  }

  turn(pages) {
    const go = (page) => () => { this.page = page; this.update(); };
    fill(this.pages, pages < 2 ? null : [
      h("button.quiet", { type: "button", disabled: this.page === 0, onclick: go(this.page - 1) }, "← Previous"),
      h("span.muted", `page ${this.page + 1} of ${pages}`),
      h("button.quiet", { type: "button", disabled: this.page === pages - 1, onclick: go(this.page + 1) }, "Next →")]);
  }
}

// The trials of a study as columns, with groups and filters: what the plots and the table show.

const SCORED = new Set(["complete", "pruned"]);

export class Model {
  constructor(columns) {
    Object.assign(this, columns);
    this.row = new Map(columns.trials.number.map((n, i) => [n, i]));
    this.split = "dev";
    this.members = new Map();
    this.found = null;
    this.ranges = {};
    this.hidden = new Set();
    this.text = "";
    this.settle();
  }

  get k() { return this.trials.number.length; }
  get searched() { return this.objectives.filter((o) => !o.held_out); }
  objective(name) { return this.objectives.find((o) => o.name === name); }
  unit(name) { const u = this.objective(name)?.unit; return u && u !== "share" ? u : ""; }

  /** All trials anew. */
  replace(columns) {
    this.trials = columns.trials;
    this.failures = columns.failures;
    this.row = new Map(columns.trials.number.map((n, i) => [n, i]));
    this.settle();
  }

  /** What the service found: members, axes, styles, decision. */
  take(found) {
    this.found = found;
    this.split = found.split;
    this.members = new Map(found.members.map((m) => [m.number, m]));
    this.settle();
  }

  /** Add or replace one trial, as an event tells it. */
  put(trial) {
    const t = this.trials;
    let i = this.row.get(trial.number);
    if (i === undefined) {
      i = this.k;
      this.row.set(trial.number, i);
      for (const by of Object.values(t.scores)) for (const s of Object.values(by)) { s.mean.push(null); s.stderr.push(null); }
    }
    t.number[i] = trial.number; t.name[i] = trial.name; t.kind[i] = trial.kind; t.state[i] = trial.state;
    t.merge[i] ??= trial.kind !== "reference";
    t.weights[i] = Object.entries(trial.weights).flatMap(([n, w]) => [this.checkpoints.indexOf(n), w]);
    for (const [split, scores] of Object.entries(trial.scores)) for (const [name, score] of Object.entries(scores)) {
      if (!t.scores[split]?.[name]) continue;
      t.scores[split][name].mean[i] = score.mean;
      t.scores[split][name].stderr[i] = score.stderr;
    }
    if (trial.failure) this.failures[trial.number] = trial.failure;
    this.settle();
  }

  /** Groups and values of the present split; members of the front form a group of their own. */
  settle() {
    const { number, kind, state, scores } = this.trials;
    this.group = new Array(this.k);
    this.values = {};
    for (const o of this.objectives) this.values[o.name] = new Float64Array(this.k).fill(NaN);
    for (let i = 0; i < this.k; i += 1) {
      const on = state[i] === "pruned" ? "dev" : this.split;
      let any = false;
      for (const o of this.objectives) {
        const mean = scores[on][o.name].mean[i];
        if (mean !== null && mean !== undefined) { this.values[o.name][i] = mean; any = true; }
      }
      this.group[i] = !any || !SCORED.has(state[i]) ? "" : this.members.has(number[i]) ? "front" : state[i] === "pruned" ? "pruned" : kind[i];
    }
    this.filter();
  }

  error(i, name) {
    const on = this.trials.state[i] === "pruned" ? "dev" : this.split;
    return this.trials.scores[on][name].stderr[i];
  }

  /** Which trials the filters let through. */
  filter() {
    const keep = new Uint8Array(this.k), text = this.text.toLowerCase();
    const ranges = Object.entries(this.ranges).filter(([name]) => this.values[name]).map(([name, ends]) => [this.values[name], ...ends]);
    let shown = 0;
    for (let i = 0; i < this.k; i += 1) {
      let yes = !this.hidden.has(this.group[i] || "unscored");
      for (let r = 0; yes && r < ranges.length; r += 1) { const v = ranges[r][0][i]; yes = v >= ranges[r][1] && v <= ranges[r][2]; }
      if (yes && text) yes = this.trials.name[i].toLowerCase().includes(text) || String(this.trials.number[i]) === text;
      if (yes) { keep[i] = 1; shown += 1; }
    }
    this.keep = keep;
    this.shown = shown;
    this.filtered = shown < this.k;
  }

  /** [name, weight] of a trial, the largest first. */
  weights(i) {
    const flat = this.trials.weights[i], pairs = [];
    for (let j = 0; j < flat.length; j += 2) pairs.push([this.checkpoints[flat[j]], flat[j + 1]]);
    return pairs.sort((a, b) => Math.abs(b[1]) - Math.abs(a[1]));
  }
}

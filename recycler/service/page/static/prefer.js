// Preferences and floors: they move the recommended merge, and say what a merge between the members may score.

import { Problem, finished, get, post, route } from "./api.js";
import { $, fill, h, number, problem, toast } from "./dom.js";

const MOST = 400; // scored trials up to which a prediction is made without being asked for

export class Wishes {
  /** tell: {moved(weights, floors), pick(trial), guess(objectives or null)} */
  constructor(study, model, tell, start) {
    Object.assign(this, { study, model, tell, queue: null, guesses: 0, ticket: 0 });
    this.weights = { ...start.weights };
    this.floors = { ...start.floors };
    this.form();
  }

  get asked() { return Object.keys(this.weights).length > 0; }

  form() {
    const form = $("#wishes");
    const rows = this.model.searched.map((o) => {
      const value = this.weights[o.name] ?? o.weight, unit = this.model.unit(o.name);
      const out = h("output", { for: `w-${o.name}` }, value.toFixed(1));
      const slider = h("input", { type: "range", id: `w-${o.name}`, min: "0", max: String(Math.max(5, o.weight)), step: "0.1", "data-objective": o.name,
        oninput: (event) => { out.textContent = Number(event.target.value).toFixed(1); this.weigh(o.name, Number(event.target.value)); } });
      slider.value = String(value);
      const floor = h("input", { type: "number", step: "any", id: `f-${o.name}`, "data-objective": o.name, placeholder: "none",
        oninput: (event) => this.limit(o.name, event.target) });
      floor.value = this.floors[o.name] ?? "";
      return h("div.wish", h("label.name", { for: `w-${o.name}` }, o.title), out, slider,
        h("div.floor", h("label", { for: `f-${o.name}` }, o.direction === "max" ? "at least" : "at most"), floor, unit ? h("span.muted", unit) : null,
          o.floor !== null ? h("span.muted", `study: ${o.floor}`) : null));
    });
    fill(form, rows, h("button.quiet", { type: "button", onclick: () => this.reset() }, "Back to the study's own"));
    form.addEventListener("submit", (event) => event.preventDefault());
  }

  weigh(name, value) {
    if (!this.asked) for (const o of this.model.searched) this.weights[o.name] = o.weight;
    this.weights[name] = value;
    this.changed();
  }

  limit(name, field) {
    const value = field.value.trim() === "" ? null : Number(field.value);
    if (value === null || !Number.isFinite(value)) delete this.floors[name]; else this.floors[name] = value;
    this.changed();
  }

  reset() {
    this.weights = {}; this.floors = {};
    this.form();
    this.changed();
  }

  changed() {
    this.tell.moved(this.weights, this.floors);
    for (const id of ["recommended", "expected"]) $(`#${id}`).classList.add("pending");
    clearTimeout(this.queue);
    this.queue = setTimeout(() => this.ask(), 150);
  }

  /** Ask again because the study changed; what was just queued stays in view. */
  again() {
    clearTimeout(this.queue);
    this.ask(Boolean($("#asked")?.childElementCount));
  }

  /** Ask the service for the pick, then for what is expected. */
  async ask(quiet = false) {
    const ticket = ++this.ticket, text = (pairs) => Object.entries(pairs).map(([n, v]) => `${n}=${v}`).join(",");
    const query = new URLSearchParams();
    if (this.asked) query.set("prefer", text(this.weights));
    if (Object.keys(this.floors).length) query.set("floor", text(this.floors));
    if (!this.model.members.size) {
      fill($("#recommended"), h("p.muted", "Nothing is on the front yet."));
      fill($("#expected"), h("p.muted", "Known once some merges are scored."));
      for (const id of ["recommended", "expected"]) $(`#${id}`).classList.remove("pending");
      return this.tell.pick(null);
    }
    try {
      const found = await get(`${route("studies", this.study, "pick")}?${query}`);
      if (ticket !== this.ticket) return;
      this.recommend(found);
      this.tell.pick(found.trial);
    } catch (error) {
      if (ticket !== this.ticket) return;
      fill($("#recommended"), problem(error));
      this.tell.pick(null);
    }
    $("#recommended").classList.remove("pending");
    if (ticket !== this.ticket) return;
    if (quiet) { $("#expected").classList.remove("pending"); return; }
    const scored = this.model.group.filter(Boolean).length;
    if (scored > MOST) fill($("#expected"), h("button.quiet", { type: "button", onclick: () => this.predict(this.ticket) }, "Predict for this preference"));
    else await this.predict(ticket);
    $("#expected").classList.remove("pending");
  }

  recommend(found) {
    const on = ["test", "select", "dev"].find((split) => found[split]) ?? "dev", scores = found[on] ?? {};
    fill($("#recommended"), h("div.take", h("p", "Take ", h("b", h("a", { href: `/studies/${encodeURIComponent(this.study)}/trials/${found.trial}` }, `trial ${found.trial} (${found.name})`))),
      h("table.scores", h("tbody", this.model.objectives.filter((o) => scores[o.name]).map((o) => h("tr", h("th", { scope: "row" }, o.title), h("td.num", `${number(scores[o.name].mean)}${scores[o.name].stderr ? ` ± ${number(scores[o.name].stderr)}` : ""}`))))),
      h("p.note", `On ${on} items. ${this.asked || Object.keys(this.floors).length ? "The rule: what you set here." : "The study's own choice, as above."}`)));
  }

  async predict(ticket) {
    const prefer = this.asked ? this.weights : Object.fromEntries(this.model.searched.map((o) => [o.name, o.weight]));
    if (!$("#expected").childElementCount) fill($("#expected"), h("p.loading", "Asking the model …"));
    try {
      const found = (await post(route("studies", this.study, "predictions"), { prefer: [prefer] })).proposals[0];
      if (ticket !== this.ticket) return;
      this.show(found);
      this.tell.guess(found.scored_as === null ? found.objectives : null);
    } catch (error) {
      if (ticket !== this.ticket) return;
      this.tell.guess(null);
      fill($("#expected"), error instanceof Problem && error.status < 500 && error.status ? h("p.muted", `${error.message} ${error.hint}`) : problem(error));
    }
  }

  show(found) {
    const known = found.scored_as, rival = found.rival;
    const rows = this.model.searched.filter((o) => found.objectives[o.name]).map((o) => {
      const f = found.objectives[o.name];
      return h("tr", h("th", { scope: "row" }, o.title), h("td.num", number(f.expected)), h("td.num", f.exact ? "exact" : `${number(f.mean[0])} – ${number(f.mean[1])}`));
    });
    const evaluate = h("button", { type: "button", id: "evaluate", "data-write": true }, "Evaluate this");
    evaluate.addEventListener("click", () => this.evaluate(found, evaluate));
    fill($("#expected"),
      h("p.note", known !== null ? `The best merge for this preference is known: it is trial ${known}.` : `For this preference the model of the search expects most from a merge that nobody scored, ${found.distance < 0.005 ? "next to" : `${(100 * found.distance).toFixed(0)} % of the weights away from`} trial ${found.nearest}:`),
      h("table.scores", h("thead", h("tr", h("th", h("span.sr", "objective")), h("th.num", "expected"), h("th.num", "90 % interval"))), h("tbody", rows)),
      h("p.note", found.weights && Object.entries(found.weights).sort((a, b) => b[1] - a[1]).slice(0, 5).map(([n, w]) => `${n} ${w.toFixed(3)}`).join(", ")),
      known === null ? h("p.note", `Better than trial ${rival.trial} (${rival.name}) for this preference with probability ${found.p_better.toFixed(2)}.`) : null,
      found.meets_floors === false ? h("p.warn", "It is expected to miss a floor of the study.") : null,
      found.notes.map((note) => h("p.note", note)),
      known === null ? evaluate : null, h("div", { id: "asked", role: "status" }));
  }

  async evaluate(found, button) {
    button.disabled = true;
    const told = $("#asked");
    try {
      const answer = await post(route("studies", this.study, "trials"), { recipe: found.recipe });
      if (answer.trial !== null) { fill(told, h("p.good", `It is trial ${answer.trial} already.`)); return; }
      fill(told, h("p.good", answer.operation === null ? `Queued as ${answer.name}; the process that runs the study takes it up next.` : `Queued as ${answer.name} (operation ${answer.operation}). It appears in the plot once it is scored.`));
      this.tell.queued(answer.name);
      if (answer.operation !== null) {
        await finished(await get(route("operations", answer.operation)), (state) => { if (told.isConnected && state.state === "running") fill(told, h("p.good", `${answer.name} is being scored …`)); });
        if (told.isConnected) fill(told, h("p.good", `${answer.name} is scored.`));
        toast(`${answer.name} is scored.`);
        this.tell.scored();
      }
    } catch (error) {
      button.disabled = false;
      if (told.isConnected) fill(told, problem(error)); else toast(error.message, "bad");
    }
  }
}

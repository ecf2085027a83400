// Items gained and lost against a rival, with prompt, target and both answers; and samples side by side.

import { Problem, finished, get, post, route } from "./api.js";
import { $, bar, fill, h, number, problem } from "./dom.js";

const PAGE = 5;

/** The comparison of one trial with a rival, objective by objective, and its items by page. */
export class Items {
  constructor(study, found) {
    Object.assign(this, { study, found, skip: 0 });
    const asked = new URLSearchParams(location.search), rival = $("#rival");
    fill(rival, found.rivals.map((r) => h("option", { value: String(r.trial) }, `${r.role}: ${r.name}`)), h("option", { value: "other" }, "another trial …"));
    const wanted = asked.get("against");
    if (wanted && ![...rival.options].some((o) => o.value === wanted)) rival.prepend(h("option", { value: wanted }, `trial ${wanted}`));
    if (wanted) rival.value = wanted;
    this.wanted = asked.get("task") ?? "";
    $("#every").checked = asked.get("every") === "1";
    rival.addEventListener("change", () => this.chosen());
    $("#task").addEventListener("change", () => { this.skip = 0; this.wanted = $("#task").value; this.address(); this.items(); });
    $("#every").addEventListener("change", () => { this.skip = 0; this.address(); this.items(); });
    $("#compare").addEventListener("submit", (event) => event.preventDefault());
  }

  get rival() { return $("#rival").value; }

  chosen() {
    if (this.rival === "other") {
      const name = prompt("Number or name of the trial to compare with:");
      if (!name) { $("#rival").selectedIndex = 0; } else { const made = h("option", { value: name }, `trial ${name}`); $("#rival").prepend(made); $("#rival").value = name; }
    }
    this.skip = 0;
    this.address();
    this.compare();
  }

  address() {
    const q = new URLSearchParams({ against: this.rival });
    if (this.wanted) q.set("task", this.wanted);
    if ($("#every").checked) q.set("every", "1");
    history.replaceState(null, "", `?${q}`);
  }

  url(more = {}) {
    const q = new URLSearchParams();
    q.append("trial", this.found.trial.trial);
    q.append("trial", this.rival);
    for (const [k, v] of Object.entries(more)) q.set(k, v);
    return `${route("studies", this.study, "comparison")}?${q}`;
  }

  async compare() {
    if (!this.rival || this.rival === "other") { fill($("#items"), h("p.muted", "No other trial is scored on the same items yet.")); return; }
    try {
      const table = await get(this.url());
      this.split = table.split;
      fill($("#changes").tHead, h("tr", h("th", { scope: "col" }, `On ${table.split} items`), h("th.num", { scope: "col" }, "this"), h("th.num", { scope: "col" }, "rival"), h("th", { scope: "col" }, "difference [95 % interval]"), h("th.num", { scope: "col" }, "gained"), h("th.num", { scope: "col" }, "lost"), h("th.num", { scope: "col" }, "items")));
      fill($("#changes").tBodies[0], table.differences.map((d) => h("tr", h("th", { scope: "row" }, `${d.objective}${d.held_out ? "*" : ""}${d.unit && d.unit !== "share" ? ` [${d.unit}]` : ""}`), h("td.num", number(d.score)), h("td.num", number(d.against)),
        h(`td.${d.word.replace(/[ ']/g, (c) => (c === " " ? "-" : ""))}`, `${d.word}: ${signed(d.difference)}${d.interval ? ` [${signed(d.interval[0])}, ${signed(d.interval[1])}]` : ", error unknown"}`), h("td.num", d.gained ?? "–"), h("td.num", d.lost ?? "–"), h("td.num", d.items))));
      const names = table.differences.filter((d) => d.gained !== null).map((d) => d.objective);
      fill($("#task"), names.map((name) => h("option", { value: name }, name)));
      if (names.includes(this.wanted)) $("#task").value = this.wanted;
      if (names.length) await this.items(); else fill($("#items"), h("p.muted", "These scores have no value for each item."));
    } catch (error) { fill($("#changes").tBodies[0]); fill($("#items"), problem(error)); }
  }

  async items() {
    const task = $("#task").value;
    try {
      const { items: found, trials, looked_at } = await get(this.url({ items: task, limit: PAGE, skip: this.skip, ...($("#every").checked ? { every: "true" } : {}) }));
      fill($("#items"), h("p.note", `${found.differing} of ${found.common} ${task} items differ${looked_at > 1 ? `; ${looked_at} studies have looked at these items` : ""}.`), found.unkept.length ? this.unkept(found.unkept, task) : null, found.items.map((item) => this.item(item, trials)));
      const last = Math.ceil(found.total / PAGE), go = (step) => () => { this.skip += step * PAGE; this.items(); };
      fill($("#item-pages"), last < 2 ? null : [h("button.quiet", { type: "button", disabled: this.skip === 0, onclick: go(-1) }, "← Previous items"), h("span.muted", `page ${this.skip / PAGE + 1} of ${last}`), h("button.quiet", { type: "button", disabled: this.skip + PAGE >= found.total, onclick: go(1) }, "Next items →")]);
    } catch (error) { fill($("#items"), problem(error)); fill($("#item-pages")); }
  }

  unkept(trials, task) {
    const told = h("span.muted");
    const button = h("button.quiet", { type: "button", "data-write": true, onclick: async () => {
      button.disabled = true;
      try {
        const made = await post(route("studies", this.study, "answers"), { trials: trials.map(String), split: this.split, objective: task });
        await finished(made, (o) => { told.textContent = ` ${o.state} …`; });
        await this.items();
      } catch (error) { button.disabled = false; told.replaceWith(problem(error)); }
    } }, "Make the answers again");
    return h("p.note", `The answers of trial ${trials.join(" and ")} were not kept. `, button, told);
  }

  item(item, trials) {
    const d = item.difference, word = d > 0 ? "gained" : d < 0 ? "lost" : "equal";
    return h("article.item", h("h4", h(`span.${word}`, `${word}${d ? ` (${signed(d)})` : ""}`), h("span.muted", `item ${item.id}`)),
      item.prompt === null ? null : h("div.sides", h("div", h("h5", "Prompt"), h("pre", { tabIndex: 0 }, item.prompt)), item.target ? h("div", h("h5", "Target"), h("pre", { tabIndex: 0 }, item.target)) : null),
      h("div.sides", trials.map((t, i) => h("div", h("h5", `${i ? "rival" : "this"}: trial ${t.trial} (${t.name}) · ${number(item.outcomes[i])}`),
        item.answers[i] ? [h("pre", { tabIndex: 0 }, item.answers[i].text === "" ? "(empty)" : item.answers[i].text), item.answers[i].margin !== null ? h("p.note", `margin ${number(item.answers[i].margin)} nats`) : null] : h("p.muted", "not kept")))));
  }
}

export const signed = (v) => `${v < 0 ? "−" : "+"}${number(Math.abs(v))}`;

/** Samples: the merge and its rival answer a prompt. */
export function sampling(study, found, items) {
  $("#ask").addEventListener("submit", async (event) => {
    event.preventDefault();
    const host = $("#answers"), button = $("#sample");
    button.disabled = true;
    const rival = items.rival && items.rival !== "other" ? [items.rival] : [];
    try {
      const made = await post(route("studies", study, "samples"), { trials: [String(found.trial.trial), ...rival], prompts: [$("#prompt").value], max_new_tokens: Number($("#tokens").value), temperature: Number($("#temperature").value) });
      const { result } = await finished(made, (o) => fill(host, h("p.muted", o.state === "queued" ? "Waits for its turn …" : o.progress?.text ?? "Loads the merges …"), o.progress?.total ? bar(o.progress.done ?? 0, o.progress.total, "answers") : null));
      fill(host, result.prompts.map((p) => h("div.sides", p.answers.map((a) => h("div", h("h5", `trial ${a.trial} (${a.name})`), h("pre", { tabIndex: 0 }, a.text === "" ? "(empty)" : a.text), h("p.note", `${a.tokens} tokens${a.ended ? "" : ", cut at the longest length"}`))))), h("p.note", result.template ?? ""));
    } catch (error) { fill(host, error instanceof Problem ? problem(error) : problem(error)); }
    button.disabled = false;
  });
}

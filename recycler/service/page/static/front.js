// One study: its decision, its front, its trials. Everything that filters is in the address.

import { about, get, post, route } from "./api.js";
import { bars } from "./bars.js";
import { Board } from "./board.js";
import { $, bar, confirm, duration, fill, h, number, problem, toast } from "./dom.js";
import { caption, colour, draw } from "./figure.js";
import { follow } from "./live.js";
import { sample } from "./marks.js";
import { Model } from "./model.js";
import { Wishes } from "./prefer.js";
import { Table } from "./table.js";

const study = about.study, asked = new URLSearchParams(location.search);
const SPLITS = { dev: "dev", select: "select", test: "test" };
let model, table, wishes, boards = {}, split = asked.get("split") ?? "", chosen = asked.has("trial") ? Number(asked.get("trial")) : null, against = "evaluations";
let snapshot = null, reloading = null, lasted = 0;

// --- the address ---

const numbers = (prefix) => Object.fromEntries([...asked].filter(([k, v]) => k.startsWith(prefix) && v !== "" && Number.isFinite(Number(v))).map(([k, v]) => [k.slice(prefix.length), Number(v)]));

function ranges() {
  const found = {};
  for (const [key, value] of asked) {
    const ends = value.split("..").map((v) => (v === "" ? NaN : Number(v)));
    if (key.startsWith("r.") && ends.length === 2) found[key.slice(2)] = [Number.isNaN(ends[0]) ? -Infinity : ends[0], Number.isNaN(ends[1]) ? Infinity : ends[1]];
  }
  return found;
}

let writing = null;
function address() {
  clearTimeout(writing);
  writing = setTimeout(() => {
    const q = new URLSearchParams(), end = (v) => (Number.isFinite(v) ? Number(v.toPrecision(4)) : "");
    if (split) q.set("split", split);
    if (model.text) q.set("text", model.text);
    if (model.hidden.size) q.set("hide", [...model.hidden].join(","));
    for (const [n, [a, b]] of Object.entries(model.ranges)) q.set(`r.${n}`, `${end(a)}..${end(b)}`);
    for (const [n, v] of Object.entries(wishes?.weights ?? {})) q.set(`w.${n}`, v);
    for (const [n, v] of Object.entries(wishes?.floors ?? {})) q.set(`f.${n}`, v);
    if (table.sort) q.set("sort", table.sort);
    if (chosen !== null) q.set("trial", chosen);
    const text = q.toString();
    history.replaceState(null, "", text ? `?${text}` : location.pathname);
  }, 150);
}

// --- filters ---

let frame = 0;
/** Filter and paint everything again; returns at once, paints in the next frame. */
function refilter() {
  model.filter();
  if (frame) return;
  frame = requestAnimationFrame(() => { frame = 0; repaint(); });
}

function repaint() {
  const began = performance.now();
  for (const board of Object.values(boards)) board.paint();
  table.update();
  fill($("#count"), model.filtered ? `${model.shown} of ${model.k} trials` : `${model.k} trials`);
  $("#reset").hidden = !model.filtered;
  ends();
  address();
  performance.measure("repaint", { start: began, end: performance.now() });
}

/** The fields of the ranges: a brush for the keyboard. */
function ends() {
  const host = $("#ranges");
  if (!host.childElementCount) {
    fill(host, model.objectives.map((o) => h("fieldset", h("legend", o.title), ["least", "most"].map((side, place) =>
      h("input", { type: "number", step: "any", "aria-label": `${o.name}: ${side}`, placeholder: side, "data-end": `${o.name}|${place}`, onchange: (event) => {
        const [low, high] = model.ranges[o.name] ?? [-Infinity, Infinity], v = event.target.value === "" ? null : Number(event.target.value);
        const next = place ? [low, v ?? Infinity] : [v ?? -Infinity, high];
        if (next.every((x) => !Number.isFinite(x))) delete model.ranges[o.name]; else model.ranges[o.name] = next;
        refilter();
      } })))));
  }
  for (const field of host.querySelectorAll("input")) {
    if (field === document.activeElement) continue;
    const [name, place] = field.dataset.end.split("|"), v = model.ranges[name]?.[Number(place)];
    const text = Number.isFinite(v) ? String(Number(v.toPrecision(4))) : "";
    if (field.value !== text) field.value = text;
  }
}

const tell = {
  range(found) {
    for (const [name, [low, high]] of Object.entries(found)) {
      const axis = model.found.axes[name], next = [low <= axis.low ? -Infinity : low, high >= axis.high ? Infinity : high];
      if (next.every((x) => !Number.isFinite(x))) delete model.ranges[name]; else model.ranges[name] = next;
    }
    refilter();
  },
  clear(names) { for (const name of names) delete model.ranges[name]; refilter(); },
  choose(trial) { chosen = trial; show(); refilter(); },
  sorted: () => address(),
  moved: () => address(),
  pick(trial) {
    table.pick = trial;
    for (const board of Object.values(boards)) board.pick = trial;
    show(); refilter();
  },
  guess(objectives) { for (const board of Object.values(boards)) board.guess = objectives; refilter(); },
  queued: (name) => toast(`${name} is queued.`),
  scored: () => reload(0),
};

/** Weights of the chosen trial, else of the pick. */
function show() {
  const trial = chosen ?? table.pick ?? model.found?.pick, i = model.row.get(trial);
  table.chosen = chosen;
  for (const board of Object.values(boards)) board.chosen = chosen;
  if (i === undefined) { fill($("#bars"), h("p.muted", "Nothing is chosen yet.")); return; }
  fill($("#chosen-name"), `trial ${trial} (${model.trials.name[i]})`);
  bars($("#bars"), model.weights(i));
}

// --- parts that the service draws ---

function legend() {
  const counts = new Map();
  for (let i = 0; i < model.k; i += 1) counts.set(model.group[i] || "unscored", (counts.get(model.group[i] || "unscored") ?? 0) + 1);
  const styles = model.found?.styles ?? {};
  fill($("#legend"), [...Object.keys(styles), "unscored"].filter((kind) => counts.has(kind)).reverse().map((kind) =>
    h("button", { type: "button", "aria-pressed": model.hidden.has(kind) ? "false" : "true", onclick: () => {
      if (model.hidden.has(kind)) model.hidden.delete(kind); else model.hidden.add(kind);
      legend(); refilter();
    } }, styles[kind] ? sample(styles[kind].symbol, styles[kind].colour === "#000000" ? colour("ink") : styles[kind].colour) : null,
    `${kind === "unscored" ? `without ${model.split} scores` : styles[kind].label} ${counts.get(kind)}`)));
}

function switches() {
  const known = Object.keys(SPLITS).filter((s) => Object.values(model.trials.scores[s]).some((o) => o.mean.some((v) => v !== null && v !== undefined)));
  radios($("#splits"), known.length ? known : ["dev"], model.split, (value) => { split = value; address(); reload(0); });
  const warning = $("#warning");
  warning.hidden = !model.found?.warning;
  warning.textContent = model.found?.warning ?? "";
}

function radios(host, values, value, chooseIt) {
  const buttons = values.map((v) => h("button", { type: "button", role: "radio", "aria-checked": v === value ? "true" : "false", tabIndex: v === value ? 0 : -1, onclick: () => pick(v) }, v));
  const pick = (v) => { for (const b of buttons) { const on = b.textContent === v; b.setAttribute("aria-checked", on ? "true" : "false"); b.tabIndex = on ? 0 : -1; if (on && host.contains(document.activeElement)) b.focus(); } chooseIt(v); };
  host.onkeydown = (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key], at = buttons.indexOf(document.activeElement);
    if (step && at >= 0) { event.preventDefault(); pick(values[(at + step + values.length) % values.length]); }
  };
  if ([...host.children].map((b) => b.textContent).join() === values.join()) { [...host.children].forEach((b, i) => { b.setAttribute("aria-checked", values[i] === value ? "true" : "false"); b.tabIndex = values[i] === value ? 0 : -1; }); return; }
  fill(host, buttons);
}

async function volume() {
  $("#volume").dataset.against = against;
  const figure = model.found.figures[against];
  radios($("#against"), ["evaluations", "seconds"], against, (value) => { against = value; volume(); });
  fill($("#volume-caption"), caption(figure));
  await draw($("#volume"), figure);
}

/** The front at once, the rest when it is near the screen. */
async function figures() {
  const { found } = model;
  boards.scatter ??= new Board($("#scatter"), "scatter", model, tell);
  fill($("#caption"), caption(found.figures.front).replace(/Orange: the front.*?single\)\./, (text) => `${text} The fainter a member, the less certain it is to be non-dominated.`), " Drag to select, click to choose.");
  await boards.scatter.draw(found.figures.front);
  $("#parallel-section").hidden = Object.keys(found.axes).length < 3;
  if (!$("#parallel-section").hidden) near($("#parallel"), async () => {
    boards.parallel ??= new Board($("#parallel"), "parallel", model, tell);
    Object.assign(boards.parallel, { pick: boards.scatter.pick, chosen: boards.scatter.chosen });
    fill($("#parallel-caption"), caption(model.found.figures.parallel), " Drag along an axis to select.");
    await boards.parallel.draw(model.found.figures.parallel);
  });
  near($("#heat"), async () => {
    if (!model.found.members.length) { fill($("#heat"), h("p.muted", "Nothing is on the front yet.")); return; }
    fill($("#heat-caption"), caption(model.found.figures.weights));
    await draw($("#heat"), model.found.figures.weights, { adapt: (layout) => { layout.yaxis.automargin = true; } });
  });
  near($("#volume"), async () => {
    if (model.found.figures.evaluations.data[0].x?.length !== 0) await volume(); else fill($("#volume"), h("p.muted", "Known once the singles are scored."));
  });
}

const waiting = new Map(), watch = new IntersectionObserver((entries) => {
  for (const entry of entries) if (entry.isIntersecting && waiting.has(entry.target)) { const make = waiting.get(entry.target); waiting.delete(entry.target); make(); }
}, { rootMargin: "300px" });

/** Make a part once it is near the screen or the page is idle; at once if it was made before. */
function near(host, make) {
  if (host.dataset.made) { make(); return; }
  waiting.set(host, async () => { host.dataset.made = "1"; await make(); });
  watch.observe(host);
}

function rest() {
  for (const make of waiting.values()) make();
  waiting.clear();
}

async function reload(wait) {
  clearTimeout(reloading);
  if (wait) { reloading = setTimeout(() => reload(0), wait); return; }
  const across = innerWidth < 700 ? 1 : innerWidth < 1100 ? 2 : 3, began = performance.now();
  try {
    const found = await get(`${route("studies", study, "explorer", "front")}?across=${across}${split ? `&split=${split}` : ""}`);
    model.take(found);
    decision(found);
    switches(); legend();
    if (!wishes) wishes = new Wishes(study, model, tell, { weights: numbers("w."), floors: numbers("f.") });
    if (!Object.keys(found.axes).length) fill($("#scatter"), h("div.empty", h("h2", "No scores yet"), h("p", "The front appears once the first merges are scored.")));
    else await figures();
    if (!wishes.asked && !Object.keys(wishes.floors).length) tell.pick(found.pick);
    show(); repaint();
    wishes.again();
    document.body.dataset.ready = String(found.event);
    if (!performance.getEntriesByName("front").length) performance.mark("front");
    setTimeout(rest, 1000);
  } catch (error) { fill($("#trouble"), problem(error)); }
  lasted = performance.now() - began;
}

function decision(found) {
  const host = $("#decision");
  host.removeAttribute("aria-busy");
  if (host.dataset.event === String(found.event)) return;
  host.dataset.event = String(found.event);
  // made and escaped by report.decision.as_html, the same as in the report
  const parsed = new DOMParser().parseFromString(found.decision, "text/html");
  if (!found.decision) fill(host, h("div.empty.card", h("h2", "No decision yet"), h("p", "It needs at least the scores of the single checkpoints.")));
  else host.replaceChildren(...parsed.body.childNodes);
  for (const box of host.querySelectorAll(".scroll")) { box.tabIndex = 0; box.setAttribute("role", "region"); box.setAttribute("aria-label", "Decision"); }
}

// --- the run ---

function run() {
  const s = snapshot, word = $("#status");
  word.textContent = s.alive && s.status !== "running" ? `${s.status}, ending` : s.status;
  word.className = `status ${s.status}`;
  const open = s.status !== "complete", counts = Object.entries(s.counts).filter(([, n]) => n).map(([state, n]) => `${n} ${state}`).join(", ");
  fill($("#progress"), s.alive ? bar(s.done, s.total, `${s.phase}: ${s.done} of ${s.total}`) : null, h("div.line",
    s.alive ? h("span", `${s.phase}: ${s.done} of ${s.total}`) : null, s.alive ? h("span", `${s.busy} in flight`) : null,
    h("span", `${s.spent} of ${s.budget} evaluations spent`), s.eta !== null ? h("span", `about ${duration(s.eta)} left`) : null,
    s.rate ? h("span", `${number(s.rate, 1)} items/s`) : null, counts ? h("span", counts) : null, s.remaining_gain !== null && open ? h("span", `ten more evaluations add about ${(100 * s.remaining_gain).toFixed(1)} % of the volume`) : null,
    h("a", { href: `${route("studies", study, "report")}` }, "report")),
    s.waiting ? h("p.warn", `Waiting: ${s.waiting}`) : null, s.message && !s.alive && s.status !== "complete" ? h("p.warn", s.message) : null,
    s.failures.length ? h("details", h("summary", `${s.counts.failed} failed: ${s.failures[0].message}`), s.failures.map((f) => h("div.error", h("p", `trial ${f.trial} (${f.name}): ${f.message}`), f.hint ? h("p.hint", f.hint) : null))) : null);
  const act = (path, text, title, words, yes) => h("button.quiet", { type: "button", title, "data-write": true, onclick: async () => {
    if (words && !(await confirm(title, words, yes))) return;
    try {
      await post(path);
      toast(`Asked to ${text.toLowerCase()}.`);
      fill($("#actions"), h("span.muted", s.alive ? "It ends soon …" : "In the queue …")); // until the state changes
    } catch (error) { fill($("#trouble"), problem(error)); }
  } }, text);
  const state = `${s.alive}|${s.status}`, actions = $("#actions");
  if (actions.dataset.state === state) return;
  actions.dataset.state = state;
  fill(actions, s.alive ? [act(route("studies", study, "pause"), "Pause", "Pause this study?", "The merges in flight are scored first, then the process ends. Nothing is lost; Start goes on from there.", "Pause"),
    act(route("studies", study, "stop"), "Stop", "Stop this study?", "The merges in flight are scored first, then the process ends. Nothing is lost; Start goes on from there.", "Stop")]
    : open ? act(route("studies", study, "start"), s.status === "new" ? "Start" : "Resume", "Run the study in a process of its own") : null);
}

async function begin() {
  let columns;
  try {
    snapshot = await get(route("studies", study));
    columns = await get(route("studies", study, "explorer"));
  } catch (error) { fill($("#trouble"), problem(error)); return; }
  model = new Model(columns);
  model.text = asked.get("text") ?? "";
  model.hidden = new Set((asked.get("hide") ?? "").split(",").filter(Boolean));
  model.ranges = ranges();
  table = new Table($("#trials"), $("#pages"), model, tell);
  table.sort = asked.get("sort") ?? "";
  $("#text").value = model.text;
  $("#text").addEventListener("input", (event) => { model.text = event.target.value.trim(); refilter(); });
  $("#filters").addEventListener("submit", (event) => event.preventDefault());
  $("#reset").addEventListener("click", () => { model.ranges = {}; model.hidden.clear(); model.text = ""; $("#text").value = ""; legend(); refilter(); });
  document.addEventListener("theme", () => { legend(); repaint(); });
  run(); table.head(); model.filter(); repaint();
  await reload(0);
  let first = true;
  follow(route("studies", study, "events"), {
    snapshot: async (s) => {
      if (first && s.event !== snapshot.event) { // something changed before the stream began
        model.replace(await get(route("studies", study, "explorer")));
        legend(); refilter(); reload(0);
      }
      first = false;
      const over = snapshot.alive && !s.alive; snapshot = { ...snapshot, ...s }; run();
      if (over) reload(300);
    },
    trial: (trial) => { model.put(trial); legend(); refilter(); reload(Math.max(2000, 4 * lasted)); },
  });
}

for (const width of [700, 1100]) matchMedia(`(max-width: ${width}px)`).addEventListener("change", () => { if (model) reload(100); });
begin();

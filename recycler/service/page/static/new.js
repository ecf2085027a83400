// A new study: a form over the document of a study file, checked by the server as it is filled in.
import { about, finished, get, post, route } from "./api.js";
import { $, bar, bytes, duration, fill, h, number, problem } from "./dom.js";
import { findings } from "./pools.js";
import { matrix } from "./matrix.js";

const form = $("#form");
const fields = form.elements;

// --- rows of objectives and references ---

function addObjective(given = {}) {
  const option = (value, label) => h("option", { value, selected: (given.role || "") === value }, label);
  const direction = (value, label) => h("option", { value, selected: (given.direction || "") === value }, label);
  $("#objectives tbody").append(h("tr.objective",
    h("td", h("input", { name: "o-name", "aria-label": "task", value: given.name || "", size: 16, autocomplete: "off" })),
    h("td", h("input", { name: "o-metric", "aria-label": "metric", value: given.metric || "acc", size: 12 })),
    h("td", h("select", { name: "o-direction", "aria-label": "direction" }, direction("", "the task's"), direction("max", "higher is better"), direction("min", "lower is better"))),
    h("td", h("input", { name: "o-floor", "aria-label": "floor", type: "number", step: "any", value: given.floor ?? "", size: 6 })),
    h("td", h("input", { name: "o-weight", "aria-label": "weight", type: "number", step: "any", min: "0", value: given.weight ?? "1", size: 4 })),
    h("td", h("select", { name: "o-role", "aria-label": "role" }, option("", "searched"), option("held_out", "held out"), option("candidates", "candidate"))),
    h("td", h("button.quiet", { type: "button", "aria-label": "remove this objective", onclick: (event) => { event.target.closest("tr").remove(); changed(); } }, "×"))));
}

function addReference() {
  $("#references tbody").append(h("tr.reference",
    h("td", h("input", { name: "r-name", "aria-label": "name of the reference", placeholder: "name", size: 14 })),
    h("td", h("input", { name: "r-what", "aria-label": "folder or weights", placeholder: "folder, or a=0.5,b=0.5", size: 40 })),
    h("td", h("button.quiet", { type: "button", "aria-label": "remove this reference", onclick: (event) => { event.target.closest("tr").remove(); changed(); } }, "×"))));
}

$("#add-objective").addEventListener("click", () => { addObjective(); $("#objectives tbody tr:last-child input").focus(); });
$("#add-reference").addEventListener("click", () => { addReference(); $("#references tbody tr:last-child input").focus(); });

// --- the document ---

const whole = (name) => (fields[name].value === "" ? undefined : Number(fields[name].value));
const inRow = (row, name) => $(`[name="${name}"]`, row).value.trim();

function documentOf() {
  const made = { study: fields.study.value.trim() };
  if (fields.pool.value) made.pool = fields.pool.value;
  else {
    made.pool = paths().map((path) => ({ path }));
    if (fields.base.value.trim()) made.base = { path: fields.base.value.trim() };
  }
  const lists = { objectives: [], held_out: [], candidates: [] };
  for (const row of form.querySelectorAll("tr.objective")) {
    const entry = { name: inRow(row, "o-name"), metric: inRow(row, "o-metric") };
    if (!entry.name) continue;
    if (inRow(row, "o-direction")) entry.direction = inRow(row, "o-direction");
    if (inRow(row, "o-floor") !== "") entry.floor = Number(inRow(row, "o-floor"));
    if (inRow(row, "o-weight") !== "" && Number(inRow(row, "o-weight")) !== 1) entry.weight = Number(inRow(row, "o-weight"));
    lists[inRow(row, "o-role") || "objectives"].push(entry);
  }
  made.objectives = lists.objectives;
  if (lists.held_out.length) made.held_out = lists.held_out;
  if (lists.candidates.length) made.candidates = lists.candidates;
  const references = [...form.querySelectorAll("tr.reference")].map(reference).filter(Boolean);
  if (references.length) made.references = references;
  made.evaluator = fields.evaluator.value ? { name: fields.evaluator.value } : { kind: "lm-eval" };
  if (!fields.evaluator.value || about.offers.evaluators[fields.evaluator.value] === "lm-eval") made.evaluator.batch_size = whole("batch_size");
  made.merge = { method: fields.method.value };
  made.search = { sampler: fields.sampler.value, evaluations: whole("evaluations"), seed: whole("seed") };
  const items = Object.fromEntries(["dev", "select", "test"].map((split) => [split, whole(split)]).filter(([, n]) => n !== undefined));
  if (Object.keys(items).length) made.items = items;
  made.execution = { workers: whole("workers"), device: fields.device.value };
  return made;
}

function reference(row) {
  const name = inRow(row, "r-name"), what = inRow(row, "r-what");
  if (!name || !what) return null;
  const pairs = what.split(",").map((part) => part.split("="));
  if (pairs.every((pair) => pair.length === 2 && pair[1].trim() !== "" && Number.isFinite(Number(pair[1])))) {
    return { name, weights: Object.fromEntries(pairs.map(([key, value]) => [key.trim(), Number(value)])) };
  }
  return { name, path: what };
}

const paths = () => fields.paths.value.split("\n").map((line) => line.trim()).filter(Boolean);

// --- checks while the form is filled in ---

let timer, asking, checked = "";

function changed() {
  $("#document").textContent = JSON.stringify(documentOf(), null, 2);
  clearTimeout(timer);
  timer = setTimeout(validate, 500);
}

async function validate() {
  asking?.abort();
  asking = new AbortController();
  try {
    await checkPool();
    const made = documentOf();
    if (!made.study && !made.objectives.length) return;
    const found = await post(route("studies", "validate"), { document: made }, { signal: asking.signal });
    mark(found.problem);
  } catch (error) {
    if (error.name !== "AbortError") fill($("#validity"), problem(error));
  }
}

/** Show what is wrong, and at which field. */
function mark(found) {
  for (const field of form.querySelectorAll("[aria-invalid]")) {
    field.removeAttribute("aria-invalid");
    field.removeAttribute("aria-describedby");
  }
  $("#field-error")?.remove();
  if (!found) return fill($("#validity"), h("p.good", "The document is complete. Metrics of the tasks are checked when the study is created."));
  const place = /^document: ([\w.]+): /.exec(found.error)?.[1]?.split(".") || [];
  const named = { study: fields.study, pool: fields.paths, base: fields.base }[place[0]];
  const list = { objectives: "", held_out: "held_out", candidates: "candidates" }[place[0]];
  const row = list === undefined ? null : [...form.querySelectorAll("tr.objective")]
    .filter((r) => inRow(r, "o-name") && inRow(r, "o-role") === list)[Number(place[1])];
  const field = named || (row && $(`[name="o-${place[2]}"]`, row)) || (place[1] && fields[place[1]]);
  if (field?.setAttribute) {
    field.setAttribute("aria-invalid", "true");
    field.setAttribute("aria-describedby", "field-error");
    field.insertAdjacentElement("afterend", h("small.field-error", { id: "field-error" }, found.error.replace(/^document: [\w.]+: /, "")));
  }
  fill($("#validity"), problem({ message: found.error, hint: found.hint }));
}

async function checkPool() {
  const key = fields.pool.value || paths().join("\n") + fields.base.value;
  if (key === checked || !key) return;
  checked = key;
  fill($("#check"), h("p.loading", "Checking the folders …"));
  try {
    const found = fields.pool.value
      ? await get(route("pools", fields.pool.value, "check"))
      : await post(route("pools", "check"), { folders: paths(), base: fields.base.value.trim() || null });
    fill($("#check"), findings(found));
  } catch (error) { fill($("#check"), problem(error)); }
}

// --- scout, bill, start ---

function running(shown) {
  return (operation) => {
    const { text, done, total } = operation.progress || {};
    fill(shown, h("p.loading", operation.state === "queued" ? "Waiting in the queue …" : text || "Starting …"), total ? bar(done || 0, total) : null,
      h("p.note", "Operation ", operation.id, " goes on if you leave this page. ", h("a", { href: "/operations" }, "Operations")));
  };
}

$("#scout").addEventListener("click", async (event) => {
  event.target.disabled = true;
  $("#scouting").hidden = false;
  const shown = $("#scouting-body");
  try {
    const operation = await finished(await post(route("scouts"), { document: documentOf() }), running(shown));
    fill(shown, scouting(operation.result));
  } catch (error) { fill(shown, problem(error)); }
  event.target.disabled = false;
});

function scouting(found) {
  const rows = found.checkpoints.map((name) => ({ name, cells: found.tasks.map((task) => task.scores[name]) }));
  const real = found.tradeoffs.filter((tradeoff) => tradeoff.real);
  return [
    matrix(found.tasks.map((task) => ({ ...task, note: task.at_chance ? "at chance" : task.saturated ? "saturated" : "" })), rows),
    real.length
      ? h("ul", real.map((t) => h("li", `${t.tasks.join(" against ")}: rank correlation ${number(t.correlation, 2)} (95 %: ${number(t.low, 2)} to ${number(t.high, 2)})`)))
      : h("p.warn", "No trade-off between tasks is certain: one checkpoint may be best at all of them, or there are too few items."),
    found.proposal
      ? h("p", "Proposal: search ", h("b", found.proposal.join(", ")), ", and hold out the others. ",
        h("button", { type: "button", onclick: () => propose(found) }, "Use it"))
      : null,
    found.dominated?.length ? h("p.note", `Worse than another checkpoint on every task: ${found.dominated.join(", ")}.`) : null,
  ];
}

function propose(found) {
  for (const row of form.querySelectorAll("tr.objective")) {
    $('[name="o-role"]', row).value = found.proposal.includes(inRow(row, "o-name")) ? "" : "held_out";
  }
  changed();
}

$("#bill").addEventListener("click", async (event) => {
  event.target.disabled = true;
  $("#billing").hidden = false;
  const shown = $("#billing-body");
  try {
    const operation = await finished(await post(route("studies", "bill"), { document: documentOf() }), running(shown));
    fill(shown, bill(operation.result));
  } catch (error) { fill(shown, problem(error)); }
  event.target.disabled = false;
});

const range = (pair, show = String) => [...new Set(pair.map((value) => show(value)))].join(" to ");

function bill(found) {
  return [
    h("p", h("b", range(found.seconds, duration)), ` with ${found.workers} worker${found.workers > 1 ? "s" : ""}: ${range(found.merges)} merges, ${range(found.item_evaluations)} items; about ${bytes(found.ledger_bytes)} in the ledger.`),
    h("div.scroll", h("table", h("thead", h("tr", h("th", { scope: "col" }, "Stage"), ["Merges", "Items", "Worker time"].map((t) => h("th.num", { scope: "col" }, t)))),
      h("tbody", found.stages.map((stage) => h("tr", h("td", stage.name), h("td.num", range(stage.merges)), h("td.num", range(stage.item_evaluations)),
        h("td.num", stage.free ? "in the ledger already" : range(stage.worker_seconds, duration))))))),
  ];
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = event.submitter || $("[type=submit]", form), shown = $("#validity");
  button.disabled = true;
  try {
    const made = documentOf();
    await finished(await post(route("studies"), { document: made, start: true }), running(shown));
    location.href = `/studies/${encodeURIComponent(made.study)}`;
  } catch (error) {
    fill(shown, problem(error));
    shown.scrollIntoView({ block: "center" });
    button.disabled = false;
  }
});

// --- begin ---

addObjective();
addObjective();
try {
  const found = await get(route("pools"));
  for (const pool of found.pools) fields.pool.append(h("option", { value: pool.name }, `${pool.name} (${pool.checkpoints.length} checkpoints)`));
  const asked = new URLSearchParams(location.search).get("pool");
  if (asked) fields.pool.value = asked;
} catch (error) { fill($("#validity"), problem(error)); }
const folders = () => { $("#folders").hidden = Boolean(fields.pool.value); };
form.addEventListener("input", () => { folders(); changed(); });
folders();
changed();

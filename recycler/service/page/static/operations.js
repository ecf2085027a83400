// The machine, the queue, and what failed.
import { get, post, remove, route } from "./api.js";
import { $, bar, bytes, confirm, duration, fill, h, inAddress, problem, toast, when } from "./dom.js";
import { follow } from "./live.js";

const filters = inAddress($("#filters"), () => queue());
const WORDS = { run: "run", create: "create study", scout: "scout", try: "score merges", export: "export", sample: "sample", answers: "answers", check: "deep check", register: "register pool", bill: "bill", draft: "draft", merge: "merge", verify: "verify" };

async function machine() {
  const shown = $("#machine");
  try {
    const found = await get(route("machine"));
    const tile = (name, value, note) => h("div.tile", h("span", name), h("b", value), note ? h("span", note) : null);
    fill(shown,
      tile("Processor cores", found.cores, found.load !== undefined ? `load ${found.load}` : null),
      tile("Memory free", bytes(found.memory?.free ?? NaN), `of ${bytes(found.memory?.total ?? NaN)}`),
      tile("Disk free for exports", bytes(found.disk?.free ?? NaN), `of ${bytes(found.disk?.total ?? NaN)}`),
      tile("Accelerators", found.accelerators?.length ?? 0, found.accelerators?.[0] || "none found"),
      tile("Service", bytes(found.service?.memory ?? NaN), `up ${duration(found.service?.uptime)}`),
      (found.nodes || []).map((node) => tile(`Ray node ${node.name}`, node.alive ? "alive" : "gone", node.resources)));
  } catch (error) { fill(shown, problem(error)); }
}

async function runs() {
  try {
    const found = await get(route("studies"));
    const alive = found.studies.filter((study) => study.alive);
    if (!alive.length) return fill($("#runs"), h("p.muted", "No study runs."));
    fill($("#runs"), h("div.scroll", h("table",
      h("thead", h("tr", ["Study", "Process", "Progress", "Left", "In flight", "Items/s", ""].map((t) => h("th", { scope: "col" }, t)))),
      h("tbody", alive.map((study) => h("tr",
        h("td", h("a", { href: `/studies/${encodeURIComponent(study.study)}` }, study.study)),
        h("td", study.holder),
        h("td", bar(study.done, study.total, `progress of ${study.study}`), h("small", `${study.phase} ${study.done} of ${study.total}`)),
        h("td.num", duration(study.eta)), h("td.num", study.busy), h("td.num", study.rate ? study.rate.toFixed(0) : "–"),
        h("td", h("button.quiet", { type: "button", "data-write": true, onclick: () => stop(study.study, "pause") }, "Pause"), " ",
          h("button.quiet", { type: "button", "data-write": true, onclick: () => stop(study.study, "stop") }, "Stop"))))))));
  } catch (error) { fill($("#runs"), problem(error)); }
}

async function stop(study, how) {
  const text = `The merges in flight are scored first; that may take a while. Nothing is lost, and Start goes on where it ${how === "pause" ? "paused" : "stopped"}.`;
  if (!(await confirm(`${how === "pause" ? "Pause" : "Stop"} ${study}?`, text, how === "pause" ? "Pause" : "Stop"))) return;
  try { await post(route("studies", study, how)); toast(`asked ${study} to ${how}`); } catch (error) { toast(error.message, "bad"); }
}

async function queue() {
  const asked = filters();
  try {
    const found = await get(route("operations") + "?limit=100" + (asked.state ? `&state=${asked.state}` : ""));
    if (!found.operations.length) return fill($("#queue"), h("p.muted", "Nothing here."));
    fill($("#queue"), h("div.scroll", h("table",
      h("thead", h("tr", ["No.", "What", "Concerns", "State", "Progress", "Asked", "By", ""].map((t) => h("th", { scope: "col" }, t)))),
      h("tbody", found.operations.map(line)))));
    failures(found.operations);
  } catch (error) { fill($("#queue"), problem(error)); }
}

function line(operation) {
  const progress = operation.progress || {};
  const open = ["queued", "running"].includes(operation.state);
  return h("tr",
    h("td.num", operation.id), h("td", WORDS[operation.kind] || operation.kind), h("td.wrap", operation.subject),
    h("td", h(`span.status.${operation.state}`, operation.state), operation.attempts > 1 ? h("small", `attempt ${operation.attempts}`) : null),
    h("td", open && progress.total ? bar(progress.done || 0, progress.total) : null, progress.text && open ? h("small", progress.text) : null, operation.error ? h("small", operation.error.error) : null),
    h("td", when(operation.created)), h("td.wrap", operation.owner),
    h("td", h("button.quiet", { type: "button", onclick: () => log(operation.id) }, "Log"), " ",
      open ? h("button.quiet", { type: "button", "data-write": true, onclick: () => cancel(operation) }, "Cancel") : null));
}

async function cancel(operation) {
  const text = operation.state === "queued" ? "It is taken out of the queue." : "Its process ends within seconds. A study that runs is stopped; its scores stay.";
  if (!(await confirm(`Cancel operation ${operation.id}?`, text, "Cancel it"))) return;
  try { await remove(route("operations", operation.id)); queue(); } catch (error) { toast(error.message, "bad"); }
}

async function log(id) {
  const section = $("#log-section"), shown = $("#log");
  section.hidden = false;
  $("#log-head").textContent = `Log of operation ${id}`;
  try {
    const found = await get(route("operations", id, "log"));
    shown.textContent = found.text || "Nothing was printed.";
    shown.scrollTop = shown.scrollHeight;
  } catch (error) { shown.textContent = error.message; }
  section.scrollIntoView({ block: "nearest" });
}

function failures(operations) {
  const causes = new Map();
  for (const failed of operations.filter((o) => o.error)) {
    const known = causes.get(failed.error.code) || { count: 0, last: failed };
    causes.set(failed.error.code, { count: known.count + 1, last: known.last });
  }
  if (!causes.size) return fill($("#failures"), h("p.muted", "None among these."));
  fill($("#failures"), h("div.scroll", h("table", h("thead", h("tr", ["Cause", "Count", "Last message", "What to do"].map((t) => h("th", { scope: "col" }, t)))),
    h("tbody", [...causes].sort((a, b) => b[1].count - a[1].count).map(([code, { count, last }]) =>
      h("tr", h("td", code), h("td.num", count), h("td.wrap", last.error.error), h("td.wrap", last.error.hint)))))));
}

let timer;
const soon = () => { clearTimeout(timer); timer = setTimeout(() => { queue(); runs(); }, 300); };
await Promise.all([machine(), runs(), queue()]);
setInterval(machine, 10000);
follow(route("events"), { operation: soon, snapshot: soon }, soon);

// All studies: how far each is, and what is to be taken from it by now.
import { get, route } from "./api.js";
import { $, bar, duration, fill, h, inAddress, number, problem, sparkline } from "./dom.js";
import { follow } from "./live.js";

const list = $("#list");
const studies = new Map();
const rows = new Map();
let queued = [];
const filters = inAddress($("#filters"), show);

async function load() {
  try {
    const [found, waiting] = await Promise.all([
      get(route("studies")), get(route("operations") + "?state=queued&kind=create&kind=run&limit=200"),
    ]);
    for (const study of found.studies) studies.set(study.study, study);
    queued = waiting.operations;
    show(filters());
  } catch (error) {
    fill(list, problem(error));
  }
}

const text = (study) => `${study.study} ${study.pool || ""}`.toLowerCase();
const waits = (name) => queued.some((operation) => operation.subject === name);
const state = (study) => (waits(study.study) && !study.alive ? "queued" : study.status);
const ORDERS = {
  recent: (a, b) => (b.created || "").localeCompare(a.created || ""),
  name: (a, b) => a.study.localeCompare(b.study),
  status: (a, b) => state(a).localeCompare(state(b)) || a.study.localeCompare(b.study),
  progress: (a, b) => share(b) - share(a),
};
const share = (study) => (study.total ? study.done / study.total : 0);

function show(asked) {
  if (!studies.size) return fill(list, empty());
  const found = [...studies.values()]
    .filter((s) => text(s).includes(asked.text.toLowerCase()) && (!asked.status || state(s) === asked.status))
    .sort(ORDERS[asked.sort] || ORDERS.recent);
  if (!found.length) return fill(list, h("p.empty", "No study matches these filters."));
  rows.clear();
  const groups = asked.group ? Map.groupBy(found, (s) => s.pool || "its own folders") : new Map([["", found]]);
  fill(list, [...groups].map(([pool, members]) => [pool ? h("h2", `Pool: ${pool}`) : null, table(members)]));
}

function table(members) {
  const head = ["Study", "Status", "Progress", "Left", "Hypervolume", "To take by now"];
  return h("div.scroll", h("table", h("thead", h("tr", head.map((t) => h("th", { scope: "col" }, t)))),
    h("tbody", members.map((study) => {
      const made = h("tr");
      rows.set(study.study, made);
      return line(made, study);
    }))));
}

function line(made, study) {
  const over = study.status === "complete";
  const phase = over ? "done" : { search: "searching", select: "re-checking", test: "testing" }[study.phase] || study.phase;
  fill(made,
    h("td.wrap", h("a", { href: `/studies/${encodeURIComponent(study.study)}` }, study.study), study.pool ? h("small.muted", study.pool) : null),
    h("td", h(`span.status.${state(study)}`, state(study)), study.message ? h("small", study.message) : null, study.waiting ? h("small", `waits: ${study.waiting}`) : null),
    h("td", bar(study.done, study.total, `progress of ${study.study}`), h("small", `${phase}: ${study.done} of ${study.total}${study.counts.failed ? `, ${study.counts.failed} failed` : ""}`)),
    h("td.num", study.alive ? duration(study.eta) : "–"),
    h("td", sparkline(study.hypervolume, `hypervolume of ${study.study} over its evaluations`)),
    h("td", pick(study)));
  return made;
}

function pick(study) {
  if (!study.pick) return h("span.muted", study.status === "complete" ? "no search: the single checkpoints are scored" : "nothing to compare yet");
  const scores = Object.entries(study.pick.scores).map(([name, mean]) => `${name} ${number(mean)}`).join(", ");
  const link = h("a", { href: `/studies/${encodeURIComponent(study.study)}/trials/${study.pick.trial}` }, `${study.pick.kept ? "keep " : ""}${study.pick.name}`);
  return [link, h("small", `${scores} (${study.pick.basis} items)`), study.verdict ? h("small", study.verdict) : null];
}

function empty() {
  return h("div.empty.card", h("h2", "No study yet"),
    h("p", "A study searches the merges of a pool of checkpoints on several objectives at once."),
    h("p", h("a.button", { href: "/new" }, "New study"), " or on the command line:"),
    h("pre", "recycler init runs/* --tasks A,B\nrecycler run study.yaml"));
}

function update(study) {
  const known = studies.get(study.study);
  studies.set(study.study, { ...known, ...study });
  const made = rows.get(study.study);
  if (known && made && state(known) === state(study)) line(made, studies.get(study.study));
  else show(filters());
}

await load();
follow(route("events"), {
  study: update, snapshot: update,
  operation: (operation) => {
    if (!["create", "run"].includes(operation.kind)) return;
    queued = queued.filter((known) => known.id !== operation.id);
    if (operation.state === "queued") queued.push(operation);
    show(filters());
  },
}, load);

// One merge: its scores against its rivals, what it answers, its recipe, and its export.

import { about, finished, get, post, route } from "./api.js";
import { bars } from "./bars.js";
import { $, bar, bytes, duration, fill, h, number, problem, toast, writes } from "./dom.js";
import { caption, draw } from "./figure.js";
import { Items, sampling, signed } from "./items.js";
import { follow } from "./live.js";

const study = about.study, SPLITS = ["test", "select", "dev"];
let found = null, items = null;

function scores() {
  const t = found.trial, splits = SPLITS.filter((s) => t[s]), objectives = [...new Set(splits.flatMap((s) => Object.keys(t[s])))];
  const warning = $("#warning");
  warning.hidden = splits.includes("test") || !splits.length;
  warning.textContent = `Only ${splits.slice().reverse().join(" and ")} scores are known. The search or the choice used these items, so the scores are optimistic.`;
  if (!splits.length) { fill($("#scores").tBodies[0], h("tr", h("td", t.state === "running" ? "It is being scored." : "It has no scores."))); return; }
  const by = (objective, rival) => found.differences.find((d) => d.objective === objective && d.rival === rival);
  fill($("#scores").tHead, h("tr", h("th", { scope: "col" }, "objective"), splits.map((s) => h("th.num", { scope: "col" }, `${s} items`)), found.rivals.map((r) => h("th", { scope: "col" }, `against ${r.role}`, h("br"), h("a", { href: `/studies/${encodeURIComponent(study)}/trials/${r.trial}` }, r.name)))));
  fill($("#scores").tBodies[0], objectives.map((o) => h("tr", h("th", { scope: "row" }, titled(o)),
    splits.map((s) => h("td.num", t[s][o] ? `${number(t[s][o].mean)}${t[s][o].stderr ? ` ± ${number(t[s][o].stderr)}` : ""}` : "–")),
    found.rivals.map((r) => { const d = by(o, r.trial); return d ? h(`td.${d.word.replace(/[ ']/g, (c) => (c === " " ? "-" : ""))}`, `${d.word} `, h("small", `${signed(d.difference)}${d.interval ? ` [${signed(d.interval[0])}, ${signed(d.interval[1])}]` : ""}`)) : h("td.muted", "–"); }))));
}

function titled(name) {
  const d = found.differences.find((x) => x.objective === name);
  return `${name}${d?.held_out ? "*" : ""} ${d ? (d.direction === "max" ? "↑" : "↓") : ""}${d?.unit && d.unit !== "share" ? ` [${d.unit}]` : ""}`;
}

async function forest() {
  if (!found.figure) { fill($("#forest"), found.trial.state === "failed" ? null : h("p.muted", "No rival is scored on the same items yet.")); return; }
  const figure = JSON.parse(found.figure), narrow = innerWidth < 700;
  fill($("#forest-caption"), caption(figure));
  const adapt = (layout) => { if (narrow) stacked(layout); else layout.height += 40; };
  await draw($("#forest"), figure, { adapt });
}

/** Panels below each other on a narrow screen. */
function stacked(layout) {
  const names = Object.keys(layout).filter((n) => /^xaxis\d*$/.test(n)), k = names.length;
  const share = 1 / k, gap = k > 1 ? 0.35 * share : 0;
  names.forEach((name, i) => {
    const y = name.replace("x", "y"), top = 1 - i * share;
    layout[name] = { ...layout[name], domain: [0, 1], nticks: 4, ...(i < k - 1 ? { title: { text: "" } } : {}) };
    layout[y] = { ...layout[y], domain: [top - share + gap, top], showticklabels: true, matches: undefined };
    if (layout.annotations?.[i]) Object.assign(layout.annotations[i], { x: 0.5, y: top });
  });
  layout.height = layout.height * k * 0.9 + 40;
}

function facts() {
  const t = found.trial, rows = [["state", h(`span.status.${t.state}`, t.state)], ["kind", t.kind], ["method", t.method], ["attempts", String(t.attempts)], ["P(non-dominated)", found.p_nondominated === null || found.p_nondominated === undefined ? null : found.p_nondominated.toFixed(2)],
    ...Object.entries(t.seconds).map(([split, parts]) => [`${split} items`, Object.entries(parts).map(([part, s]) => `${part} ${s < 1 ? `${number(1000 * s, 0)} ms` : s < 60 ? `${number(s, 2)} s` : duration(s)}`).join(", ")]),
    ["recipe", h("code", t.id)], ["digest", t.digest ? h("code", t.digest) : null]];
  fill($("#facts"), rows.filter(([, v]) => v).map(([k, v]) => [h("dt", k), h("dd", v)]));
  bars($("#bars"), Object.entries(t.weights).sort((a, b) => Math.abs(b[1]) - Math.abs(a[1])));
}

async function recipes() {
  const block = (title, text) => h("div", h("h3", title), h("div.copy", h("pre", { tabIndex: 0 }, text), h("button.quiet", { type: "button", "aria-label": `Copy ${title}`, onclick: async () => {
    try { await navigator.clipboard.writeText(text); toast("Copied."); } catch { toast("The browser does not let pages copy; select the text.", "bad"); }
  } }, "Copy")));
  try {
    const files = await get(route("studies", study, "explorer", "trials", found.trial.trial, "recipe"));
    fill($("#recipes"), block("recipe.yaml", files.recycler), files.mergekit ? block("mergekit.yaml", files.mergekit) : h("p.muted", "mergekit can't express this recipe."));
  } catch (error) { fill($("#recipes"), block("recipe as JSON", JSON.stringify(found.trial.recipe, null, 2)), h("div", h("p.muted", "Without the folders of the checkpoints it can't be written as a file:"), problem(error))); }
}

// --- exports ---

function exported(operation) {
  const r = operation.result ?? {}, total = (r.files ?? []).reduce((sum, f) => sum + f.bytes, 0);
  return h("div.good", h("p", h("b", `Exported${r.verified ? " and verified" : ""}: `), h("a", { href: route("operations", operation.id, "archive"), download: "" }, `download ${bytes(total)}`)),
    h("dl.facts", h("dt", "on the server"), h("dd", h("code", r.path ?? "")), h("dt", "digest"), h("dd", h("code", r.digest ?? "")), h("dt", "proof"), h("dd", r.digest && r.digest === found.trial.digest ? "The written weights have the digest of the merge that was scored." : "The written weights were read back.")));
}

async function write(operation) {
  const host = $("#exports"), button = $("#export");
  button.disabled = true;
  try {
    const done = await finished(operation, (o) => fill(host, h("p.muted", o.state === "queued" ? "The export waits for its turn …" : o.progress?.text || "Writing the merge …"), o.progress?.total ? bar(o.progress.done ?? 0, o.progress.total, "export") : null));
    fill(host, exported(done));
  } catch (error) { fill(host, problem(error)); }
  button.disabled = false;
}

async function known() {
  const { exports } = await get(`/api/v1/exports?study=${encodeURIComponent(study)}`);
  const mine = exports.filter((o) => o.arguments.trial === found.trial.trial), open = mine.find((o) => ["queued", "running"].includes(o.state)), done = mine.find((o) => o.folder);
  if (open) write(open); else if (done) fill($("#exports"), exported(done));
}

async function load() {
  found = await get(route("studies", study, "explorer", "trials", about.trial));
  const t = found.trial;
  fill($("#title"), `Trial ${t.trial} `, h("span.muted", t.name === String(t.trial) ? "" : t.name), found.roles.map((r) => [" ", h("span.status", r)]));
  document.title = `${t.name} of ${study} · recycler`;
  fill($("#why"), found.why);
  fill($("#trouble"), t.failure ? h("div.error", { role: "alert" }, h("p", h("b", `It failed (${t.failure.kind}): `), t.failure.message), t.failure.hint ? h("p.hint", t.failure.hint) : null, t.failure.details ? h("details", h("summary", "Details"), h("pre", t.failure.details)) : null) : null);
  scores(); facts();
  $("#export").disabled = !t.digest || !writes;
  await forest();
}

async function begin() {
  try { await load(); } catch (error) {
    fill($("#trouble"), problem(error));
    fill($("#why"));
    for (const part of document.querySelectorAll("main > *")) part.hidden = !part.contains($("#trouble")) && !part.contains($("#title"));
    $("#export").hidden = true;
    return;
  }
  items = new Items(study, found);
  sampling(study, found, items);
  $("#export").addEventListener("click", async () => {
    $("#export").disabled = true;
    try { write(await post(route("studies", study, "exports"), { trial: String(found.trial.trial) })); } catch (error) { fill($("#exports"), problem(error)); $("#export").disabled = false; }
  });
  await Promise.all([items.compare(), recipes(), known().catch((error) => fill($("#exports"), problem(error)))]);
  document.body.dataset.ready = "1";
  follow(route("studies", study, "events"), { trial: (trial) => { if (trial.number === found.trial.trial) load().then(() => items.compare()); } });
}

matchMedia("(max-width: 700px)").addEventListener("change", () => { if (found) forest(); });
begin();

// One pool: its check, the scores of its checkpoints, where they come from, its studies.
import { about, finished, get, post, remove, route } from "./api.js";
import { $, bar, confirm, fill, h, number, problem, svg, toast } from "./dom.js";
import { heat, matrix } from "./matrix.js";
import { findings } from "./pools.js";

const pool = about.pool;

function deep(found) {
  if (!found) return h("p.muted", "Not read in full yet.");
  return [h("h3", `Cosines of the task vectors (from ${found.reference})`), heat(found.names, found.cosines, "cosines of the task vectors"),
    found.reference.startsWith("the mean") ? h("p.note", "Without a base they are taken from the mean, so unrelated checkpoints lie below 0 here.") : null,
    h("p.note", "A task vector is what training changed. Near 1: much the same change; near 0: unrelated. Norms: ", found.names.map((name, i) => `${name} ${number(found.norms[i], 2)}`).join(", "), ".")];
}

async function check() {
  try {
    const found = await get(route("pools", pool, "check"));
    fill($("#report"), findings(found));
    fill($("#deep-report"), deep(found.deep));
  } catch (error) { fill($("#report"), problem(error)); }
}

$("#deep").addEventListener("click", async (event) => {
  event.target.disabled = true;
  try {
    await finished(await post(route("pools", pool, "deep-check")), (operation) => {
      const { text, done, total } = operation.progress || {};
      fill($("#deep-report"), h("p.loading", text || "Waiting …"), total ? bar(done || 0, total) : null);
    });
    await check();
  } catch (error) { fill($("#deep-report"), problem(error)); }
  event.target.disabled = false;
});

$("#remove").addEventListener("click", async () => {
  if (!(await confirm(`Remove pool ${pool}?`, "It leaves the registry. Its folders and all scores stay.", "Remove"))) return;
  try { await remove(route("pools", pool)); location.href = "/pools"; } catch (error) { toast(`${error.message} ${error.hint}`, "bad"); }
});

async function scores() {
  const shown = $("#scores");
  try {
    const found = await get(route("pools", pool, "scores"));
    if (!found.tasks.length) return fill(shown, h("p.muted", "No checkpoint is scored yet. A study scores them first; scouting scores nothing else."));
    const rows = found.checkpoints.map((name, i) => ({ name, cells: found.scores[i] }));
    const many = found.tasks.length > 1 && found.checkpoints.length > 2;
    fill(shown, matrix(found.tasks, rows), h("p.note", "Means on dev items ± one standard error; the best of each column is bold."),
      many ? [h("h3", "Rank correlations of the tasks over the checkpoints"), heat(found.tasks.map((t) => t.name), found.correlations, "rank correlations"),
        h("p.note", "Below 0 (orange): checkpoints good at one task are bad at the other, so a search pays. Each better end counts as high.")] : null);
  } catch (error) { fill(shown, problem(error)); }
}

/** A graph from ancestors on the left to checkpoints on the right. */
function graph(nodes) {
  const names = new Map(nodes.map((node) => [node.name, node]));
  const depth = (node, seen = new Set()) => (seen.has(node.name) || !node.parent ? 0 : 1 + depth(names.get(node.parent) || { name: node.parent }, new Set([...seen, node.name])));
  const all = [...nodes];
  for (const node of nodes) if (node.parent && !names.has(node.parent)) { const made = { name: node.parent, outside: true }; names.set(made.name, made); all.push(made); }
  const columns = [];
  for (const node of all) (columns[depth(node)] ||= []).push(node);
  const place = new Map(), width = 230, height = 46;
  for (let x = 0; x < columns.length; x += 1) columns[x] ||= []; // a cycle leaves columns empty
  columns.forEach((column, x) => column.forEach((node, y) => place.set(node.name, [x * width + 10, y * height + 12])));
  const size = [columns.length * width, Math.max(...columns.map((c) => c.length)) * height + 20];
  const short = (text) => (text.length > 26 ? `…${text.slice(-25)}` : text);
  const made = svg("svg", { viewBox: `0 0 ${size[0]} ${size[1]}`, width: size[0], height: size[1], role: "img", "aria-label": "lineage of the checkpoints" });
  for (const node of all) if (node.parent) {
    const [x1, y1] = place.get(node.parent), [x2, y2] = place.get(node.name);
    made.append(svg("path", { d: `M${x1 + 190},${y1 + 15} C${x1 + 215},${y1 + 15} ${x2 - 25},${y2 + 15} ${x2},${y2 + 15}`, fill: "none", stroke: "currentColor", opacity: "0.5" }));
  }
  for (const node of all) {
    const [x, y] = place.get(node.name);
    made.append(svg("g", {}, svg("title", {}, node.name + (node.why ? ` (${node.why})` : "")),
      svg("rect", { x, y, width: 190, height: 30, rx: 6, fill: "none", stroke: "currentColor", "stroke-dasharray": node.outside ? "4 3" : "none" }),
      svg("text", { x: x + 8, y: y + 20, fill: "currentColor", "font-size": "13" }, short(node.name))));
  }
  return h("div.scroll", made);
}

async function lineage() {
  try {
    const found = await get(route("pools", pool, "lineage"));
    fill($("#lineage"), found.nodes.some((node) => node.parent) ? graph(found.nodes) : h("p.muted", "The folders do not say what they were trained from."));
  } catch (error) { fill($("#lineage"), problem(error)); }
}

try {
  const spec = await get(route("pools", pool));
  fill($("#checkpoints"), h("div.scroll", h("table", h("thead", h("tr", ["Name", "Path", "Fingerprint"].map((t) => h("th", { scope: "col" }, t)))),
    h("tbody", [...spec.checkpoints, ...(spec.base ? [{ ...spec.base, name: `${spec.base.name} (base)` }] : [])].map((c) => h("tr", h("td", c.name), h("td.wrap", c.path), h("td", { title: c.fingerprint }, h("code", `${c.fingerprint.slice(0, 19)}…`))))))));
  fill($("#studies"), spec.studies.length ? h("ul", spec.studies.map((s) => h("li", h("a", { href: `/studies/${encodeURIComponent(s)}` }, s)))) : h("p.muted", "No study searches it yet."));
} catch (error) { fill($("#checkpoints"), problem(error)); }
await Promise.all([check(), scores(), lineage()]);

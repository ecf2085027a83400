// All pools, and a form to register one.
import { finished, get, post, route } from "./api.js";
import { $, bar, bytes, duration, fill, h, problem, toast } from "./dom.js";

/** The report of a check: what was found, how bad, and what to do. */
export function findings(report) {
  const bad = report.findings.filter((f) => f.severity === "error").length;
  const head = !report.findings.length
    ? h("p.good", `${report.checkpoints.length} checkpoints can be merged with each other.`)
    : h(bad ? "p.bad" : "p.warn", bad ? `${bad} error${bad > 1 ? "s" : ""}: these folders can't be merged.` : `They can be merged; ${report.findings.length} warning${report.findings.length > 1 ? "s" : ""}.`);
  const rows = report.findings.map((f) => h("tr", h("td", h(`span.status.${f.severity === "error" ? "failed" : "queued"}`, f.severity)),
    h("td.wrap", [f.checkpoint, f.tensor, f.file].filter(Boolean).join(" · ")), h("td.wrap", f.message), h("td.wrap", f.hint || "")));
  return [head,
    rows.length ? h("div.scroll", h("table", h("thead", h("tr", ["", "Where", "Found", "What to do"].map((t) => h("th", { scope: "col" }, t)))), h("tbody", rows))) : null,
    report.estimate ? h("p.note", `One merge reads ${bytes(report.estimate.read_bytes)} and takes ${report.estimate.seconds < 1 ? "less than a second" : `about ${duration(report.estimate.seconds)}`}; an export takes ${bytes(report.estimate.write_bytes)} on disk.`) : null];
}

const list = document.body.dataset.page === "pools" ? $("#list") : null;

async function load() {
  try {
    const found = await get(route("pools"));
    if (!found.pools.length) return fill(list, h("div.empty.card", h("h2", "No pool yet"), h("p", "A pool is a set of checkpoints of one architecture. Register its folders below; nothing is copied.")));
    fill(list, h("div.scroll", h("table", h("thead", h("tr", ["Pool", "Checkpoints", "Base", "Studies"].map((t) => h("th", { scope: "col" }, t)))),
      h("tbody", found.pools.map((pool) => h("tr", h("td.wrap", h("a", { href: `/pools/${encodeURIComponent(pool.name)}` }, pool.name)),
        h("td.wrap", `${pool.checkpoints.length}: ${pool.checkpoints.slice(0, 6).join(", ")}${pool.checkpoints.length > 6 ? ", …" : ""}`), h("td", pool.base || "–"),
        h("td.wrap", pool.studies.length ? pool.studies.flatMap((s, i) => [i ? ", " : "", h("a", { href: `/studies/${encodeURIComponent(s)}` }, s)]) : "none")))))));
  } catch (error) { fill(list, problem(error)); }
}

if (list) {
  const form = $("#register"), report = $("#report");
  const folders = () => form.elements.paths.value.split("\n").map((line) => line.trim()).filter(Boolean);
  const base = () => form.elements.base.value.trim() || null;
  $("#check").addEventListener("click", async () => {
    if (!form.reportValidity()) return;
    try { fill(report, findings(await post(route("pools", "check"), { folders: folders(), base: base() }))); } catch (error) { fill(report, problem(error)); }
  });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = event.submitter || $("[type=submit]", form);
    button.disabled = true;
    try {
      const pool = { name: form.elements.name.value.trim(), checkpoints: folders().map((path) => ({ path })), base: base() ? { path: base() } : null };
      await finished(await post(route("pools"), pool), (operation) => {
        const { text, done, total } = operation.progress || {};
        fill(report, h("p.loading", text || "Registering: every file is read once for its fingerprint …"), total && done ? bar(done, total) : null);
      });
      toast(`registered pool ${pool.name}`);
      location.href = `/pools/${encodeURIComponent(pool.name)}`;
    } catch (error) { fill(report, problem(error)); button.disabled = false; }
  });
  await load();
}

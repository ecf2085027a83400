// A matrix of scores: checkpoints down, tasks across, the best of each column marked.
import { h, number } from "./dom.js";

/** tasks: {name, unit, direction, note}; rows: {name, href, cells: {mean, stderr} or null}. */
export function matrix(tasks, rows) {
  const best = tasks.map((task, column) => {
    const found = rows.map((row) => row.cells[column]?.mean).filter((mean) => Number.isFinite(mean));
    return task.direction === "min" ? Math.min(...found) : Math.max(...found);
  });
  return h("div.scroll", h("table.matrix",
    h("thead", h("tr", h("th", { scope: "col" }, "Checkpoint"), tasks.map((task) => h("th.num", { scope: "col" }, task.name,
      h("small", [task.unit, task.direction === "min" ? "lower is better" : "", task.note].filter(Boolean).join(", ")))))),
    h("tbody", rows.map((row) => h("tr", h("th", { scope: "row" }, row.name), row.cells.map((cell, column) =>
      h(cell && cell.mean === best[column] ? "td.num.best" : "td.num", cell ? number(cell.mean) : "–", cell?.stderr ? h("small", `± ${number(cell.stderr)}`) : null)))))));
}

/** A square heat map of numbers from -1 to 1, with its numbers in the cells. */
export function heat(names, values, title) {
  const colour = (value) => {
    if (value === null || value === undefined) return "transparent";
    const share = Math.round(Math.min(1, Math.abs(value)) * 70);
    return `color-mix(in srgb, ${value < 0 ? "#D55E00" : "#0072B2"} ${share}%, transparent)`;
  };
  return h("div.scroll", h("table.heat", { "aria-label": title },
    h("thead", h("tr", h("td"), names.map((name) => h("th.num", { scope: "col" }, name)))),
    h("tbody", values.map((row, i) => h("tr", h("th", { scope: "row" }, names[i]), row.map((value) => h("td.num", { style: { background: colour(value) } }, value === null ? "–" : number(value, 2))))))));
}

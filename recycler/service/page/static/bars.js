// Weights as bars.

import { fill, h } from "./dom.js";

/** One bar for each [name, weight]; the largest fills the line. */
export function bars(host, weights) {
  const most = Math.max(...weights.map(([, w]) => Math.abs(w)), 1e-9);
  fill(host, weights.map(([name, w]) => [h("span.label", name), h("span.bar-line", h(`span${w < 0 ? ".negative" : ""}`, { style: { width: `${(100 * Math.abs(w)) / most}%` } })), h("span", w.toFixed(3))]));
}

// Elements, numbers and messages. Every text is set as text, never as markup.

/** h("td.num", {title: "…"}, "text", child): an element with classes, attributes and children. */
export function h(spec, attributes, ...children) {
  const [tag, ...classes] = spec.split(".");
  const element = document.createElement(tag || "div");
  if (classes.length) element.className = classes.join(" ");
  if (classes.includes("scroll")) element.tabIndex = 0; // reachable by keyboard, so that it can be scrolled
  if (attributes instanceof Node || typeof attributes !== "object" || Array.isArray(attributes)) {
    if (attributes !== undefined && attributes !== null) children.unshift(attributes);
    attributes = {};
  }
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") Object.assign(element.style, value);
    else if (name in element && typeof value !== "string") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  if (attributes && "data-write" in attributes) guard(element);
  for (const child of children.flat(3)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : String(child));
  }
  return element;
}

/** Whether the user's token may change something. */
export const writes = document.body.dataset.writes !== "false";

/** Turn a button off that the user's token does not allow, and say why. */
export function guard(button) {
  if (writes) return;
  button.disabled = true;
  button.title = "Your token may read only.";
}
for (const button of document.querySelectorAll("[data-write]")) guard(button);

export const $ = (selector, root = document) => root.querySelector(selector);

export function fill(element, ...children) {
  element.replaceChildren(...children.flat(3).filter((c) => c !== null && c !== undefined && c !== false)
    .map((c) => (c instanceof Node ? c : document.createTextNode(String(c)))));
  element.removeAttribute("aria-busy");
  return element;
}

/** A number with so many digits that its error shows. */
export function number(value, digits = 3) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e5)) return value.toExponential(2);
  return value.toFixed(size >= 100 ? 1 : size >= 10 ? 2 : digits);
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "–";
  const s = Math.round(seconds);
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
}

export function bytes(count) {
  if (!Number.isFinite(count)) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let place = 0;
  while (count >= 1024 && place < 4) { count /= 1024; place += 1; }
  return `${count.toFixed(place && count < 100 ? 1 : 0)} ${units[place]}`;
}

export function when(text) {
  if (!text) return "–";
  const date = new Date(text);
  return Number.isNaN(date.getTime()) ? text : date.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
}

/** A problem as a box: what is wrong, and what to do. */
export function problem(error) {
  return h("div.error", { role: "alert" }, h("p", error.message || String(error)), error.hint ? h("p.hint", error.hint) : null);
}

/** A short message at the border of the page. */
export function toast(text, kind = "") {
  const made = h(`div.toast${kind ? "." + kind : ""}`, text);
  document.getElementById("toasts").append(made);
  setTimeout(() => made.remove(), 8000);
}

/** Ask before something that can't be undone; resolves to true or false. */
export function confirm(title, text, yes) {
  return new Promise((answer) => {
    const dialog = h("dialog", { "aria-labelledby": "dialog-title" },
      h("form", { method: "dialog" }, h("h2", { id: "dialog-title" }, title), h("p", text),
        h("div.buttons", h("button.quiet", { value: "no" }, "Cancel"), h("button.danger", { value: "yes" }, yes))));
    dialog.addEventListener("close", () => { answer(dialog.returnValue === "yes"); dialog.remove(); });
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** A progress bar with its numbers in words. */
export function bar(done, total, label) {
  const share = total > 0 ? Math.min(1, done / total) : 0;
  return h("div.progress", { role: "progressbar", "aria-valuenow": String(Math.round(100 * share)), "aria-valuemin": "0", "aria-valuemax": "100", "aria-label": label || "progress" },
    h("span.fill", { style: { width: `${100 * share}%` } }));
}

const SVG = "http://www.w3.org/2000/svg";
export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  for (const child of children.flat()) element.append(child instanceof Node ? child : document.createTextNode(String(child)));
  return element;
}

/** A small line of numbers. */
export function sparkline(values, label) {
  if (values.length < 2) return h("span.muted", "–");
  const low = Math.min(...values), high = Math.max(...values), span = high - low || 1;
  const points = values.map((v, i) => `${((100 * i) / (values.length - 1)).toFixed(1)},${(22 - (20 * (v - low)) / span).toFixed(1)}`);
  return svg("svg", { viewBox: "0 0 100 24", class: "spark", role: "img", "aria-label": label, preserveAspectRatio: "none" },
    svg("polyline", { points: points.join(" ") }));
}

/** Keep a form in the address, so that a link to the view carries its filters. */
export function inAddress(form, changed) {
  const asked = new URLSearchParams(location.search);
  for (const field of form.elements) {
    if (!field.name || !asked.has(field.name)) continue;
    if (field.type === "checkbox") field.checked = asked.get(field.name) === "1";
    else field.value = asked.get(field.name);
  }
  const read = () => {
    const found = {};
    for (const field of form.elements) if (field.name) found[field.name] = field.type === "checkbox" ? field.checked : field.value;
    return found;
  };
  const write = () => {
    const next = new URLSearchParams(location.search);
    for (const field of form.elements) {
      if (!field.name) continue;
      const value = field.type === "checkbox" ? (field.checked ? "1" : "") : field.value;
      const plain = field.type === "checkbox" ? "" : field.dataset.plain ?? (field.options ? field.options[0].value : "");
      if (value === plain || value === "") next.delete(field.name); else next.set(field.name, value);
    }
    const text = next.toString();
    history.replaceState(null, "", text ? `?${text}` : location.pathname);
    changed(read());
  };
  form.addEventListener("input", write);
  form.addEventListener("submit", (event) => event.preventDefault());
  return read;
}

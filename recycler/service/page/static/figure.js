// Figures of the service, drawn by plotly in the colours of the page.

let loading;

/** Plotly, loaded once. */
export function plotly() {
  loading ??= new Promise((done, failed) => {
    if (window.Plotly) { done(window.Plotly); return; }
    let script = document.querySelector('script[src^="/assets/plotly"]'); // begun by the page's head
    const made = !script;
    if (made) {
      script = document.createElement("script");
      script.src = "/assets/plotly.min.js?" + new URL(document.querySelector('link[rel="stylesheet"]').href).pathname.split("/")[2];
    }
    script.addEventListener("load", () => done(window.Plotly));
    script.addEventListener("error", () => failed(new Error("The drawing library did not load. Reload the page.")));
    if (made) document.head.append(script);
  });
  return loading;
}

/** A colour of the page's style, such as `ink`. */
export function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

/** Colours of figures made for white paper -> those of the page. */
function swapped(value, known) {
  if (typeof value === "string") return known[value] ?? value;
  if (Array.isArray(value)) return value.length > 500 || typeof value[0] === "number" ? value : value.map((v) => swapped(v, known));
  if (value && typeof value === "object" && !ArrayBuffer.isView(value)) {
    return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, swapped(v, known)]));
  }
  return value;
}

function themed(figure) {
  const ink = colour("ink"), line = colour("line"), soft = colour("soft"), paper = colour("paper");
  const known = { "#000000": ink, black: ink, white: paper, "#444444": soft, "#666666": soft, "#777777": soft, "#BBBBBB": line };
  const layout = swapped(figure.layout, known);
  const axis = { gridcolor: line, zerolinecolor: line, linecolor: line, tickcolor: line };
  for (const name of Object.keys(layout)) if (/^[xy]axis\d*$/.test(name)) {
    layout[name] = { zeroline: false, ...layout[name], ...axis };
    if (name[0] === "y" && layout[name].title?.text) layout[name].title.standoff = 8;
  }
  layout.paper_bgcolor = layout.plot_bgcolor = "rgba(0,0,0,0)";
  layout.font = { ...layout.font, color: ink, family: "system-ui, sans-serif" };
  layout.hoverlabel = { bgcolor: paper, bordercolor: line, font: { color: ink }, align: "left" };
  layout.width = undefined;
  layout.autosize = true;
  delete layout.template;
  return { data: figure.data.map((trace) => swapped(trace, known)), layout };
}

const drawn = new Map();

/** Draw a figure into an element; again whenever the theme changes. */
export async function draw(element, figure, options = {}) {
  const library = await plotly();
  drawn.set(element, [figure, options]);
  const { data, layout } = themed(figure);
  if (options.height) layout.height = options.height;
  if (options.adapt) options.adapt(layout);
  const config = { displayModeBar: false, responsive: !options.still, staticPlot: Boolean(options.still), showTips: false };
  if (layout.height) element.style.minHeight = `${layout.height}px`;
  await library.react(element, data, layout, config);
  if (options.after) options.after(element);
}

/** What to see in a figure. */
export const caption = (figure) => figure.layout?.meta?.caption ?? "";

async function again() {
  for (const [element, [figure, options]] of drawn) if (element.isConnected) await draw(element, figure, options);
}
document.addEventListener("theme", again);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);

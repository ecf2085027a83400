// Marks of trials on a canvas: thousands of them in a few milliseconds.

const shapes = {
  circle: (c, x, y, r) => { c.moveTo(x + r, y); c.arc(x, y, r, 0, 7); },
  square: (c, x, y, r) => c.rect(x - r, y - r, 2 * r, 2 * r),
  diamond: (c, x, y, r) => poly(c, [[x, y - 1.3 * r], [x + 1.3 * r, y], [x, y + 1.3 * r], [x - 1.3 * r, y]]),
  "triangle-up": (c, x, y, r) => poly(c, [[x, y - 1.2 * r], [x + 1.1 * r, y + r], [x - 1.1 * r, y + r]]),
  x: (c, x, y, r) => cross(c, x, y, r, Math.PI / 4),
  cross: (c, x, y, r) => cross(c, x, y, r, 0),
  star: (c, x, y, r) => poly(c, Array.from({ length: 10 }, (_, i) => {
    const s = i % 2 ? 0.55 * r : 1.4 * r, a = (Math.PI * i) / 5;
    return [x + s * Math.sin(a), y - s * Math.cos(a)];
  })),
};

function poly(c, points) {
  points.forEach(([x, y], i) => (i ? c.lineTo(x, y) : c.moveTo(x, y)));
  c.closePath();
}

function cross(c, x, y, r, turn) {
  const w = 0.4 * r, l = 1.25 * r, cos = Math.cos(turn), sin = Math.sin(turn);
  const corners = [[w, w], [w, l], [-w, l], [-w, w], [-l, w], [-l, -w], [-w, -w], [-w, -l], [w, -l], [w, -w], [l, -w], [l, w]];
  poly(c, corners.map(([a, b]) => [x + a * cos - b * sin, y + a * sin + b * cos]));
}

/** Draw marks of one look: positions are pairs in a flat array; `hollow` without filling. */
export function marks(c, symbol, at, radius, fill, edge, hollow = false) {
  c.beginPath();
  if (symbol.startsWith("x-thin")) {
    for (let i = 0; i < at.length; i += 2) {
      c.moveTo(at[i] - radius, at[i + 1] - radius); c.lineTo(at[i] + radius, at[i + 1] + radius);
      c.moveTo(at[i] - radius, at[i + 1] + radius); c.lineTo(at[i] + radius, at[i + 1] - radius);
    }
    c.strokeStyle = fill; c.lineWidth = 1; c.stroke();
    return;
  }
  const shape = shapes[symbol] ?? shapes.circle;
  if (radius < 3 && shape === shapes.circle && !edge && !hollow) {
    for (let i = 0; i < at.length; i += 2) c.rect(at[i] - radius * 0.88, at[i + 1] - radius * 0.88, 1.76 * radius, 1.76 * radius);
  } else for (let i = 0; i < at.length; i += 2) shape(c, at[i], at[i + 1], radius);
  if (hollow) { c.strokeStyle = fill; c.lineWidth = 1.2; c.stroke(); return; }
  c.fillStyle = fill; c.fill();
  if (edge) { c.strokeStyle = edge; c.lineWidth = 1; c.stroke(); }
}

/** A canvas of some mark, for legends and tables. */
export function sample(symbol, fill, size = 14) {
  const canvas = document.createElement("canvas"), scale = window.devicePixelRatio || 1;
  canvas.width = canvas.height = size * scale;
  canvas.style.width = canvas.style.height = `${size}px`;
  canvas.setAttribute("aria-hidden", "true");
  const c = canvas.getContext("2d");
  c.scale(scale, scale);
  marks(c, symbol, [size / 2, size / 2], size * 0.3, fill, "");
  return canvas;
}

// Requests to the API. A problem document (RFC 9457) becomes a Problem with message and hint.

export const about = JSON.parse(document.body.dataset.about || "{}");

export class Problem extends Error {
  constructor(status, body) {
    super(body.detail || `The service answered with status ${status}.`);
    this.status = status;
    this.code = body.code || "error";
    this.hint = body.hint || "";
  }
}

/** The address of an API route; path parts are escaped. */
export function route(...parts) {
  return "/api/v1/" + parts.map((part) => encodeURIComponent(part)).join("/");
}

document.getElementById("logout")?.addEventListener("click", async () => {
  await request("DELETE", route("session"));
  location.href = "/login";
});

/** Send a request; returns the JSON of the answer. */
export async function request(method, url, body, options = {}) {
  const headers = { "X-Recycler": "page" };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (method === "POST") headers["Idempotency-Key"] = options.key || crypto.randomUUID?.() || String(Math.random());
  let answer;
  try {
    answer = await fetch(url, {
      method, headers, signal: options.signal, credentials: "same-origin",
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, {
      code: "unreachable", detail: "The service does not answer.",
      hint: "Check that `recycler serve` runs. Studies go on without it.",
    });
  }
  if (answer.status === 401 && document.body.dataset.page !== "login") {
    location.href = "/login?next=" + encodeURIComponent(location.pathname + location.search);
  }
  const text = await answer.text();
  let found = {};
  try { found = text ? JSON.parse(text) : {}; } catch { found = { detail: text.slice(0, 300) }; }
  if (!answer.ok) throw new Problem(answer.status, found);
  return found;
}

export const get = (url, options) => request("GET", url, undefined, options);
export const post = (url, body = {}, options = {}) => request("POST", url, body, options);
export const remove = (url) => request("DELETE", url);

/** Follow an operation to its end; `tell` gets each state of it. */
export async function finished(operation, tell = () => {}) {
  let wait = 300;
  for (;;) {
    tell(operation);
    if (!["queued", "running"].includes(operation.state)) break;
    await new Promise((done) => setTimeout(done, wait));
    wait = Math.min(2000, wait * 1.3);
    try {
      operation = await get(route("operations", operation.id));
    } catch (error) {
      if (error.status !== 0 && error.status !== 503) throw error;
    }
  }
  if (operation.state === "failed") {
    throw new Problem(500, { detail: operation.error?.error, hint: operation.error?.hint, code: operation.error?.code });
  }
  if (operation.state === "cancelled") throw new Problem(409, { detail: "It was cancelled.", code: "cancelled" });
  return operation;
}

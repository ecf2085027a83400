// Events of the service. The browser reconnects with the number of the last event it saw.

/**
 * Follow an event stream: handlers by event name; returns a function that ends it.
 * `again` is called after a broken connection, because what happened meanwhile was not told.
 */
export function follow(url, handlers, again = () => {}) {
  const shown = document.getElementById("connection");
  let source, closed = false, broken = false, wait = 1000, timer;
  const open = () => {
    source = new EventSource(url);
    source.onopen = () => {
      wait = 1000;
      say("live", "ok");
      if (broken) again();
      broken = false;
    };
    source.onerror = () => {
      if (closed) return;
      broken = true;
      say("reconnecting …", "bad");
      if (source.readyState === EventSource.CLOSED) {
        timer = setTimeout(open, wait);
        wait = Math.min(30000, wait * 2);
      }
    };
    for (const [name, handle] of Object.entries(handlers)) {
      source.addEventListener(name, (event) => handle(JSON.parse(event.data), event));
    }
  };
  const say = (text, kind) => { if (shown) { shown.textContent = text; shown.dataset.kind = kind; } };
  open();
  const end = () => { closed = true; clearTimeout(timer); source.close(); };
  window.addEventListener("pagehide", end, { once: true });
  return end;
}

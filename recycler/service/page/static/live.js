// Events of the service. The browser reconnects with the number of the last event it saw.

/** Follow an event stream: handlers by event name; returns a function that ends it. */
export function follow(url, handlers) {
  const shown = document.getElementById("connection");
  let source, closed = false, wait = 1000, timer;
  const open = () => {
    source = new EventSource(url);
    source.onopen = () => { wait = 1000; say("live", "ok"); };
    source.onerror = () => {
      if (closed) return;
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

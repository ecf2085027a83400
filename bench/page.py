"""The page on large studies: time to open a front, time of a brush, bytes of the first page.

A real service serves ledgers of bench/large_study.py to a real Chromium. The service has read each study
once before it is measured, as it has while a study runs. A brush is a drag over the first panel; its time
is from the pointer's move to the end of the next paint, in which all plots and the table follow it.

Run: python bench/page.py [--trials 2000 5000] [--rounds 5]
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from large_study import NAME, large
from machine import machine
from playwright.sync_api import sync_playwright

_BRUSH = """async ([x0, y0, x1, y1]) => {
  const canvas = document.querySelector('#scatter canvas'), box = canvas.getBoundingClientRect();
  const send = (type, x, y) => canvas.dispatchEvent(new PointerEvent(type, {
    clientX: box.left + x * box.width, clientY: box.top + y * box.height, pointerId: 1, button: 0 }));
  canvas.setPointerCapture = () => {};
  const painted = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  send('pointerdown', x0, y0);
  const times = [];
  for (let step = 1; step <= 20; step += 1) {
    const began = performance.now();
    send('pointermove', x0 + (x1 - x0) * step / 20, y0 + (y1 - y0) * step / 20);
    await painted();
    times.push(performance.now() - began);
  }
  send('pointerup', x1, y1);
  return [times, performance.getEntriesByName('repaint').map((m) => m.duration)];
}"""


def opened(browser: Any, url: str) -> tuple[dict[str, float], Any]:
    """Open a page in an empty browser; return what it took, and the page."""
    page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    page.goto(url)
    page.wait_for_selector("body[data-ready]")
    found = page.evaluate(
        "[performance.getEntriesByName('front')[0].startTime,"
        "performance.getEntriesByType('resource').reduce((sum, r) => sum + r.transferSize, 0)"
        "+ performance.getEntriesByType('navigation')[0].transferSize]"
    )
    return {"seconds": found[0] / 1000, "megabytes": found[1] / 1e6}, page


def measured(browser: Any, root: Path, trials: int, rounds: int) -> dict[str, Any]:
    """Serve a study of so many trials, open it and brush over it."""
    store = large(root, trials)
    command = [sys.executable, "-m", "recycler", "--store", store, "serve", "--root", str(root)]
    server = subprocess.Popen([*command, "--port", "0"], stderr=subprocess.PIPE, text=True)
    try:
        line = server.stderr.readline()  # type: ignore[union-attr]
        url = f"{line.split()[2]}/studies/{NAME}?split=dev"
        first, _ = opened(browser, url)  # the service reads the study
        rows, brushes = [], list[float]()
        for _ in range(rounds):
            row, page = opened(browser, url)
            rows.append(row)
            times, _ = page.evaluate(_BRUSH, [0.1, 0.1, 0.25, 0.6])
            brushes += times
            page.context.close()
        return {
            "trials": trials,
            "open_first_s": round(first["seconds"], 2),
            "open_s": round(statistics.median(row["seconds"] for row in rows), 2),
            "megabytes": round(rows[-1]["megabytes"], 2),
            "brush_ms": round(statistics.median(brushes), 1),
            "brush_worst_ms": round(max(brushes), 1),
        }
    finally:
        server.terminate()
        server.wait()


def main() -> None:
    """Measure, and print one line of JSON for each size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, nargs="+", default=[2000, 5000])
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as root, sync_playwright() as tools:
        browser = tools.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        for trials in asked.trials:
            found = measured(browser, Path(root), trials, asked.rounds)
            print(json.dumps(found), flush=True)
        browser.close()


if __name__ == "__main__":
    main()

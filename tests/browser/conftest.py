"""A real Chromium: pages that may not complain, reach out, or shut anyone out."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlparse

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
HERE = ("127.0.0.1", "localhost")
WIDTHS = (1280, 400)


@pytest.fixture(scope="session")
def chromium() -> Iterator[object]:
    """The browser of this machine."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    with playwright.sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def shots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where screenshots are kept: RECYCLER_SCREENSHOTS, or a temporary folder."""
    named = os.environ.get("RECYCLER_SCREENSHOTS")
    folder = Path(named) if named else tmp_path_factory.mktemp("screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class Watched:
    """A page of the browser, and everything that it complained about.

    `expected` lists parts of messages that a test provokes on purpose.
    """

    def __init__(self, page: object, shots: Path) -> None:
        self.page, self.shots = page, shots
        self.faults: list[str] = []
        self.expected: list[str] = []
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        page.on("request", self._request)

    def _console(self, message: object) -> None:
        if message.type in ("error", "warning"):
            self.faults.append(f"{message.type}: {message.text} {message.location.get('url', '')}")

    def _request(self, request: object) -> None:
        found = urlparse(request.url)
        if found.scheme not in ("data", "blob") and found.hostname not in HERE:
            self.faults.append(f"request off the machine: {request.url}")

    def looked(self, name: str) -> None:
        """Take pictures in both widths; fail on serious findings of axe-core in light and dark."""
        from axe_playwright_python.sync_playwright import Axe

        found = {}
        for scheme in ("light", "dark"):
            self.page.emulate_media(color_scheme=scheme)
            for width in WIDTHS:
                self.page.set_viewport_size({"width": width, "height": 900})
                self.page.evaluate("window.scrollTo(0, 0)")
                self.page.wait_for_timeout(250)
                file = self.shots / f"{name}-{width}{'-dark' if scheme == 'dark' else ''}.png"
                self.page.screenshot(path=file, full_page=True)
                wide = self.page.evaluate("document.documentElement.scrollWidth")
                assert wide <= width, f"{name} is {wide} px wide at {width} px"
            for violation in Axe().run(self.page).response["violations"]:
                if violation["impact"] in ("serious", "critical"):
                    nodes = [node["html"][:120] for node in violation["nodes"][:3]]
                    found[f"{scheme}: {violation['id']}"] = (violation["help"], nodes)
        self.page.emulate_media(color_scheme="light")
        self.page.set_viewport_size({"width": WIDTHS[0], "height": 900})
        assert not found, f"{name}: {found}"

    def calm(self) -> None:
        """Fail if the page complained about anything unexpected."""
        left = [f for f in self.faults if not any(part in f for part in self.expected)]
        assert not left, left


@pytest.fixture
def watched(chromium: object, shots: Path) -> Iterator[Watched]:
    """A fresh page; the test fails if it complains."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    found = Watched(context.new_page(), shots)
    found.page.set_default_timeout(30_000)
    yield found
    context.close()
    found.calm()

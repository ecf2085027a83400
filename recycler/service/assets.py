"""The files of the page: its own, and plotly's source from the installed package."""

import gzip
import hashlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from starlette.responses import Response
from starlette.staticfiles import StaticFiles

PAGE = Path(__file__).parent / "page"
STATIC, TEMPLATES = PAGE / "static", PAGE / "templates"
_SPEC = find_spec("plotly")
PLOTLY = Path((_SPEC.origin if _SPEC else None) or ".").parent / "package_data" / "plotly.min.js"


FOR_EVER = "public, max-age=31536000, immutable"


class Kept(StaticFiles):
    """Static files that browsers keep: their address changes with their content."""

    def file_response(self, *args: Any, **options: Any) -> Response:
        """The response with a file."""
        response = super().file_response(*args, **options)
        response.headers["Cache-Control"] = FOR_EVER
        return response


@cache
def version() -> str:
    """A digest of all files of the page; part of their addresses, so that browsers may keep them."""
    hashed = hashlib.sha256(PLOTLY.read_bytes())
    for file in sorted(PAGE.rglob("*")):
        if file.is_file():
            hashed.update(file.read_bytes())
    return hashed.hexdigest()[:12]


@cache
def plotly_compressed() -> bytes:
    """Plotly's source, compressed once."""
    return gzip.compress(PLOTLY.read_bytes(), 6, mtime=0)

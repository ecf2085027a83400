"""Where a request comes from: the Host that it names, and the web page that sent it."""

import ipaddress
from collections.abc import Iterable
from urllib.parse import urlsplit

from recycler.service.config import HERE, ServiceConfig

SAFE = ("GET", "HEAD", "OPTIONS")  # methods that change nothing
OWN_HEADER = "x-recycler"  # no page of another site can send it: a browser asks first


def host_of(netloc: str) -> str:
    """The name of a Host header or of a URL's authority, without port; empty if it is none."""
    try:
        return (urlsplit(f"//{netloc}").hostname or "") if netloc.strip() == netloc else ""
    except ValueError:
        return ""


def is_known_host(config: ServiceConfig, netloc: str) -> bool:
    """Whether a Host header names this service (DNS rebinding sends a name of the attacker's).

    A service that listens on all addresses is also known by any address, which is no name.
    """
    name = host_of(netloc)
    known = {*HERE, config.host.lower(), *map(str.lower, config.names)}
    if name in known:
        return True
    try:
        ipaddress.ip_address(name)
        return ipaddress.ip_address(config.host).is_unspecified
    except ValueError:
        return False


def is_foreign(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether a browser says that a page of another site sent the request."""
    given = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers}
    if given.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        return True
    return "origin" in given and not _is_own(given)


def is_ours(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether a request shows that it was not made by a form or link of another site."""
    given = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers}
    return bool(given.get(OWN_HEADER)) or ("origin" in given and _is_own(given))


def _is_own(given: dict[str, str]) -> bool:
    origin = urlsplit(given["origin"])
    return bool(origin.netloc) and origin.netloc.lower() == given.get("host", "").lower()

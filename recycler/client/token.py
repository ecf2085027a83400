"""Where a server is and which token opens it: its URL, and RECYCLER_TOKEN or a file of the user's."""

import os
import stat
from pathlib import Path
from urllib.parse import urlsplit

from recycler.errors import InvalidConfig

TOKEN, SERVER = "RECYCLER_TOKEN", "RECYCLER_SERVER"  # variables of the environment
EXAMPLE = "for example http://127.0.0.1:8321 or https://recycler.example.org."


def checked_url(url: str) -> str:
    """The URL of a service without a slash at its end.

    Raises:
        InvalidConfig: it is no http or https URL, or it holds a password, a query or a fragment.
    """
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number
        known = False
    if not known or any(letter.isspace() or not letter.isprintable() for letter in url):
        raise InvalidConfig(f"{url!r} is not the URL of a server.", hint=EXAMPLE)
    if parts.username is not None or parts.password is not None:
        raise InvalidConfig(
            f"the URL of the server at {parts.hostname} holds a user name or a password, which "
            "others can see in the list of processes.",
            hint=f"put a token of `recycler token create` into {TOKEN}.",
        )
    if parts.query or parts.fragment:
        raise InvalidConfig(
            f"{url!r} has a query or a fragment, expected the address alone.", hint=EXAMPLE
        )
    return url.rstrip("/")


def token_file() -> Path:
    """The file that holds the user's token."""
    home = os.environ.get("XDG_CONFIG_HOME") or Path("~/.config").expanduser()
    return Path(home) / "recycler" / "token"


def find_token() -> str:
    """The token to send: that of RECYCLER_TOKEN, else that of the file; empty if there is none.

    Raises:
        InvalidConfig: others may read the file, or the token holds spaces or control characters.
    """
    text, where = os.environ.get(TOKEN, "").strip(), TOKEN
    if not text:
        text, where = _read(token_file()), str(token_file())
    if not text.isascii() or not all(letter.isprintable() and letter != " " for letter in text):
        raise InvalidConfig(
            f"{where} does not hold one token.", hint="copy what `recycler token create` printed."
        )
    return text


def _read(file: Path) -> str:
    """The content of the file of the token; empty if there is none."""
    try:
        with file.open(encoding="utf-8") as opened:
            mode = os.fstat(opened.fileno()).st_mode
            if mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise InvalidConfig(
                    f"others may read the token in {file} (mode {stat.S_IMODE(mode):04o}).",
                    hint=f"chmod 600 {file}; if others could read it, make a new token.",
                )
            return opened.read().strip()
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidConfig(
            f"{file} can't be read: {getattr(error, 'strerror', None) or error}.",
            hint=f"write the token into it again, or put it into {TOKEN}.",
        ) from error

"""Who may use the service: tokens and sessions by their hashes, an audit log, replies by key."""

import hashlib
import re
import secrets
import time
import uuid
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from recycler.errors import Conflict, InvalidConfig, NotFound
from recycler.store import rows as t
from recycler.store.engine import Engine

PREFIX, SESSION = "rcy_", "rcs_"  # what the secrets of tokens and of sessions begin with
SCOPES = ("read", "write")
SESSION_SECONDS = 12 * 3600.0
REPLY_SECONDS = 24 * 3600.0  # how long a reply is kept for a repeated request
_SEEN = 60.0  # seconds between two notes of a token's last use
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@ -]{0,99}")
c = t.tokens.c


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A token as the ledger has it, without its secret.

    Attributes:
        id: its number.
        name: whose it is, or what for.
        scopes: `read`, `write`.
        created: when it was made (ISO 8601, UTC).
        expires: when it ends [s since 1970]; None: never.
        revoked: when it was revoked (ISO 8601, UTC); None: it was not.
        used: when it was used last, to the minute [s since 1970]; None: never.
        parent: the token that a session of the page was made with; empty for a token.
    """

    id: str
    name: str
    scopes: tuple[str, ...]
    created: str
    expires: float | None = None
    revoked: str | None = None
    used: float | None = None
    parent: str = ""

    def is_valid(self, moment: float) -> bool:
        """Whether it is neither revoked nor expired."""
        return self.revoked is None and (self.expires is None or moment < self.expires)

    def to_json(self) -> dict[str, Any]:
        """The token as JSON data, with times in ISO 8601."""
        times = {name: _iso(getattr(self, name)) for name in ("expires", "used")}
        state = "revoked" if self.revoked else "valid" if self.is_valid(time.time()) else "expired"
        return {**asdict(self), "scopes": list(self.scopes), **times, "state": state}


class Access:
    """Tokens, audit log and replies of a ledger."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    # --- tokens ---

    def create(
        self, name: str, scopes: Collection[str], seconds: float | None = None
    ) -> tuple[str, Token]:
        """Make a token.

        Args:
            name: whose it is, or what for.
            scopes: some of SCOPES.
            seconds: how long it is valid [s]; None: until it is revoked.

        Returns:
            Its secret, which is stored nowhere, and the token.

        Raises:
            InvalidConfig: the name, a scope or the time is none.
            Conflict: there is a valid token of that name.
        """
        if not _NAME.fullmatch(name):
            raise InvalidConfig(
                f"{name[:100]!r} is no name for a token.",
                hint="use up to 100 letters, digits, spaces and . _ - @.",
            )
        unknown = sorted(set(scopes) - set(SCOPES))
        if unknown or not scopes:
            raise InvalidConfig(
                f"{unknown[0] if unknown else 'nothing'!r} is no scope.",
                hint="give `read`, `write` or both.",
            )
        if seconds is not None and not 0 < seconds < 1e10:
            raise InvalidConfig(
                f"a token can't be valid for {seconds:g} s.", hint="give a time above 0."
            )
        ordered = tuple(scope for scope in SCOPES if scope in scopes)
        return self._make(PREFIX, name, ordered, seconds, "")

    def open_session(self, parent: Token, seconds: float = SESSION_SECONDS) -> tuple[str, Token]:
        """Make a session of the page from a valid token; it ends with the token at the latest."""
        return self._make(SESSION, parent.name, parent.scopes, seconds, parent.id)

    def _make(
        self, prefix: str, name: str, scopes: tuple[str, ...], seconds: float | None, parent: str
    ) -> tuple[str, Token]:
        secret = prefix + secrets.token_urlsafe(32)
        id = uuid.uuid4().hex[:12]

        def work(db: sa.Connection, again: bool) -> None:
            moment = self._engine.clock(db)
            if again and db.execute(sa.select(c.id).where(c.id == id)).first():
                return
            known = db.execute(t.tokens.select().where(c.name == name, c.parent == ""))
            same = [row for row in known.mappings() if _token(row).is_valid(moment)]
            if same and not parent:
                raise Conflict(
                    f"there is a token {name!r} already.",
                    hint=f"choose another name, or `recycler token revoke {name}` first.",
                )
            db.execute(t.tokens.delete().where(c.parent != "", c.expires < moment))
            db.execute(
                t.tokens.insert().values(
                    id=id,
                    name=name,
                    hash=_hash(secret),
                    scopes=" ".join(scopes),
                    created=t.now(),
                    expires=None if seconds is None else moment + seconds,
                    revoked=None,
                    used=None,
                    parent=parent,
                )
            )

        self._engine.write(work)
        return secret, self.token(id)

    def token(self, id: str) -> Token:
        """One token or session. Raises NotFound if there is none with that id."""
        with self._engine.reading() as db:
            row = db.execute(t.tokens.select().where(c.id == id)).mappings().first()
        if row is None:
            raise NotFound(f"there is no token {id!r}.", hint="`recycler token list` lists them.")
        return _token(row)

    def tokens(self) -> list[Token]:
        """All tokens, without sessions, oldest first."""
        query = t.tokens.select().where(c.parent == "").order_by(c.created)
        with self._engine.reading() as db:
            return [_token(row) for row in db.execute(query).mappings()]

    def any_valid(self) -> bool:
        """Whether anyone could use a service that needs tokens."""
        with self._engine.reading() as db:
            moment = self._engine.clock(db)
        return any(token.is_valid(moment) for token in self.tokens())

    def revoke(self, name: str) -> list[Token]:
        """Revoke the valid tokens of a name, or the one with an id, with all their sessions.

        Raises:
            NotFound: there is no valid one.
        """
        mine = sa.or_(c.name == name, c.id == name)

        def work(db: sa.Connection, again: bool) -> list[Token]:
            moment = self._engine.clock(db)
            query = t.tokens.select().where(c.parent == "", mine)
            found = [_token(row) for row in db.execute(query).mappings()]
            valid = [token for token in found if token.is_valid(moment)]
            ids = [token.id for token in valid]
            db.execute(t.tokens.update().where(c.id.in_(ids)).values(revoked=t.now()))
            db.execute(t.tokens.delete().where(c.parent.in_(ids)))
            return found if again else valid

        revoked = self._engine.write(work)
        if not revoked:
            known = ", ".join(token.name for token in self.tokens() if token.is_valid(time.time()))
            raise NotFound(
                f"there is no valid token {name!r}.", hint=f"valid ones: {known or 'none'}."
            )
        return [self.token(token.id) for token in revoked]

    def close_session(self, secret: str) -> None:
        """End a session, if it is one."""
        mine = t.tokens.delete().where(c.hash == _hash(secret), c.parent != "")
        self._engine.write(lambda db, again: db.execute(mine) and None)

    def check(self, secret: str) -> Token | None:
        """The valid token or session of a secret; None if there is none.

        A session is valid only while its token is. The time of the last use is noted to the minute.
        """
        with self._engine.reading() as db:
            moment = self._engine.clock(db)
            query = t.tokens.select().where(c.hash == _hash(secret))
            row = db.execute(query).mappings().first()
            found = _token(row) if row else None
            if found is None or not found.is_valid(moment):
                return None
            if found.parent:
                query = t.tokens.select().where(c.id == found.parent)
                parent = db.execute(query).mappings().first()
                if parent is None or not _token(parent).is_valid(moment):
                    return None
        if found.used is None or moment - found.used > _SEEN:
            ids = [found.id, found.parent]
            seen = t.tokens.update().where(c.id.in_(ids)).values(used=moment)
            self._engine.write(lambda db, again: db.execute(seen) and None)
        return found

    # --- audit ---

    def note(self, who: str, address: str, action: str, status: int) -> None:
        """Write who did what through the service, and with which HTTP status it ended."""
        row = {"at": t.now(), "who": who[:200], "address": address[:64], "status": status}
        added = t.audit.insert().values(**row, action=action[:300])
        self._engine.write(lambda db, again: db.execute(added) and None)

    def noted(
        self, who: str | None = None, limit: int = 100, before: int | None = None
    ) -> list[dict[str, Any]]:
        """The audit log, the newest first; only of one user's if `who` is given."""
        query = t.audit.select().order_by(t.audit.c.id.desc()).limit(limit)
        query = query if who is None else query.where(t.audit.c.who == who)
        query = query if before is None else query.where(t.audit.c.id < before)
        with self._engine.reading() as db:
            return [dict(row) for row in db.execute(query).mappings()]

    # --- replies ---

    def begin_reply(self, owner: str, key: str, request: str) -> Mapping[str, Any] | None:
        """Claim a key for a request.

        Args:
            owner: whose key it is.
            key: the key.
            request: hash of the request.

        Returns:
            None if the request is to be done now; else what is known of it: `request` (the hash of
            the first one), `status` (0: it is not answered yet), `reply`, `created` [s since 1970].
        """
        r = t.replies.c
        mine = sa.and_(r.owner == owner, r.key == key)

        def work(db: sa.Connection, again: bool) -> Mapping[str, Any] | None:
            moment = self._engine.clock(db)
            db.execute(t.replies.delete().where(r.created < moment - REPLY_SECONDS))
            row = db.execute(t.replies.select().where(mine)).mappings().first()
            if row is not None:
                return dict(row)
            claim = {"owner": owner, "key": key, "request": request, "created": moment}
            db.execute(t.replies.insert().values(**claim, status=0, reply=""))
            return None

        try:
            return self._engine.write(work)
        except sa.exc.IntegrityError:  # another process was quicker
            return self._engine.write(work)

    def end_reply(self, owner: str, key: str, status: int = 0, reply: str = "") -> None:
        """Keep the reply to a request; status 0: forget the request, so that it can be repeated."""
        mine = (t.replies.c.owner == owner, t.replies.c.key == key)
        done = t.replies.update().where(*mine).values(status=status, reply=reply)
        forgotten = t.replies.delete().where(*mine)
        self._engine.write(lambda db, again: db.execute(done if status else forgotten) and None)


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()


def _token(row: Mapping[Any, Any]) -> Token:
    plain = {name: row[name] for name in ("id", "name", "created", "expires", "revoked", "used")}
    return Token(**plain, scopes=tuple(row["scopes"].split()), parent=row["parent"])


def _iso(moment: float | None) -> str | None:
    return (
        None if moment is None else datetime.fromtimestamp(moment, UTC).isoformat("T", "seconds")
    )

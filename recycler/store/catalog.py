"""The registry of a ledger: pools by name, and fingerprints of files hashed earlier."""

import json
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from recycler.errors import Conflict, NotFound
from recycler.nouns.recipe import canonical
from recycler.store import rows as t
from recycler.store.engine import Engine
from recycler.store.scores import INSERT


class Catalog:
    """Pools and fingerprints. Several processes may write at the same time."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def add_pool(self, name: str, spec: Mapping[str, Any], replace: bool = False) -> None:
        """Register a pool. Raises Conflict if the name belongs to a pool with another spec."""
        self._engine.write(lambda db, again: self.put_pool(db, name, spec, replace))

    def put_pool(
        self, db: sa.Connection, name: str, spec: Mapping[str, Any], replace: bool = False
    ) -> None:
        """Register a pool inside the caller's transaction."""
        row = {"name": name, "spec": canonical(spec), "created": t.now()}
        insert = INSERT[self._engine.dialect](t.pools).values(row)
        newer = {"spec": row["spec"], "created": row["created"]}
        if replace:
            db.execute(insert.on_conflict_do_update(index_elements=["name"], set_=newer))
            return
        db.execute(insert.on_conflict_do_nothing(index_elements=["name"]))
        known = db.execute(sa.select(t.pools.c.spec).where(t.pools.c.name == name)).scalar()
        if known != row["spec"]:
            raise Conflict(
                f"there is already a pool {name!r} with other checkpoints.",
                hint="choose another name, or replace it with --replace.",
            )

    def pool(self, name: str) -> dict[str, Any]:
        """The spec of a pool. Raises NotFound, which lists the known pools."""
        with self._engine.reading() as db:
            spec = db.execute(sa.select(t.pools.c.spec).where(t.pools.c.name == name)).scalar()
            known = [row.name for row in db.execute(sa.select(t.pools.c.name))]
        if spec is None:
            raise NotFound(
                f"there is no pool {name!r}.",
                hint=f"known: {', '.join(known) or 'none'}; add one with `recycler pool add`.",
            )
        found: dict[str, Any] = json.loads(spec)
        return found

    def remove_pool(self, name: str) -> None:
        """Remove a pool from the registry. Its folders and all scores stay."""
        self._engine.write(
            lambda db, again: db.execute(t.pools.delete().where(t.pools.c.name == name)) and None
        )

    def pools(self) -> list[str]:
        """Names of the registered pools."""
        with self._engine.reading() as db:
            return [row.name for row in db.execute(sa.select(t.pools.c.name).order_by("name"))]

    def fingerprint(self, stamp: str) -> str | None:
        """The fingerprint stored for files with this stamp; None if there is none."""
        query = sa.select(t.fingerprints.c.fingerprint).where(t.fingerprints.c.stamp == stamp)
        with self._engine.reading() as db:
            return db.execute(query).scalar()

    def remember_fingerprint(self, stamp: str, fingerprint: str) -> None:
        """Store a fingerprint. The last of several concurrent writers wins."""
        row = {"stamp": stamp, "fingerprint": fingerprint}
        insert = INSERT[self._engine.dialect](t.fingerprints).values(row)
        upsert = insert.on_conflict_do_update(
            index_elements=["stamp"], set_={"fingerprint": fingerprint}
        )
        self._engine.write(lambda db, again: db.execute(upsert) and None)

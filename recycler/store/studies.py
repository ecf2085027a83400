"""Rows of studies: one is found, told or made, inside a transaction of the caller's."""

import json
from collections.abc import Collection, Mapping
from typing import Any
from zlib import crc32

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from recycler.errors import Conflict, NotFound
from recycler.nouns.plan import Plan
from recycler.nouns.recipe import Recipe, canonical
from recycler.nouns.status import Status, Wanted
from recycler.nouns.trial import Kind, Proposal, State
from recycler.store import lease
from recycler.store import rows as t
from recycler.store.scores import INSERT


def row_of(db: sa.Connection, study: str) -> Mapping[Any, Any]:
    """The row of a study; NotFound names the known ones."""
    row = db.execute(named(t.studies.select(), study)).mappings().first()
    if row is None:
        known = [r.name for r in db.execute(sa.select(t.studies.c.name))]
        raise NotFound(
            f"there is no study {study!r}.",
            hint=f"known: {', '.join(known) or 'none'}; `recycler studies` lists them.",
        )
    return row


def status_of(db: sa.Connection, row: Mapping[Any, Any], moment: float) -> dict[str, Any]:
    """What `SqlStore.status` tells, from a row and the time by the clock of the ledger [s]."""
    by_state = sa.select(t.trials.c.state, sa.func.count())
    by_state = by_state.where(t.trials.c.study == row["name"]).group_by(t.trials.c.state)
    counts = {found[0]: found[1] for found in db.execute(by_state)}
    alive = lease.is_alive(row, moment)
    status, message = row["status"], row["message"]
    if status == Status.RUNNING and not alive:
        status = Status.STOPPED
        message = f"{lease.holder_of(row)} ran it and is gone" if row["token"] else ""
    return {
        "name": row["name"],
        "status": str(status),
        "message": message,
        "created": row["created"],
        "reference": json.loads(row["reference"]) if row["reference"] else None,
        "steps": json.loads(row["scales"]) if row["scales"] else None,
        "progress": json.loads(row["progress"]) if row["progress"] else None,
        "event": row["events"],
        "alive": alive,
        "holder": str(lease.holder_of(row)) if row["token"] else "",
        "heartbeat": row["heartbeat"],
        "wanted": row["wanted"],
        **{str(state): counts.get(state, 0) for state in State},
    }


Version = tuple[str, int, str, str, int, int]


def version_of(db: sa.Connection, study: str, moment: float) -> Version:
    """What differs whenever a study, or what is reported about it, does; counts no trials.

    Returns:
        When it was created, its event, status and message, the number of complete studies (others
        may have looked at the same test items), and a checksum of its plan.
    """
    return _version(row_of(db, study), _complete(db), moment)


def versions_of(db: sa.Connection, moment: float) -> dict[str, Version]:
    """Study -> its version (see `version_of`), oldest first; two queries, however many there are."""
    complete, order = _complete(db), (t.studies.c.created, t.studies.c.name)
    rows = db.execute(t.studies.select().order_by(*order)).mappings()
    return {row["name"]: _version(row, complete, moment) for row in rows}


def _version(row: Mapping[Any, Any], complete: int, moment: float) -> Version:
    told = str(row["status"])
    if told == Status.RUNNING and not lease.is_alive(row, moment):
        told = str(Status.STOPPED)
    plan = crc32(row["plan"].encode())
    return row["created"], row["events"], told, row["message"], complete, plan


def _complete(db: sa.Connection) -> int:
    """The number of complete studies."""
    query = sa.select(sa.func.count()).select_from(t.studies)
    return int(db.execute(query.where(t.studies.c.status == Status.COMPLETE)).scalar_one())


def marks_of(
    db: sa.Connection, moment: float, names: Collection[str]
) -> dict[str, tuple[str, int, str, str, bool, str]]:
    """Study -> created, event, status, message, whether a process runs it, what its run told.

    One query, whatever the number of studies; it counts no trials.

    Args:
        db: an open transaction.
        moment: the time by the clock of the ledger [s].
        names: the studies; empty: all of them.
    """
    c = t.studies.c
    told = (c.created, c.events, c.status, c.message, c.progress)
    query = sa.select(c.name, *told, c.token, c.holder, c.heartbeat)
    query = query.where(c.name.in_([*names])) if names else query
    found = {}
    for row in db.execute(query).mappings():
        alive, status = lease.is_alive(row, moment), str(row["status"])
        if status == Status.RUNNING and not alive:
            status = str(Status.STOPPED)
        about = row["created"], row["events"], status, row["message"], alive
        found[row["name"]] = (*about, row["progress"] or "")
    return found


def create(db: sa.Connection, plan: Plan, again: bool, where: str) -> None:
    """Write a new study; Conflict if the name is taken, unless this is tried `again`."""
    taken = db.execute(named(sa.select(t.studies.c.name), plan.name)).scalar()
    if taken and again:
        return
    row = {
        "name": plan.name,
        "plan": canonical(plan.to_json()),
        "status": Status.NEW,
        "message": "",
        "reference": None,
        "scales": None,
        "progress": None,
        "events": 0,
        "created": t.now(),
        "token": "",
        "holder": "{}",
        "heartbeat": 0.0,
        "wanted": Wanted.RUN,
    }
    try:
        db.execute(t.studies.insert(), row)
    except IntegrityError as error:
        raise Conflict(
            f"there is already a study {plan.name!r} in the ledger {where}.",
            hint="resume it or choose another name.",
        ) from error


def ask_for(db: sa.Connection, study: str, recipe: Recipe) -> Proposal:
    """Write a merge that a user asks for, once."""
    row_of(db, study)  # raises NotFound
    c = t.tries.c
    count = sa.select(sa.func.count()).where(c.study == study)
    row = {
        "study": study,
        "recipe_id": recipe.id,
        "name": f"try {db.execute(count).scalar_one() + 1}",
        "recipe": canonical(recipe.to_json()),
        "created": t.now(),
    }
    db.execute(INSERT[db.dialect.name](t.tries).on_conflict_do_nothing(), row)
    name = sa.select(c.name).where(c.study == study, c.recipe_id == recipe.id)
    return Proposal(kind=Kind.TRY, name=db.execute(name).scalar_one(), recipe=recipe)


def asked_for(db: sa.Connection, study: str) -> list[Proposal]:
    """The merges that users asked for and the study has no trial of, oldest first."""
    asked, made = t.tries.c, t.trials.c
    same = sa.and_(asked.study == made.study, asked.recipe_id == made.recipe_id)
    query = sa.select(asked.name, asked.recipe).select_from(t.tries.outerjoin(t.trials, same))
    query = query.where(asked.study == study, made.number.is_(None)).order_by(asked.created)
    return [
        Proposal(kind=Kind.TRY, name=row.name, recipe=Recipe.from_json(json.loads(row.recipe)))
        for row in db.execute(query)
    ]


def named(query: Any, study: str) -> Any:
    """A query on the row of one study."""
    return query.where(t.studies.c.name == study)

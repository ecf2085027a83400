"""Scores and evaluations: an evaluation is stored once, and all trials that need it point to it.

The key of an evaluation is recipe (which bytes), measure (what they are scored on) and split. It
never changes. A score either points to an evaluation or holds numbers of its study alone.
"""

from collections.abc import Collection, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from recycler.errors import Mismatch, NotFound
from recycler.nouns.answers import Answers
from recycler.nouns.evaluation import Evaluation
from recycler.nouns.recipe import canonical
from recycler.nouns.trial import Trial
from recycler.store import rows as t

INSERT: Mapping[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
_HERE, _SHARED = t.scores.c, t.evaluations.c
OUTCOMES = sa.func.coalesce(_HERE.outcomes, _SHARED.outcomes).label("outcomes")
NUMBERS = (
    _HERE.number,
    _HERE.split,
    _HERE.objective,
    _HERE.seconds,
    *(
        sa.func.coalesce(_HERE[name], _SHARED[name]).label(name)
        for name in ("mean", "stderr", "item_count")
    ),
)


def select(*columns: Any) -> sa.Select[Any]:
    """Columns of scores, with pointers to shared evaluations resolved."""
    joined = t.scores.outerjoin(
        t.evaluations,
        sa.and_(
            _HERE.recipe_id == _SHARED.recipe_id,
            _HERE.measure == _SHARED.measure,
            _HERE.split == _SHARED.split,
        ),
    )
    return sa.select(*columns).select_from(joined)


def rows_of(
    study: str,
    trial: Trial,
    evaluation: Evaluation | None,
    split: str,
    measures: Mapping[str, str],
    known: Collection[str],
) -> list[dict[str, Any]]:
    """One row of `scores` for each objective: a pointer if it has a measure, else the numbers."""
    place = {"study": study, "number": trial.number, "split": split, "recipe_id": trial.recipe.id}
    nothing = {"mean": None, "stderr": None, "item_count": None, "outcomes": None}
    rows = [
        {**place, "objective": name, "measure": measures[name], **nothing, "seconds": "{}"}
        for name in known
    ]
    for name in evaluation.scores if evaluation else ():
        own = nothing if name in measures else t.numbers_of(evaluation, name)  # type: ignore[arg-type]
        spent = canonical(evaluation.seconds)  # type: ignore[union-attr]
        measure = measures.get(name)
        rows.append({**place, "objective": name, "measure": measure, **own, "seconds": spent})
    return rows


def one_digest(trial: Trial, digests: set[str]) -> str:
    """The digest that all scores of a trial share; empty if no bytes were merged.

    Raises:
        Mismatch: the scores belong to different bytes.
    """
    several = {trial.digest, *digests} - {""}
    if len(several) > 1:
        new = sorted(digests - {trial.digest}) or sorted(several)
        raise Mismatch(
            f"trial {trial.number} merged to {new[-1]}, earlier to {trial.digest or new[0]}.",
            hint="a checkpoint changed since; register the pool again.",
        )
    return next(iter(several), "")


def evaluated(
    db: sa.Connection, recipe_id: str, split: str, measures: Mapping[str, str]
) -> dict[str, str]:
    """Measure -> digest of the merged bytes, for the known evaluations of one merge on a split."""
    query = sa.select(_SHARED.measure, _SHARED.digest).where(
        _SHARED.recipe_id == recipe_id,
        _SHARED.split == split,
        _SHARED.measure.in_(list(measures.values())),
    )
    return {row.measure: row.digest for row in db.execute(query)} if measures else {}


def keep(
    db: sa.Connection, trial: Trial, evaluation: Evaluation, measures: Mapping[str, str]
) -> None:
    """Write shared evaluations; if two studies write the same one at once, the first wins."""
    rows = [
        {
            "recipe_id": trial.recipe.id,
            "measure": measures[name],
            "split": evaluation.split,
            "digest": evaluation.digest,
            "created": t.now(),
            **t.numbers_of(evaluation, name),
        }
        for name in evaluation.scores
        if name in measures
    ]
    if rows:
        insert = INSERT[db.dialect.name](t.evaluations)
        db.execute(insert.on_conflict_do_nothing(), rows)
        keep_answers(db, trial.recipe.id, evaluation, measures)


def keep_answers(
    db: sa.Connection, recipe_id: str, evaluation: Evaluation, measures: Mapping[str, str]
) -> None:
    """Write the answers that came with the outcomes; prompts and targets once for all merges."""
    insert = INSERT[db.dialect.name]
    for name, outcomes in evaluation.outcomes.items():
        if outcomes.answers is None or name not in measures:
            continue
        place = {"measure": measures[name], "split": evaluation.split}
        given = {
            **place,
            "recipe_id": recipe_id,
            "answers": outcomes.answers.pack_given(),
            "created": t.now(),
        }
        db.execute(insert(t.answers).on_conflict_do_nothing(), given)
        c = t.prompts.c
        known = sa.select(c.split).where(c.measure == measures[name], c.split == evaluation.split)
        if db.execute(known).first() is None:
            asked = {**place, "prompts": outcomes.answers.pack_asked()}
            db.execute(insert(t.prompts).on_conflict_do_nothing(), asked)


def answers(db: sa.Connection, recipe_id: str, measure: str, split: str) -> Answers | None:
    """The kept answers of a merge to the items of a measure; None if there are none."""
    a, p = t.answers.c, t.prompts.c
    both = sa.and_(a.measure == p.measure, a.split == p.split)
    query = sa.select(p.prompts, a.answers).select_from(t.answers.join(t.prompts, both))
    wanted = (a.recipe_id == recipe_id, a.measure == measure, a.split == split)
    row = db.execute(query.where(*wanted)).first()
    return Answers.unpack(row.prompts, row.answers) if row else None


def looked_at(db: sa.Connection, split: str, measures: Collection[str]) -> int:
    """How many studies have scored at least one merge on these measures' items of a split."""
    query = sa.select(sa.func.count(_HERE.study.distinct()))
    asked = query.where(_HERE.split == split, _HERE.measure.in_(list(measures)))
    return int(db.execute(asked).scalar_one())


def trials_of(db: sa.Connection, study: str, since: int = -1) -> list[Trial]:
    """Trials of a study by number that changed after an event."""
    c, s = t.trials.c, t.scores.c
    query = t.trials.select().where(c.study == study).order_by(c.number)
    found = select(*NUMBERS).where(s.study == study)
    if since >= 0:
        query = query.where(c.changed > since)
        newer = sa.select(c.number).where(c.study == study, c.changed > since)
        found = found.where(s.number.in_(newer))
    by_trial: dict[int, list[Any]] = {}
    for row in db.execute(found.order_by(s.number)):
        by_trial.setdefault(row.number, []).append(row)
    rows = db.execute(query).mappings()
    return [t.read_trial(row, by_trial.pop(row["number"], [])) for row in rows]


def trial_of(db: sa.Connection, study: str, number: int) -> Trial:
    """One trial; NotFound says which there are."""
    row = db.execute(one(t.trials.select(), study, number)).mappings().first()
    if row is None:
        count = sa.select(sa.func.count()).where(t.trials.c.study == study)
        raise NotFound(
            f"study {study!r} has no trial {number}.",
            hint=f"it has {db.execute(count).scalar_one()} trials, from 0 on.",
        )
    s = t.scores.c
    found = select(*NUMBERS).where(s.study == study, s.number == number)
    return t.read_trial(row, db.execute(found).all())


def one(query: Any, study: str, number: int) -> Any:
    """A query on the row of one trial."""
    return query.where(t.trials.c.study == study, t.trials.c.number == number)

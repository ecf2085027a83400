"""The ledger on SQLite (default) or PostgreSQL; each event is committed when it happens.

Every public method is one transaction. The scores of a trial are written together with its end, so
after a kill a trial is either running (it is evaluated again) or scored (it is not). A study is
written either by the holder of its lease or while nobody holds it: the token is in the WHERE
clause of each write.
"""

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa

from recycler.errors import Conflict
from recycler.nouns.answers import Answers
from recycler.nouns.evaluation import Evaluation, Failure, Outcomes, Split
from recycler.nouns.plan import Plan
from recycler.nouns.reading import Reading
from recycler.nouns.recipe import Recipe, canonical
from recycler.nouns.status import Status, Wanted
from recycler.nouns.trial import Proposal, State, Trial
from recycler.nouns.wire import Packed, unpack
from recycler.store import lease, scores, studies
from recycler.store import rows as t
from recycler.store.access import Access
from recycler.store.catalog import Catalog
from recycler.store.engine import Engine
from recycler.store.lease import Lease
from recycler.store.operations import Operations
from recycler.store.studies import Version

# (plan in the ledger or None, whether any trial is scored, whether a run is alive) -> the plan to
# write, and whether the study starts anew
Decide = Callable[[Plan | None, Sequence[Trial], bool], tuple[Plan, bool]]


class SqlStore:
    """The ledger at a database URL such as `sqlite:///ledger.db`; `sqlite://` is in memory."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.engine = Engine(url)
        self.where = str(self.engine)  # the ledger's name in messages, without a password
        self.catalog = Catalog(self.engine)
        self.operations = Operations(self.engine)
        self.access = Access(self.engine)
        self._leases: dict[str, Lease] = {}

    # --- studies ---

    def create_study(self, plan: Plan) -> None:
        """Write a new study. Raises Conflict if the name is taken."""
        self.engine.write(lambda db, again: studies.create(db, plan, again, self.where))

    def submit(self, name: str, decide: Decide, pool: str, spec: Mapping[str, Any]) -> Plan:
        """Create, extend or replace a study, and register its pool, in one transaction.

        Args:
            name: name of the study.
            decide: given what the ledger holds; returns the plan to write, or raises.
            pool: name of the study's pool.
            spec: its checkpoints.
        """

        def work(db: sa.Connection, again: bool) -> Plan:
            row = db.execute(studies.named(t.studies.select(), name)).mappings().first()
            old = Plan.from_json(json.loads(row["plan"])) if row else None
            alive = lease.is_alive(row, self.engine.clock(db)) if row else False
            plan, anew = decide(old, scores.trials_of(db, name) if row else [], alive)
            if anew and row:
                self._free_if_dead(db, row)
                self._delete(db, name)
            if anew or not row:
                studies.create(db, plan, again, self.where)
            elif plan != old:
                written = studies.named(t.studies.update(), name).values(
                    plan=canonical(plan.to_json())
                )
                db.execute(written)
            self.catalog.put_pool(db, pool, spec, replace=True)
            return plan

        return self.engine.write(work)

    def plan(self, study: str) -> Plan:
        """The plan of a study. Raises NotFound, which lists the known studies."""
        with self.engine.reading() as db:
            return Plan.from_json(json.loads(studies.row_of(db, study)["plan"]))

    def extend(
        self,
        study: str,
        evaluations: int,
        stop_gain: float | None = None,
        stop_after: int | None = None,
    ) -> None:
        """Set a study's budget and stop rule; no other part of a plan may change."""
        rule = {"stop_gain": stop_gain, "stop_after": stop_after}

        def work(db: sa.Connection, again: bool) -> None:
            data = {**json.loads(studies.row_of(db, study)["plan"]), "evaluations": evaluations}
            data |= {key: value for key, value in rule.items() if value is not None}
            db.execute(studies.named(t.studies.update(), study).values(plan=canonical(data)))

        self.engine.write(work)

    def studies(self) -> list[dict[str, Any]]:
        """The status of every study, oldest first."""
        with self.engine.reading() as db:
            rows = db.execute(t.studies.select().order_by(t.studies.c.created)).mappings().all()
            return [studies.status_of(db, row, self.engine.clock(db)) for row in rows]

    def status(self, study: str) -> dict[str, Any]:
        """The status of a study without its trials.

        Returns:
            `{"name", "status", "message", "created", "reference": gains or None, "steps": of
            averages (see `front.scale`) or None, "progress": what
            the last run told of itself or None (see `pace.Pace`), "event", "alive": whether a
            process runs it, "holder", "heartbeat" [s since 1970], "wanted"}` and the
            number of trials in each state. A study whose process died is `stopped`, whatever its
            row says.
        """
        with self.engine.reading() as db:
            return studies.status_of(db, studies.row_of(db, study), self.engine.clock(db))

    def version(self, study: str) -> Version:
        """What differs whenever the study does (see `studies.version_of`)."""
        with self.engine.reading() as db:
            return studies.version_of(db, study, self.engine.clock(db))

    def versions(self) -> dict[str, Version]:
        """The version of every study, oldest first (see `studies.versions_of`)."""
        with self.engine.reading() as db:
            return studies.versions_of(db, self.engine.clock(db))

    def marks(
        self, names: Collection[str] = ()
    ) -> dict[str, tuple[str, int, str, str, bool, str]]:
        """What tells whether studies changed, in one query (see `studies.marks_of`)."""
        with self.engine.reading() as db:
            return studies.marks_of(db, self.engine.clock(db), names)

    def set_status(self, study: str, status: str, message: str = "") -> None:
        """Write a study's status and the reason for it."""

        def work(db: sa.Connection, again: bool) -> None:
            self._claim(db, study, status=Status(status), message=message)

        self.engine.write(work)

    def set_reference(
        self, study: str, reference: Sequence[float], steps: Sequence[float] = ()
    ) -> None:
        """Set the reference corner and the scale. Later calls are ignored: no figure ever jumps.

        Args:
            study: the study.
            reference: (m,) worst corner, as gains.
            steps: (m,) one step of each objective in its unit (see `front.scale`).
        """
        text = json.dumps([float(x) for x in reference])
        kept = json.dumps([float(x) for x in steps]) if len(steps) else None

        def work(db: sa.Connection, again: bool) -> None:
            if studies.row_of(db, study)["reference"] is None:
                self._claim(db, study, reference=text, scales=kept)

        self.engine.write(work)

    def delete_study(self, study: str) -> None:
        """Delete a study and its trials. Evaluations stay, because other studies may use them.

        Raises:
            Conflict: a living process runs it.
        """

        def work(db: sa.Connection, again: bool) -> None:
            if (
                again
                and not db.execute(studies.named(sa.select(t.studies.c.name), study)).scalar()
            ):
                return
            self._free_if_dead(db, studies.row_of(db, study))
            self._delete(db, study)

        self.engine.write(work)

    # --- trials ---

    def start(self, study: str, proposal: Proposal) -> Trial:
        """Number a proposal and write it as running; Conflict if the study has its recipe already."""

        def work(db: sa.Connection, again: bool) -> Trial:
            event = self._next_event(db, study)
            known = sa.select(t.trials.c.number).where(
                t.trials.c.study == study, t.trials.c.recipe_id == proposal.recipe.id
            )
            number = db.execute(known).scalar()
            if number is not None and again:
                return scores.trial_of(db, study, number)
            if number is not None:
                raise Conflict(
                    f"study {study!r} already has the merge {proposal.recipe.id}, as trial {number}.",
                    hint="this is a fault of the sampler: it proposed the same weights twice.",
                )
            count = sa.select(sa.func.count()).where(t.trials.c.study == study)
            trial = Trial(
                number=db.execute(count).scalar_one(),
                kind=proposal.kind,
                name=proposal.name,
                recipe=proposal.recipe,
                started=event,
                notes=proposal.notes,
            )
            db.execute(t.trials.insert(), t.trial_row(study, trial))
            return trial

        return self.engine.write(work)

    def ask_for(self, study: str, recipe: Recipe) -> Proposal:
        """Ask whoever runs the study, now or later, to score a merge.

        Returns:
            The proposal that becomes a trial. The same recipe again is the same proposal.
        """
        return self.engine.write(lambda db, again: studies.ask_for(db, study, recipe))

    def asked_for(self, study: str) -> list[Proposal]:
        """The merges asked for that the study has no trial of yet, oldest first."""
        with self.engine.reading() as db:
            return studies.asked_for(db, study)

    def retry(self, study: str, number: int) -> None:
        """Count another attempt of a trial that was running when its process died."""

        def work(db: sa.Connection, again: bool) -> None:
            self._claim(db, study)
            more = scores.one(t.trials.update(), study, number)
            db.execute(more.values(attempts=t.trials.c.attempts + 1))

        self.engine.write(work)

    def known(self, recipe_id: str, split: str, measures: Mapping[str, str]) -> frozenset[str]:
        """Objectives on which any study has already scored a merge.

        Args:
            recipe_id: the merge.
            split: which items.
            measures: objective -> id of its measure, for the objectives in question.
        """
        with self.engine.reading() as db:
            found = scores.evaluated(db, recipe_id, split, measures)
        return frozenset(name for name, measure in measures.items() if measure in found)

    def adopt(self, study: str, number: int, split: str, measures: Mapping[str, str]) -> Trial:
        """Give a trial scores that the ledger has for its merge; dev scores end the trial.

        Args:
            study: the study.
            number: number of the trial.
            split: which items.
            measures: objective -> id of its measure; the ledger must have all of them.
        """
        return self._write_scores(study, number, None, split, State.COMPLETE, measures, measures)

    def record(
        self,
        study: str,
        number: int,
        evaluation: Evaluation,
        state: State = State.COMPLETE,
        measures: Mapping[str, str] | None = None,
        known: Collection[str] = (),
    ) -> Trial:
        """Write the scores of one split; dev scores also end the trial.

        With `state: running` they are scores of the first items and the trial goes on; scores of
        more items replace them. With `state: pruned` they are final.

        Args:
            study: the study.
            number: number of the trial.
            evaluation: its scores.
            state: state of the trial afterwards.
            measures: objective -> id of its measure. Complete scores of an objective with a
                measure are shared with all studies.
            known: objectives not in `evaluation` whose scores are already in the ledger.

        Raises:
            Mismatch: the merged bytes differ from those scored earlier under this trial.
            Conflict: these items are already scored, or another process runs the study.
        """
        return self._write_scores(
            study, number, evaluation, evaluation.split, state, measures or {}, known
        )

    def keep_answers(
        self, recipe_id: str, evaluation: Evaluation, measures: Mapping[str, str]
    ) -> None:
        """Keep the answers of an evaluation whose scores the ledger has already.

        Args:
            recipe_id: the merge.
            evaluation: its outcomes, with answers.
            measures: objective -> id of its measure.
        """
        self.engine.write(
            lambda db, again: scores.keep_answers(db, recipe_id, evaluation, measures)
        )

    def fail(self, study: str, number: int, failure: Failure) -> Trial:
        """End a trial without scores."""

        def work(db: sa.Connection, again: bool) -> Trial:
            self._end(db, study, number, State.FAILED, again, failure=canonical(asdict(failure)))
            return scores.trial_of(db, study, number)

        return self.engine.write(work)

    def trials(self, study: str, since: int = -1) -> list[Trial]:
        """All trials by number, with scores and without item outcomes.

        Args:
            study: the study.
            since: an event of the study; only trials that changed after it are returned.
        """
        with self.engine.reading() as db:
            studies.row_of(db, study)
            return scores.trials_of(db, study, since)

    def outcomes(self, study: str, number: int, split: str) -> dict[str, Outcomes]:
        """Objective -> item outcomes of a trial on a split; objectives without items are left out."""
        s = t.scores.c
        wanted = (s.study == study, s.number == number, s.split == split)
        with self.engine.reading() as db:
            found = db.execute(scores.select(s.objective, scores.OUTCOMES).where(*wanted))
            return {row.objective: unpack(row.outcomes) for row in found if row.outcomes}

    def packed(self, study: str) -> Packed:
        """A study with its trials and packed item outcomes, all read at the same moment."""
        s = t.scores.c
        with self.engine.reading() as db:
            row = studies.row_of(db, study)
            plan = Plan.from_json(json.loads(row["plan"]))
            status = studies.status_of(db, row, self.engine.clock(db))
            trials = tuple(scores.trials_of(db, study))
            query = scores.select(s.number, s.split, s.objective, scores.OUTCOMES)
            found = db.execute(query.where(s.study == study)).all()
            looked_at = scores.looked_at(db, Split.TEST, plan.measure_ids.values())
        blobs: dict[tuple[int, str], dict[str, bytes]] = {}
        for number, split, objective, blob in found:
            if blob is not None:
                blobs.setdefault((number, split), {})[objective] = blob
        return Packed(
            event=row["events"],
            status=status,
            plan=plan,
            trials=trials,
            blobs=blobs,
            looked_at=looked_at,
        )

    def read(self, study: str) -> Reading:
        """A study with its trials and item outcomes, all read at the same moment."""
        packed = self.packed(study)

        def answers(number: int, split: str, objective: str) -> Answers | None:
            measure = packed.plan.measure_ids.get(objective, "")
            with self.engine.reading() as db:
                return scores.answers(db, packed.trials[number].recipe.id, measure, split)

        return packed.opened(answers)

    def looked_at(self, split: str, measures: Collection[str]) -> int:
        """How many studies have scored at least one merge on the items of these measures.

        Args:
            split: which items.
            measures: ids of the measures.
        """
        with self.engine.reading() as db:
            return scores.looked_at(db, split, measures)

    # --- one running process a study ---

    @contextmanager
    def hold(self, study: str) -> Iterator[Lease]:
        """Be the only process that runs this study for the duration of the block.

        Raises:
            Conflict: a living process holds it.
        """
        with lease.hold(self.engine, study) as mine:
            self._leases[study] = mine
            try:
                yield mine
            finally:
                del self._leases[study]

    def want(self, study: str, wanted: Wanted) -> bool:
        """Ask the process that runs a study to pause or stop; false if no living process runs it."""
        return lease.want(self.engine, study, wanted)

    def close(self) -> None:
        """Close all connections."""
        self.engine.close()

    # --- inside ---

    def _free_if_dead(self, db: sa.Connection, row: Mapping[Any, Any]) -> None:
        """Remove the token that a killed process left behind."""
        if row["name"] not in self._leases and not lease.is_alive(row, self.engine.clock(db)):
            db.execute(studies.named(t.studies.update(), row["name"]).values(token=""))

    def _delete(self, db: sa.Connection, study: str) -> None:
        self._claim(db, study)
        for table in (t.scores, t.trials, t.tries):
            db.execute(table.delete().where(table.c.study == study))
        db.execute(t.studies.delete().where(t.studies.c.name == study))

    def _claim(self, db: sa.Connection, study: str, **values: Any) -> int:
        """Write to a study's row under its lease, or while nobody holds it. Returns the last event.

        Raises:
            Conflict: another process holds the lease.
        """
        held = self._leases.get(study)
        update = studies.named(t.studies.update(), study)
        update = update.where(t.studies.c.token == (held.token if held else ""))
        changed = update.values(**(values or {"events": t.studies.c.events}))
        event = db.execute(changed.returning(t.studies.c.events)).scalar()
        if event is None:
            row = studies.row_of(db, study)  # raises NotFound if the study was deleted
            raise lease.busy(study, row, self.engine.clock(db))
        return int(event)

    def _next_event(self, db: sa.Connection, study: str) -> int:
        """Take the next number in the study's sequence of events."""
        return self._claim(db, study, events=t.studies.c.events + 1)

    def _write_scores(
        self,
        study: str,
        number: int,
        evaluation: Evaluation | None,
        split: str,
        state: State,
        measures: Mapping[str, str],
        known: Collection[str],
    ) -> Trial:
        """Write new scores, point to known ones, and end the trial if it is finished."""

        def work(db: sa.Connection, again: bool) -> Trial:
            trial = scores.trial_of(db, study, number)
            if again and split in trial.evaluations and trial.state in (state, State.COMPLETE):
                return trial
            event = self._next_event(db, study)
            if (
                split == "dev" and trial.state == State.RUNNING
            ):  # scores of more items replace those of fewer
                s = t.scores.c
                part = (s.study == study, s.number == number, s.split == split)
                db.execute(t.scores.delete().where(*part))
            elif split in trial.evaluations:
                raise _scored(study, number, split)
            reusable = measures if state == State.COMPLETE else {}
            digests = {evaluation.digest} if evaluation else set()
            if evaluation:
                scores.keep(db, trial, evaluation, reusable)
            found = scores.evaluated(db, trial.recipe.id, split, reusable)
            digests |= {found[measures[name]] for name in known}
            digest = scores.one_digest(trial, digests)
            db.execute(
                t.scores.insert(), scores.rows_of(study, trial, evaluation, split, reusable, known)
            )
            if state != State.RUNNING and split == "dev":
                self._end(db, study, number, state, again, event, digest=digest)
            else:
                changes = {"changed": event, "digest": digest or trial.digest}
                db.execute(scores.one(t.trials.update(), study, number).values(**changes))
            return scores.trial_of(db, study, number)

        return self.engine.write(work)

    def _end(
        self,
        db: sa.Connection,
        study: str,
        number: int,
        state: State,
        again: bool,
        event: int | None = None,
        **values: Any,
    ) -> None:
        event = self._next_event(db, study) if event is None else event
        update = scores.one(t.trials.update(), study, number).where(
            t.trials.c.state == State.RUNNING
        )
        ended = {"state": state, "finished": event, "changed": event, "ended": t.now()}
        done = db.execute(update.values(**ended, **values))
        if done.rowcount != 1 and not (
            again and scores.trial_of(db, study, number).state == state
        ):
            raise Conflict(
                f"trial {number} of {study!r} has already ended.",
                hint="two processes run the same study; stop one.",
            )


def _scored(study: str, number: int, split: str) -> Conflict:
    return Conflict(
        f"trial {number} of {study!r} was already scored on {split} items.",
        hint="two processes run the same study; stop one.",
    )

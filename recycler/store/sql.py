"""The ledger on SQLite (default) or PostgreSQL: each event is committed when it happens.

Every public method is one transaction. Scores of a trial are written together with its end, so a
kill leaves a trial either running (it is evaluated again) or scored (it is not).
May import: the nouns, store.tables, sqlalchemy, alembic.
"""

import fcntl
import hashlib
import json
import os
import socket
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError, NoSuchModuleError, OperationalError
from sqlalchemy.pool import StaticPool

from recycler.errors import Conflict, InvalidConfig, Mismatch, MissingExtra, NotFound
from recycler.nouns.evaluation import Evaluation, Failure, Outcomes, Score
from recycler.nouns.plan import Plan
from recycler.nouns.reading import Reading
from recycler.nouns.recipe import Recipe, canonical
from recycler.nouns.trial import Proposal, State, Trial
from recycler.store import tables as t

HEAD = "0001"  # newest migration
# The first statement of a migration: others wait, and tables come all or not at all (pysqlite
# would commit each by itself)
_ALONE = {"sqlite": "BEGIN IMMEDIATE", "postgresql": "SELECT pg_advisory_xact_lock(7265637963)"}


class SqlStore:
    """The ledger behind a database URL such as `sqlite:///ledger.db`; `sqlite://` is in memory."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._engine = _engine(url)
        found = self._engine.url  # as messages name the ledger: never with a password
        self.where = found.database if found.drivername == "sqlite" else found.render_as_string()
        try:
            self._migrate()
        except BaseException:
            self.close()  # a refused ledger is not kept open
            raise

    # --- studies ---

    def create_study(self, plan: Plan) -> None:
        """Write a new study; Conflict if the name is taken."""
        row = {
            "name": plan.name,
            "plan": canonical(plan.to_json()),
            "status": "new",
            "message": "",
            "reference": None,
            "events": 0,
            "created": _now(),
        }
        try:
            with self._engine.begin() as db:
                db.execute(t.studies.insert(), row)
        except IntegrityError as error:
            raise Conflict(
                f"there is already a study {plan.name!r} in the ledger {self.where}.",
                hint="resume it or take another name.",
            ) from error

    def plan(self, study: str) -> Plan:
        return Plan.from_json(json.loads(self._study_row(study)["plan"]))

    def extend(
        self,
        study: str,
        evaluations: int,
        stop_gain: float | None = None,
        stop_after: int | None = None,
    ) -> None:
        """Set a study's budget, and when it stops; nothing else of a plan may change."""
        data = {**self.plan(study).to_json(), "evaluations": evaluations}
        rule = {"stop_gain": stop_gain, "stop_after": stop_after}
        data |= {key: value for key, value in rule.items() if value is not None}
        with self._engine.begin() as db:
            db.execute(_named(t.studies.update(), study).values(plan=canonical(data)))

    def studies(self) -> list[dict[str, Any]]:
        """Name, status, creation time and counts of every study, oldest first."""
        with self._engine.connect() as db:
            names = [
                row.name
                for row in db.execute(sa.select(t.studies.c.name).order_by(t.studies.c.created))
            ]
        return [self.status(name) for name in names]

    def status(self, study: str) -> dict[str, Any]:
        """status, message, created, reference (gains) and the number of trials in each state."""
        with self._reading() as db:
            return self._status(db, self._row(db, study))

    def _status(self, db: sa.Connection, row: Mapping[str, Any]) -> dict[str, Any]:
        study = row["name"]
        by_state = sa.select(t.trials.c.state, sa.func.count()).where(t.trials.c.study == study)
        counts = {row[0]: row[1] for row in db.execute(by_state.group_by(t.trials.c.state))}
        return {
            "name": study,
            "status": row["status"],
            "message": row["message"],
            "created": row["created"],
            "reference": json.loads(row["reference"]) if row["reference"] else None,
            **{
                state: counts.get(state, 0)
                for state in (State.COMPLETE, State.PRUNED, State.FAILED, State.RUNNING)
            },
        }

    def set_status(self, study: str, status: str, message: str = "") -> None:
        with self._engine.begin() as db:
            db.execute(_named(t.studies.update(), study).values(status=status, message=message))

    def set_reference(self, study: str, reference: Sequence[float]) -> None:
        """Fix the reference corner; a second call is ignored, so the trace never jumps."""
        update = _named(t.studies.update(), study).where(t.studies.c.reference.is_(None))
        with self._engine.begin() as db:
            db.execute(update.values(reference=json.dumps([float(x) for x in reference])))

    def delete_study(self, study: str) -> None:
        with self._engine.begin() as db:
            for table in (t.evaluations, t.trials):
                db.execute(table.delete().where(table.c.study == study))
            db.execute(t.studies.delete().where(t.studies.c.name == study))

    # --- trials ---

    def start(self, study: str, proposal: Proposal) -> Trial:
        """Number a proposal and write it as running; Conflict if its recipe is in the ledger."""
        try:
            with self._engine.begin() as db:
                event = self._next_event(db, study)
                count = sa.select(sa.func.count()).where(t.trials.c.study == study)
                trial = Trial(
                    number=db.execute(count).scalar_one(),
                    kind=proposal.kind,
                    name=proposal.name,
                    recipe=proposal.recipe,
                    started=event,
                    notes=proposal.notes,
                )
                db.execute(t.trials.insert(), _trial_row(study, trial))
        except IntegrityError as error:
            raise Conflict(
                f"study {study!r} already has the merge {proposal.recipe.id}.",
                hint="this is a fault of the sampler: it proposed the same weights twice.",
            ) from error
        return trial

    def retry(self, study: str, number: int) -> None:
        """Count one more attempt of a trial that was running when its process died."""
        with self._engine.begin() as db:
            db.execute(
                _trial(t.trials.update(), study, number).values(attempts=t.trials.c.attempts + 1)
            )

    def record(
        self,
        study: str,
        number: int,
        evaluation: Evaluation,
        state: str = State.COMPLETE,
    ) -> None:
        """Write the scores of one split; dev scores also end the trial.

        With `state: running`, they are those of the first items and the trial goes on; scores of more
        items replace them. With `state: stopped`, they stay what they are.

        Raises:
            Mismatch: the merged bytes differ from those scored before under this trial.
            Conflict: these items were scored before.
        """
        rows = [_evaluation_row(study, number, evaluation, name) for name in evaluation.scores]
        try:
            with self._engine.begin() as db:
                wanted = _trial(sa.select(t.trials.c.digest), study, number)
                before = db.execute(wanted).scalar_one()
                if before and evaluation.digest and before != evaluation.digest:
                    raise Mismatch(
                        f"trial {number} merged to {evaluation.digest}, before to {before}.",
                        hint="a checkpoint changed since; register the pool again.",
                    )
                if evaluation.split == "dev":
                    self._forget_part(db, study, number)
                db.execute(t.evaluations.insert(), rows)
                if state == State.RUNNING:
                    db.execute(
                        _trial(t.trials.update(), study, number).values(digest=evaluation.digest)
                    )
                elif evaluation.split == "dev":
                    self._end(db, study, number, state, digest=evaluation.digest)
        except IntegrityError as error:
            raise Conflict(
                f"trial {number} of {study!r} was already scored on {evaluation.split} items.",
                hint="two processes run the same study; stop one.",
            ) from error

    def fail(self, study: str, number: int, failure: Failure) -> None:
        with self._engine.begin() as db:
            self._end(db, study, number, State.FAILED, failure=canonical(asdict(failure)))

    def trials(self, study: str) -> list[Trial]:
        """All trials by number, with scores and without item outcomes."""
        with self._reading() as db:
            self._row(db, study)
            return self._trials(db, study)

    def _trials(self, db: sa.Connection, study: str) -> list[Trial]:
        e = t.evaluations.c
        scores = sa.select(
            e.number, e.split, e.objective, e.mean, e.stderr, e.item_count, e.seconds
        )
        rows = (
            db.execute(
                t.trials.select().where(t.trials.c.study == study).order_by(t.trials.c.number)
            )
            .mappings()
            .all()
        )
        by_trial: dict[int, list[Any]] = {}
        for row in db.execute(scores.where(e.study == study).order_by(e.number)):
            by_trial.setdefault(row.number, []).append(row)
        return [_read_trial(row, by_trial.get(row["number"], [])) for row in rows]

    def outcomes(self, study: str, number: int, split: str) -> dict[str, Outcomes]:
        """Objective -> item outcomes of a trial on a split; objectives without items are left out."""
        e = t.evaluations.c
        query = sa.select(e.objective, e.outcomes).where(
            e.study == study, e.number == number, e.split == split, e.outcomes.is_not(None)
        )
        with self._engine.connect() as db:
            return {row.objective: _unpack(row.outcomes) for row in db.execute(query)}

    def read(self, study: str) -> Reading:
        """A study with its trials and item outcomes, all of one moment."""
        e = t.evaluations.c
        query = sa.select(e.number, e.split, e.objective, e.outcomes)
        with self._reading() as db:
            row = self._row(db, study)
            status, trials = self._status(db, row), self._trials(db, study)
            found = db.execute(query.where(e.study == study, e.outcomes.is_not(None))).all()
        packed: dict[tuple[int, str], dict[str, bytes]] = {}
        for number, split, objective, blob in found:
            packed.setdefault((number, split), {})[objective] = blob

        def outcomes(number: int, split: str) -> dict[str, Outcomes]:
            return {name: _unpack(b) for name, b in packed.get((number, split), {}).items()}

        return Reading(
            event=row["events"],
            status=status,
            plan=Plan.from_json(json.loads(row["plan"])),
            trials=tuple(trials),
            outcomes=outcomes,
        )

    # --- registry ---

    def add_pool(self, name: str, spec: Mapping[str, Any], replace: bool = False) -> None:
        """Register a pool; Conflict if the name is taken by another spec."""
        with self._engine.begin() as db:
            known = db.execute(sa.select(t.pools.c.spec).where(t.pools.c.name == name)).scalar()
            if known == canonical(spec):
                return
            if known and not replace:
                raise Conflict(
                    f"the ledger {self.where} has a pool {name!r} with other checkpoints.",
                    hint="take another name, or replace it with --replace.",
                )
            db.execute(t.pools.delete().where(t.pools.c.name == name))
            db.execute(
                t.pools.insert(), {"name": name, "spec": canonical(spec), "created": _now()}
            )

    def pool(self, name: str) -> dict[str, Any]:
        with self._engine.connect() as db:
            spec = db.execute(sa.select(t.pools.c.spec).where(t.pools.c.name == name)).scalar()
            known = [row.name for row in db.execute(sa.select(t.pools.c.name))]
        if spec is None:
            raise NotFound(
                f"there is no pool {name!r}.",
                hint=f"known: {', '.join(known) or 'none'}; add one with `recycler pool add`.",
            )
        found: dict[str, Any] = json.loads(spec)
        return found

    def pools(self) -> list[str]:
        with self._engine.connect() as db:
            return [row.name for row in db.execute(sa.select(t.pools.c.name).order_by("name"))]

    def fingerprint(self, stamp: str) -> str | None:
        """The fingerprint remembered for files with this stamp."""
        query = sa.select(t.fingerprints.c.fingerprint).where(t.fingerprints.c.stamp == stamp)
        with self._engine.connect() as db:
            return db.execute(query).scalar()

    def remember_fingerprint(self, stamp: str, fingerprint: str) -> None:
        with self._engine.begin() as db:
            db.execute(t.fingerprints.delete().where(t.fingerprints.c.stamp == stamp))
            db.execute(t.fingerprints.insert(), {"stamp": stamp, "fingerprint": fingerprint})

    # --- one runner a study ---

    @contextmanager
    def hold(self, study: str) -> Iterator[None]:
        """Be the only process that runs this study; released by the system if the process dies.

        Raises:
            Conflict: another process holds it.
        """
        if self._engine.dialect.name == "postgresql":
            with self._advisory_lock(study):
                yield
        elif isinstance(self._engine.pool, StaticPool):  # in memory: nobody else can see it
            yield
        else:
            with self._file_lock(study):
                yield

    @contextmanager
    def _file_lock(self, study: str) -> Iterator[None]:
        digest = hashlib.sha256(study.encode()).hexdigest()[:12]
        path = Path(f"{self._engine.url.database}.{digest}.lock")
        with path.open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                file.seek(0)
                raise _busy(study, file.read().strip()) from error
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
            file.flush()
            yield

    @contextmanager
    def _advisory_lock(self, study: str) -> Iterator[None]:
        key = int.from_bytes(hashlib.sha256(study.encode()).digest()[:8], "big", signed=True)
        with self._engine.connect() as db:
            if not db.execute(sa.select(sa.func.pg_try_advisory_lock(key))).scalar_one():
                raise _busy(study, "another process")
            db.commit()
            try:
                yield
            finally:
                db.execute(sa.select(sa.func.pg_advisory_unlock(key)))
                db.commit()

    def close(self) -> None:
        self._engine.dispose()

    # --- inside ---

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        """One read transaction: everything read in it is of one moment."""
        with self._engine.connect() as db:
            if self._engine.dialect.name == "postgresql":
                db = db.execution_options(isolation_level="REPEATABLE READ")
            elif not isinstance(self._engine.pool, StaticPool):  # pysqlite begins at writes alone
                db.exec_driver_sql("BEGIN")
            yield db

    def _study_row(self, study: str) -> Mapping[str, Any]:
        with self._engine.connect() as db:
            return self._row(db, study)

    def _row(self, db: sa.Connection, study: str) -> Mapping[str, Any]:
        row = db.execute(_named(t.studies.select(), study)).mappings().first()
        if row is None:
            known = [r.name for r in db.execute(sa.select(t.studies.c.name))]
            raise NotFound(
                f"there is no study {study!r}.",
                hint=f"known: {', '.join(known) or 'none'}; `recycler studies` lists them.",
            )
        return dict(row)

    def _next_event(self, db: sa.Connection, study: str) -> int:
        """Take the next position in the study's sequence of events."""
        update = _named(t.studies.update(), study).values(events=t.studies.c.events + 1)
        return int(db.execute(update.returning(t.studies.c.events)).scalar_one())

    def _end(self, db: sa.Connection, study: str, number: int, state: str, **values: Any) -> None:
        event = self._next_event(db, study)
        update = _trial(t.trials.update(), study, number).where(t.trials.c.state == State.RUNNING)
        done = db.execute(update.values(state=state, finished=event, ended=_now(), **values))
        if done.rowcount != 1:
            raise Conflict(
                f"trial {number} of {study!r} has already ended.",
                hint="two processes run the same study; stop one.",
            )

    def _forget_part(self, db: sa.Connection, study: str, number: int) -> None:
        """Make room for the scores of more items of a trial that is still running."""
        e = t.evaluations.c
        running = sa.select(t.trials.c.number).where(
            t.trials.c.study == study,
            t.trials.c.number == number,
            t.trials.c.state == State.RUNNING,
        )
        db.execute(
            t.evaluations.delete().where(
                e.study == study, e.number == number, e.split == "dev", e.number.in_(running)
            )
        )

    def _migrate(self) -> None:
        try:
            with self._engine.connect() as db:
                if not sa.inspect(db).has_table(t.VERSION_TABLE):
                    version = None
                else:
                    query = sa.text(f"SELECT version_num FROM {t.VERSION_TABLE}")
                    version = db.execute(query).scalar()
        except OperationalError as error:
            raise NotFound(
                f"the ledger {self._engine.url!r} can't be opened: {error.orig}.",
                hint="check the path or the database URL.",
            ) from error
        if version is not None and version > HEAD:
            raise Conflict(
                f"the ledger has version {version}, this recycler knows {HEAD}.",
                hint="a newer recycler wrote it; upgrade recycler.",
            )
        if version != HEAD:
            _upgrade(self._engine)


def _upgrade(engine: sa.Engine) -> None:
    """Bring the tables up to date in one transaction, one process at a time."""
    from alembic import command  # only where tables are made: alembic costs 0.2 s
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    with engine.begin() as db:
        db.exec_driver_sql(_ALONE[engine.dialect.name])
        config.attributes["connection"] = db
        command.upgrade(config, "head")


def _engine(url: str) -> sa.Engine:
    try:
        parsed = sa.make_url(url)
        backend = parsed.get_backend_name()
        if backend not in _ALONE:
            raise sa.exc.ArgumentError(f"{backend} holds no ledger")
        memory = backend == "sqlite" and parsed.database in (None, "", ":memory:")
        if memory:
            engine = sa.create_engine(
                parsed, poolclass=StaticPool, connect_args={"check_same_thread": False}
            )
        else:
            engine = sa.create_engine(parsed, pool_pre_ping=True)
    except (sa.exc.ArgumentError, NoSuchModuleError) as error:
        raise InvalidConfig(
            f"{url!r} is not a database URL: {error}.",
            hint="use sqlite:///path/ledger.db or postgresql+psycopg://user@host/name.",
        ) from error
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"{parsed.drivername} needs the package {error.name}.",
            hint="pip install 'recycler[postgres]'",
        ) from error
    if backend == "sqlite":
        sa.event.listen(engine, "connect", _pragmas)
    return engine


def _pragmas(connection: Any, _record: Any) -> None:
    for pragma in (
        "journal_mode=WAL",
        "synchronous=NORMAL",
        "busy_timeout=15000",
        "foreign_keys=ON",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _busy(study: str, holder: str) -> Conflict:
    return Conflict(
        f"study {study!r} is being run by {holder or 'another process'}.",
        hint="wait for it or stop it; `recycler front` shows its state meanwhile.",
    )


def _named(query: Any, study: str) -> Any:
    return query.where(t.studies.c.name == study)


def _trial(query: Any, study: str, number: int) -> Any:
    return query.where(t.trials.c.study == study, t.trials.c.number == number)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _trial_row(study: str, trial: Trial) -> dict[str, Any]:
    return {
        "study": study,
        "number": trial.number,
        "kind": trial.kind,
        "name": trial.name,
        "recipe": canonical(trial.recipe.to_json()),
        "recipe_id": trial.recipe.id,
        "state": trial.state,
        "started": trial.started,
        "finished": None,
        "attempts": 1,
        "digest": "",
        "notes": canonical(trial.notes),
        "failure": None,
        "created": _now(),
        "ended": None,
    }


def _evaluation_row(study: str, number: int, evaluation: Evaluation, name: str) -> dict[str, Any]:
    score, outcomes = evaluation.scores[name], evaluation.outcomes.get(name)
    return {
        "study": study,
        "number": number,
        "split": evaluation.split,
        "objective": name,
        "mean": score.mean,
        "stderr": score.stderr,
        "item_count": score.items,
        "outcomes": _pack(outcomes) if outcomes else None,
        "seconds": canonical(evaluation.seconds),
    }


def _read_trial(row: Mapping[Any, Any], scores: Sequence[Any]) -> Trial:
    evaluations = {}
    for split in sorted({score.split for score in scores}):
        rows = [score for score in scores if score.split == split]
        evaluations[split] = Evaluation(
            split=split,
            scores={r.objective: Score(r.mean, r.stderr, r.item_count) for r in rows},
            digest=row["digest"],
            seconds=json.loads(rows[0].seconds),
        )
    return Trial(
        number=row["number"],
        kind=row["kind"],
        name=row["name"],
        recipe=Recipe.from_json(json.loads(row["recipe"])),
        state=row["state"],
        started=row["started"],
        finished=row["finished"],
        attempts=row["attempts"],
        digest=row["digest"],
        evaluations=evaluations,
        failure=Failure(**json.loads(row["failure"])) if row["failure"] else None,
        notes=json.loads(row["notes"]),
    )


def _pack(outcomes: Outcomes) -> bytes:
    return zlib.compress(canonical(asdict(outcomes)).encode())


def _unpack(blob: bytes) -> Outcomes:
    table: dict[str, Any] = json.loads(zlib.decompress(blob))
    held: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in table.items()}
    return Outcomes(**held)

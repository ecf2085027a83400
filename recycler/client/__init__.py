"""The client: a service's pools, studies and exports from Python, one method for each thing."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from recycler.client.download import download as bring
from recycler.client.events import Event, follow
from recycler.client.operations import OnProgress, operation_of, wait
from recycler.client.transport import Transport, part
from recycler.nouns.operation import Operation

Table = dict[str, Any]
PAGE = 500  # trials in one request


class Client:
    """A service of recycler (`recycler serve`) from Python.

    Every method may raise Unavailable (the server can't be reached or stays busy) and a
    RecyclerError with code `unauthorized` (no valid token) or `forbidden` (its scope, or the
    settings of the service). All other errors are those that the same command raises here.
    Long work is an `Operation`: `wait` returns it once it is done.
    """

    def __init__(self, url: str, token: str | None = None, *, timeout: float = 60.0) -> None:
        """Open no connection yet.

        Args:
            url: address of the service, such as `http://127.0.0.1:8321`.
            token: token of `recycler token create`; None: that of RECYCLER_TOKEN, else that of
                `~/.config/recycler/token` (mode 0600).
            timeout: longest time without an answer [s].

        Raises:
            InvalidConfig: the URL or the token is malformed, or others may read the file.
        """
        self.transport = Transport(url, token, timeout)
        self.url = self.transport.url

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self.transport.close()

    def health(self) -> Table:
        """Whether the service answers: `{"status", "version", "memory_mib"}`."""
        return dict(self.transport.get("/health"))

    # --- pools ---

    def pools(self) -> list[Table]:
        """The registered pools: `{"name", "checkpoints": names, "base", "studies"}` of each."""
        return list(self.transport.get("/pools")["pools"])

    def pool(self, name: str) -> Table:
        """A pool: `{"name", "checkpoints", "base"}` as `recycler pool show --json` prints it.

        Raises:
            NotFound: there is no such pool.
        """
        return dict(self.transport.get(f"/pools/{part(name)}"))

    def check_pool(self, folders: Sequence[str], base: str | None = None) -> Table:
        """Check from the headers whether folders can be merged; as `recycler pool check --json`.

        Args:
            folders: paths on the server.
            base: path of the common ancestor, if any.
        """
        asked = {"folders": list(folders), "base": base}
        return dict(self.transport.post("/pools/check", asked))

    def deep_check(self, folders: Sequence[str], base: str | None = None) -> Operation:
        """Read every tensor of folders once; the result is what `check_pool` returns, and `deep`."""
        asked = {"folders": list(folders), "base": base}
        return self._operation("/pools/deep-check", asked)

    def register_pool(
        self,
        name: str,
        checkpoints: Sequence[Mapping[str, Any] | str],
        base: Mapping[str, Any] | str | None = None,
        *,
        replace: bool = False,
    ) -> Operation:
        """Register folders of the server as a pool.

        Args:
            name: its name.
            checkpoints: paths, or `{"path", "name", metadata}`.
            base: the same for the common ancestor, if any.
            replace: replace a pool of that name.

        Returns:
            The operation; its result is what `pool` returns.
        """
        entries = [_entry(entry) for entry in checkpoints]
        asked = {"name": name, "checkpoints": entries, "base": base and _entry(base)}
        return self._operation("/pools", {**asked, "replace": replace})

    def remove_pool(self, name: str) -> Table:
        """Remove a pool from the registry; its folders stay.

        Raises:
            NotFound: there is no such pool.
            Conflict: a study uses it.
        """
        return dict(self.transport.delete(f"/pools/{part(name)}"))

    # --- studies ---

    def studies(self) -> list[Table]:
        """How far each study is, as `recycler watch --json` prints it."""
        return list(self.transport.get("/studies")["studies"])

    def study(self, name: str) -> Table:
        """How far a study is: progress, ETA, latest trials, the pick so far.

        Raises:
            NotFound: there is no such study.
        """
        return dict(self.transport.get(_of(name)))

    def create_study(self, document: Mapping[str, Any], *, replace: bool = False) -> Operation:
        """Create a study, or extend the same one; `start` runs it.

        Args:
            document: content of a study file, with paths on the server.
            replace: start a study of that name anew; its trials are deleted.

        Raises:
            InvalidConfig: a field is wrong.
        """
        return self._operation("/studies", {"document": dict(document), "replace": replace})

    def bill(
        self,
        document: Mapping[str, Any],
        execution: Mapping[str, Any] | None = None,
        *,
        replace: bool = False,
    ) -> Operation:
        """What a study will cost; the result is what `recycler run --plan --json` prints."""
        asked = {"document": dict(document), "execution": dict(execution or {})}
        return self._operation("/studies/bill", {**asked, "replace": replace})

    def scout(
        self, document: Mapping[str, Any], execution: Mapping[str, Any] | None = None
    ) -> Operation:
        """Score the single checkpoints; the result is what `recycler scout --json` prints."""
        asked = {"document": dict(document), "execution": dict(execution or {})}
        return self._operation("/scouts", asked)

    def start(
        self, study: str, execution: Mapping[str, Any] | None = None, *, priority: int = 0
    ) -> Operation:
        """Run or resume a study to its end.

        Args:
            study: its name.
            execution: `workers`, `device` and the like (see `submit.config.ExecutionSection`).
            priority: larger goes first.
        """
        asked = {"execution": dict(execution or {}), "priority": priority}
        return self._operation(f"{_of(study)}/start", asked)

    def stop(self, study: str, *, now: bool = False) -> Table:
        """Stop a study once the merges in flight are scored, or at once.

        Returns:
            `{"study", "asked": whether a process runs it}`.
        """
        return dict(self.transport.post(f"{_of(study)}/stop", now=now))

    def pause(self, study: str) -> Table:
        """Pause a study once the merges in flight are scored; `start` goes on."""
        return dict(self.transport.post(f"{_of(study)}/pause"))

    def extend(self, study: str, evaluations: int) -> Table:
        """Give a study a larger budget; `start` spends it."""
        return dict(self.transport.post(f"{_of(study)}/extend", {"evaluations": evaluations}))

    def clone(self, study: str, name: str, changes: Mapping[str, Any] | None = None) -> Operation:
        """Create a study with the document of another one, under a new name.

        Args:
            study: the study to copy; it was created through the service.
            name: name of the copy.
            changes: fields of the document to change; tables change only the keys that they have.
        """
        asked = {"name": name, "changes": dict(changes or {})}
        return self._operation(f"{_of(study)}/clone", asked)

    def delete(self, study: str) -> Table:
        """Delete a study with its trials; its evaluations stay. `{"study", "trials"}`.

        Raises:
            NotFound: there is no such study.
            Conflict: a process runs it.
        """
        return dict(self.transport.delete(_of(study)))

    def events(self, study: str = "", last_id: int | None = None) -> Iterator[Event]:
        """Follow a study, or all studies and operations; connects again when a connection breaks.

        Args:
            study: its name; empty: all.
            last_id: `Event.id` of the last event that is known; later trials come first.
        """
        path = f"{_of(study)}/events" if study else "/events"
        return follow(self.transport, path, last_id)

    # --- what a study has found ---

    def front(self, study: str) -> Table:
        """The front: members, baselines, decision; as `recycler front --json` prints it."""
        return dict(self.transport.get(f"{_of(study)}/front"))

    def pick(
        self,
        study: str,
        *,
        knee: bool = False,
        prefer: Mapping[str, float] | None = None,
        floor: Mapping[str, float] | None = None,
    ) -> Table:
        """The trial to take, and `why`; at most one rule, see `recycler pick`."""
        rules = {"knee": knee, "prefer": _pairs(prefer), "floor": _pairs(floor)}
        return dict(self.transport.get(f"{_of(study)}/pick", **rules))

    def trials(self, study: str, **filters: Any) -> Iterator[Table]:
        """All trials, page by page.

        Args:
            study: its name.
            **filters: `state`, `kind` (each one or a list), `text` of the name, `sort`, `split`.
        """
        skip = 0
        while True:
            page = self.transport.get(f"{_of(study)}/trials", **filters, limit=PAGE, skip=skip)
            yield from page["trials"]
            skip += len(page["trials"])
            if not page["trials"] or skip >= page["total"]:
                return

    def trial(self, study: str, trial: int | str) -> Table:
        """One trial by number or name, as `recycler show --json` prints it.

        Raises:
            NotFound: there is no such trial.
        """
        return dict(self.transport.get(f"{_of(study)}/trials/{part(str(trial))}"))

    def try_merge(
        self,
        study: str,
        weights: Mapping[str, float] | None = None,
        *,
        recipe: Mapping[str, Any] | None = None,
        execution: Mapping[str, Any] | None = None,
    ) -> Table:
        """Make one's own merge a trial, outside the budget.

        Args:
            study: its name.
            weights: checkpoint -> weight.
            recipe: instead: `recipe` of a trial or a prediction.
            execution: where it is scored, if no process runs the study.

        Returns:
            `{"study", "id", "trial": number or None, "name", "operation": id or None}`.
        """
        wish = {"weights": weights and dict(weights), "recipe": recipe and dict(recipe)}
        asked = {**wish, "execution": dict(execution or {})}
        return dict(self.transport.post(f"{_of(study)}/trials", asked))

    def predict(
        self,
        study: str,
        *weights: Mapping[str, float],
        prefer: Sequence[Mapping[str, float]] = (),
        grid: int = 0,
        evaluate: bool = False,
    ) -> Table:
        """What is expected of merges that nobody scored, as `recycler predict --json` prints it.

        Args:
            study: its name.
            *weights: checkpoint -> weight.
            prefer: preferences (objective -> weight); for each a merge is proposed.
            grid: number of further preferences, spread over all objectives.
            evaluate: then score these merges as trials; `evaluated` names the operations.
        """
        rows = {"weights": [*map(dict, weights)], "prefer": [*map(dict, prefer)], "grid": grid}
        path = f"{_of(study)}/predictions{'/evaluate' if evaluate else ''}"
        return dict(self.transport.post(path, rows))

    def compare(
        self, study: str, *trials: int | str, split: str | None = None, **items: Any
    ) -> Table:
        """Compare the first trial with each of the others, as `recycler compare --json` prints it.

        Args:
            study: its name.
            *trials: two or more numbers or names.
            split: dev, select or test; None: the least used one on which all are scored.
            **items: `items` (a task whose items are listed), `every`, `limit`, `skip`.
        """
        asked = {"trial": [*map(str, trials)], "split": split, **items}
        return dict(self.transport.get(f"{_of(study)}/comparison", **asked))

    def answer_again(
        self, study: str, trials: Sequence[int | str], objective: str, split: str = "test"
    ) -> Operation:
        """Score trials again whose answers were not kept."""
        asked = {"trials": [*map(str, trials)], "objective": objective, "split": split}
        return self._operation(f"{_of(study)}/answers", asked)

    def sample(
        self,
        study: str,
        trials: Sequence[int | str],
        prompts: Sequence[str | Mapping[str, Any]],
        **sampling: Any,
    ) -> Operation:
        """Let trials answer prompts; the result is what `recycler sample --json` prints.

        Args:
            study: its name.
            trials: numbers or names.
            prompts: texts, or `{"messages": [{"role", "content"}]}`.
            **sampling: `temperature`, `seed`, `max_new_tokens`, `chat`, `device`.
        """
        asked = {"trials": [*map(str, trials)], "prompts": [*prompts], **sampling}
        return self._operation(f"{_of(study)}/samples", asked)

    def export(self, study: str, trial: int | str, *, donor: str = "") -> Operation:
        """Write a merge as a folder on the server, proved; `download` brings it here.

        Args:
            study: its name.
            trial: number or name.
            donor: checkpoint that gives config and tokenizer.
        """
        return self._operation(f"{_of(study)}/exports", {"trial": str(trial), "donor": donor})

    def download(
        self,
        operation: Operation | int,
        out: str | Path,
        *,
        force: bool = False,
        on_bytes: Callable[[int, int], object] = lambda count, total: None,
    ) -> Table:
        """Bring an export here; a broken connection is resumed, and every tensor is hashed again.

        Args:
            operation: the finished export.
            out: the folder to create.
            force: replace `out` if it is empty or an earlier merge.
            on_bytes: called with the bytes that just arrived, and the size of the whole.

        Returns:
            `{"path", "digest", "files", "left_behind", "leftovers", "verified": True}`.

        Raises:
            Conflict: `out` exists.
            Mismatch: the bytes are not those of the export; nothing is left behind.
        """
        id = operation if isinstance(operation, int) else operation.id
        return bring(self.transport, self.operation(id), Path(out), force, on_bytes)

    def delete_export(self, operation: Operation | int) -> Table:
        """Delete the folder of an export from the server."""
        id = operation if isinstance(operation, int) else operation.id
        return dict(self.transport.delete(f"/exports/{id}"))

    # --- operations ---

    def operations(self, **filters: Any) -> list[Operation]:
        """The newest operations first.

        Args:
            **filters: `state`, `kind` (each one or a list), `subject`, `limit`, `before`.
        """
        rows = self.transport.get("/operations", **filters)["operations"]
        return [operation_of(row) for row in rows]

    def operation(self, id: int) -> Operation:
        """One operation: state, progress, result or error.

        Raises:
            NotFound: there is none with this number.
        """
        return operation_of(self.transport.get(f"/operations/{id}"))

    def cancel(self, id: int) -> Operation:
        """Cancel an operation: at once if it waits, else its process ends soon."""
        return operation_of(self.transport.delete(f"/operations/{id}"))

    def wait(
        self,
        operation: Operation | int,
        on_progress: OnProgress = lambda operation: None,
        *,
        every: float = 0.3,
        patience: float = 300.0,
    ) -> Operation:
        """Wait until an operation is done.

        Args:
            operation: the operation, or its number.
            on_progress: called with the operation after each look.
            every: seconds between two looks at the start; they grow to ten times as much.
            patience: how long the server may be away meanwhile [s]; operations outlive it.

        Raises:
            RecyclerError: the error with which the operation failed.
            Conflict: it was cancelled.
        """
        id = operation if isinstance(operation, int) else operation.id
        return wait(lambda: self.operation(id), on_progress, every, patience)

    def _operation(self, path: str, asked: Mapping[str, Any]) -> Operation:
        return operation_of(self.transport.post(path, asked))


def _of(study: str) -> str:
    """Path of a study."""
    return f"/studies/{part(study)}"


def _entry(entry: Mapping[str, Any] | str) -> Table:
    return {"path": entry} if isinstance(entry, str) else dict(entry)


def _pairs(numbers: Mapping[str, float] | None) -> str | None:
    """`a=2,b=1`, as addresses have it."""
    if numbers is None:
        return None
    return ",".join(f"{name}={float(value)!r}" for name, value in numbers.items())

"""Studies of a service as users hold them here: the methods of `Study`, with runs on the server."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace as changed
from importlib import import_module as lazy
from pathlib import Path
from typing import Any

from recycler.checkpoints.folder import absolute
from recycler.client import Client
from recycler.client.operations import OnProgress, operation_of
from recycler.client.remote import RemoteWorkspace, below, listed, placed
from recycler.client.transport import part
from recycler.front import bill as bills
from recycler.front.bill import Bill
from recycler.front.naming import named
from recycler.front.results import Results
from recycler.front.scouting import Scouting, scouting
from recycler.loop import Listener, Progress
from recycler.nouns.operation import Operation, OperationState
from recycler.nouns.plan import Plan
from recycler.nouns.trial import Trial
from recycler.study import Study
from recycler.submit.config import ExecutionSection, StudyFile, read_study
from recycler.submit.workspace import OnBytes
from recycler.yamlfile import read_yaml

SCOUT = "-scout"  # see `scout.SUFFIX`
QUIET = 3.0  # seconds in the queue before the user is told


class RemoteStudy(Study):
    """One study of a service. Readings are computed here; runs, answers and exports there."""

    workspace: RemoteWorkspace

    @property
    def client(self) -> Client:
        """The client behind it."""
        return self.workspace.client

    def run(
        self,
        execution: ExecutionSection | None = None,
        listen: Listener = lambda progress: None,
        on_bytes: OnBytes | None = None,
        progress: bool | None = None,
        *,
        tries_only: bool = False,
    ) -> "RemoteStudy":
        """Run or resume the study on the server, and follow it to its end.

        The run outlives this process. Arguments are those of `Study.run`; `on_bytes` and `progress`
        are not used.
        """
        how = sent(execution)
        if tries_only:
            path = f"/ledger/studies/{part(self.name)}/tries/run"
            asked = operation_of(self.client.transport.post(path, {"execution": how}))
        else:
            asked = self.client.start(self.name, how)
        self.client.wait(asked, told(listen))
        return self

    def answer_again(
        self, trials: Sequence[Trial], split: str, objective: str, device: str = "cpu"
    ) -> None:
        """Score trials again on the server whose answers were not kept."""
        numbers = [trial.number for trial in trials]
        self.client.wait(self.client.answer_again(self.name, numbers, objective, split))

    def sample(
        self,
        trials: Sequence[Trial | int | str],
        prompts: Sequence[str] = (),
        *,
        file: str | Path | None = None,
        device: str = "cpu",
        on_answer: Callable[[str, int, int], object] = lambda name, done, total: None,
        **sampling: Any,
    ) -> Any:
        """Let trials answer prompts on the server; see `Study.sample`."""
        asked = lazy("recycler.execute.prompts").prompts_of(prompts, Path(file) if file else None)
        rows = [{"messages": [*p.messages]} if p.messages else p.text for p in asked]
        results = self.results
        numbers = [named(results, _label(trial)).number for trial in trials]
        chosen = {key: value for key, value in sampling.items() if value is not None}
        if device != "cpu":
            chosen["device"] = device

        def tell(operation: Operation) -> None:
            found = operation.progress
            if {"done", "total", "text"} <= found.keys():
                name = str(found["text"]).removesuffix(" answers")
                on_answer(name, found["done"], found["total"])

        done = self.client.wait(self.client.sample(self.name, numbers, rows, **chosen), tell)
        return lazy("recycler.execute.sample").Samples.from_json(done.result)

    def export(
        self,
        trial: Trial | int | str,
        out: str | Path,
        *,
        force: bool = False,
        donor: str = "",
        on_bytes: Callable[[int, int], object] = lambda count, total: None,
    ) -> dict[str, Any]:
        """Export a trial on the server and bring the folder here, proved again; see `Study.export`.

        The folder on the server is deleted once it is here.
        """
        lazy("recycler.export").require_place(absolute(out), force)
        operation = self.client.wait(self.client.export(self.name, _label(trial), donor=donor))
        done = self.client.download(operation, out, force=force, on_bytes=on_bytes)
        self.client.delete_export(operation)
        return done

    def export_there(self, trial: Trial | int | str, *, donor: str = "") -> dict[str, Any]:
        """Export a trial and leave the folder on the server; `path` is where it is there."""
        done = self.client.wait(self.client.export(self.name, _label(trial), donor=donor))
        return dict(done.result or {})


def document_of(file: Path) -> tuple[StudyFile, dict[str, Any]]:
    """A study file of this machine, and its content with absolute paths for a server.

    Raises:
        NotFound: there is no such file.
        InvalidConfig: a field is wrong.
    """
    config = read_study(file)
    table = read_yaml(file, "study file", "start from configs/template.yaml.")
    return config, located(table, file.absolute().parent)


def located(table: Mapping[str, Any], home: Path) -> dict[str, Any]:
    """The content of a study file with absolute paths; a pool's file is put in its place."""
    made = dict(table)
    if isinstance(made["pool"], str) and made["pool"].endswith((".yaml", ".yml")):
        made["pool"], made["base"] = listed(home / made["pool"])
    else:
        if isinstance(made["pool"], list):
            made["pool"] = [placed(entry, home) for entry in made["pool"]]
        if made.get("base"):
            made["base"] = placed(made["base"], home)
    if made.get("references"):
        made["references"] = [placed(entry, home) for entry in made["references"]]
    evaluator = made.get("evaluator") or {}
    if isinstance(evaluator.get("tasks"), str):
        made["evaluator"] = {**evaluator, "tasks": below(home, evaluator["tasks"])}
    return made


def submit(
    workspace: RemoteWorkspace,
    file: Path,
    on_bytes: OnBytes | None = None,
    *,
    replace: bool = False,
) -> Plan:
    """Register the study of a file on the server, or resume it; see `submission.submit`."""
    config, document = document_of(file)
    workspace.client.wait(workspace.client.create_study(document, replace=replace))
    return workspace.store.plan(config.study)  # type: ignore[no-any-return]


def quote(
    workspace: RemoteWorkspace,
    file: Path,
    execution: ExecutionSection,
    *,
    replace: bool = False,
    tell: Callable[[int, int], object] = lambda done, all_: None,
) -> Bill:
    """The bill of a study, measured on the server; see `quote.quote`."""

    def heard(operation: Operation) -> None:
        if operation.progress.get("total"):
            tell(operation.progress.get("done", 0), operation.progress["total"])

    _, document = document_of(file)
    client = workspace.client
    done = client.wait(client.bill(document, sent(execution), replace=replace), heard)
    return bills.from_json(done.result or {})


def scout(
    workspace: RemoteWorkspace,
    file: Path,
    execution: ExecutionSection | None = None,
    listen: Listener = lambda progress: None,
    on_bytes: OnBytes | None = None,
) -> Scouting:
    """Score the single checkpoints on the server, and analyse the scores here; see `scout.scout`."""
    config, document = document_of(file)
    client = workspace.client
    done = client.wait(client.scout(document, sent(execution)), told(listen))
    rows = (done.result or {})["tasks"]
    chances = {row["name"]: row["chance"] for row in rows if row["chance"] is not None}
    results = Results.read(workspace.store, config.study + SCOUT)
    return changed(scouting(results, config.roles, chances), study=config.study)


def sent(execution: ExecutionSection | None) -> dict[str, Any]:
    """An `execution` section as requests have it: what differs from the defaults."""
    return execution.model_dump(exclude_defaults=True) if execution else {}


def told(listen: Listener) -> OnProgress:
    """Tell a listener of runs what an operation tells of itself, and that it waits in the queue."""
    began, remarks = time.monotonic(), set[str]()

    def remark(text: str) -> str:
        """The text, the first time that it is said."""
        fresh = text not in remarks
        remarks.add(text)
        return text if fresh else ""

    def heard(operation: Operation) -> None:
        found, late = operation.progress, time.monotonic() - began > QUIET
        if operation.state == OperationState.QUEUED and late:
            text = f"operation {operation.id} waits in the queue of the server."
            listen(Progress("search", 0, 0, said=remark(text)))
        if "phase" in found:
            counts = {"done": found["done"], "total": found["total"]}
            about = {"remaining_gain": found["gain"], "waiting": found["waiting"]}
            listen(Progress(found["phase"], **counts, **about, said=remark(found["said"])))

    return heard


def _label(trial: Trial | int | str) -> str:
    return str(trial.number if isinstance(trial, Trial) else trial)

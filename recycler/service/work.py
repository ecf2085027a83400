"""What operations do: one function for each kind, run in a process of its own.

Each takes a `Bench` and the arguments of the operation, and returns its result as JSON data.
Arguments were checked when the operation was asked for; paths are checked again here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module as lazy
from pathlib import Path
from typing import Any

from recycler.checkpoints.pool import Pool, check_folders
from recycler.loop import Progress
from recycler.nouns.recipe import Recipe
from recycler.service.config import ServiceConfig
from recycler.service.kinds import export_folder
from recycler.study import Study
from recycler.submit.config import ExecutionSection, StudyDocument, parse_study
from recycler.submit.workspace import Workspace

Arguments = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Bench:
    """What the work of an operation may use.

    Attributes:
        id: number of the operation.
        owner: who asked for it.
        workspace: the ledger.
        config: settings of the service.
        tell: takes progress as JSON data: `{"text", "done", "total"}`.
    """

    id: int
    owner: str
    workspace: Workspace
    config: ServiceConfig
    tell: Callable[[Mapping[str, Any]], object]

    def bytes_read(self, name: str, count: int, total: int) -> None:
        """Tell that a checkpoint is being read; `count` bytes are new."""
        self.tell({"text": f"reading {name}", "total": total})

    def step(self, step: Progress) -> None:
        """Tell the progress of a run."""
        text = f"waiting: {step.waiting}" if step.waiting else step.phase
        about = {"phase": str(step.phase), "waiting": step.waiting, "said": step.said}
        ended = step.trial.name if step.trial else ""
        counts = {"done": step.done, "total": step.total, "gain": step.remaining_gain}
        self.tell({"text": text, **counts, **about, "trial": ended})

    def document(self, arguments: Arguments) -> StudyDocument:
        """The study document of an operation."""
        return StudyDocument(parse_study(arguments["document"]), Path(arguments["root"]))


def execution_of(arguments: Arguments, config: ServiceConfig) -> ExecutionSection:
    """Where an operation runs: as asked, on the cluster of the service."""
    section = ExecutionSection.model_validate(arguments.get("execution") or {})
    ray = section.executor == "ray" or (not section.executor and section.workers > 1)
    if config.ray_address and ray:
        section = section.model_copy(update={"ray_address": config.ray_address})
    return section


def check(bench: Bench, arguments: Arguments) -> dict[str, Any]:
    """Check a pool; deep: read every tensor."""
    found, findings = check_folders(
        [Path(path) for path in arguments["folders"]],
        Path(arguments["base"]) if arguments.get("base") else None,
    )
    reading, done = None, 0
    if found and arguments.get("deep"):
        total = sum(checkpoint.nbytes for checkpoint in found.everything)

        def tell(count: int) -> None:
            nonlocal done
            done += count
            bench.tell({"text": "reading every tensor", "done": done, "total": total})

        reading = lazy("recycler.merge.deep").read(found, tell)
        findings = (*findings, *reading.findings)
    shown: dict[str, Any] = lazy("recycler.report.text").check_json(found, findings, reading)
    return shown


def register(bench: Bench, arguments: Arguments) -> dict[str, Any]:
    """Register a pool: check it, and compute its fingerprints."""
    name = arguments["name"]
    pool = Pool.from_entries(name, arguments["checkpoints"], arguments.get("base"))
    bench.workspace.add_pool(pool, bench.bytes_read, bool(arguments.get("replace")))
    return {"name": name, **bench.workspace.store.catalog.pool(name)}


def create(bench: Bench, arguments: Arguments) -> dict[str, Any]:
    """Register a study from its document, or extend the same one."""
    submit = lazy("recycler.submit.submission").submit
    document, replace = bench.document(arguments), bool(arguments.get("replace"))
    plan = submit(bench.workspace, document, bench.bytes_read, replace=replace)
    started = None
    if arguments.get("start"):
        asked = {"study": plan.name, "execution": arguments.get("execution") or {}}
        queue = bench.workspace.store.operations
        started = queue.ask("run", plan.name, asked, owner=bench.owner).id
    return {"study": plan.name, "started": started}


def bill(bench: Bench, arguments: Arguments) -> dict[str, Any]:
    """Measure what a study will cost; nothing is registered."""
    document = bench.document(arguments)

    def tell(done: int, total: int) -> None:
        bench.tell({"text": "timing one merge and some items", "done": done, "total": total})

    execution, url = execution_of(arguments, bench.config), bench.workspace.url
    replace = bool(arguments.get("replace"))
    found = lazy("recycler.quote").quote(document, execution, url, replace=replace, tell=tell)
    table: dict[str, Any] = lazy("recycler.front.bill").to_json(found)
    return table


def scout(bench: Bench, arguments: Arguments) -> dict[str, Any]:
    """Score the single checkpoints on all tasks of a document."""
    execution = execution_of(arguments, bench.config)
    found = lazy("recycler.scout").scout(
        bench.workspace, bench.document(arguments), execution, bench.step, bench.bytes_read
    )
    table: dict[str, Any] = lazy("recycler.report.scouting").to_json(found)
    return table


def run(bench: Bench, arguments: Arguments) -> dict[str, Any]:
    """Run a study to its end, or until it is stopped."""
    study = Study(arguments["study"], bench.workspace)
    study.run(execution_of(arguments, bench.config), bench.step, progress=False)
    status = bench.workspace.store.status(study.name)
    return {"study": study.name, "status": status["status"], "message": status["message"]}


def attempt(bench: Bench, arguments: Arguments) -> dict[str, Any]:
    """Score merges of the user's, in the study that they are tries of."""
    study = Study(arguments["study"], bench.workspace)
    execution = execution_of(arguments, bench.config)
    recipes = [Recipe.from_json(recipe) for recipe in arguments["recipes"]]
    for recipe in recipes:
        study.try_merge(recipe, run=False)
    tried = [study.try_merge(r, execution=execution, listen=bench.step) for r in recipes]
    return {"trials": tried}


def sample(bench: Bench, arguments: Arguments) -> dict[str, Any]:
    """Let trials answer prompts."""

    def tell(name: str, done: int, total: int) -> None:
        bench.tell({"text": f"{name} answers", "done": done, "total": total})

    asked = [prompt_of(prompt) for prompt in arguments["prompts"]]
    sampling = arguments.get("sampling", {})
    found = Study(arguments["study"], bench.workspace).sample(
        arguments["trials"], asked, on_answer=tell, **sampling
    )
    table: dict[str, Any] = found.to_json()
    return table


def prompt_of(asked: str | Mapping[str, Any]) -> Any:
    """A prompt of a request: a text, or the messages of a conversation."""
    make = lazy("recycler.execute.prompts").Prompt
    if isinstance(asked, str):
        return make(asked)
    turns = tuple(asked["messages"])
    return make(turns[-1]["content"], turns)


def answers(bench: Bench, arguments: Arguments) -> dict[str, Any]:
    """Score trials again whose answers were not kept."""
    study = Study(arguments["study"], bench.workspace)
    trials = [study.trial(number) for number in arguments["trials"]]
    split, objective = arguments["split"], arguments["objective"]
    study.answer_again(trials, split, objective, arguments.get("device", "cpu"))
    return {"study": study.name, "trials": arguments["trials"], "split": split}


def export(bench: Bench, arguments: Arguments) -> dict[str, Any]:
    """Write a merge as a folder below the exports of the service, and prove it."""
    study = Study(arguments["study"], bench.workspace)
    out = export_folder(bench.config, bench.id, arguments["study"], arguments["trial"])
    out.parent.mkdir(parents=True, exist_ok=True)
    donor = arguments.get("donor", "")
    return study.export(arguments["trial"], out, donor=donor, force=True)


# kind -> what is done; `service.kinds` says the same without heavy imports
WORK: Mapping[str, Callable[[Bench, Arguments], Mapping[str, Any]]] = {
    "check": check,
    "register": register,
    "create": create,
    "bill": bill,
    "scout": scout,
    "run": run,
    "try": attempt,
    "sample": sample,
    "answers": answers,
    "export": export,
}

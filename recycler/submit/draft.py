"""A draft: a complete study file with the reasons for its settings, as YAML with comments."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from textwrap import wrap
from typing import Any

import yaml

from recycler.checkpoints.findings import printable
from recycler.files import write_new
from recycler.nouns.evaluation import SPLITS
from recycler.submit.config import StudyFile, parse_study

_WIDTH = 100  # longest line with a comment behind it


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """One objective of a draft.

    Attributes:
        name: of the objective.
        task: the evaluator's task.
        metric: with the filter, if the task has several.
        direction: max or min, as the task says.
        written: whether the file must say the direction, because the task does not.
        others: further metrics of the task.
        sizes: split -> number of items.
        of: number of the task's items.
    """

    name: str
    task: str
    metric: str
    direction: str
    written: bool = False
    others: tuple[str, ...] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)
    of: int = 0

    @property
    def entry(self) -> dict[str, Any]:
        """The objective as the study file has it."""
        named = {} if self.task in ("", self.name) else {"task": self.task}
        directed = {"direction": self.direction} if self.written else {}
        return {"name": self.name, **named, "metric": self.metric, **directed}

    @property
    def comment(self) -> str:
        better = {"max": "higher is better", "min": "lower is better"}[self.direction]
        items = (
            f"; {', '.join(f'{self.sizes[s]} {s}' for s in SPLITS)} of {self.of} items"
            if self.of
            else ""
        )
        others = f"; it also has {', '.join(self.others)}" if self.others else ""
        return f"{better}{items}{others}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """Everything that a study file says, before it is written. Paths are as they will be written.

    Attributes:
        file: the study file that will be written.
        study: name of the study.
        checkpoints: name, path and metadata of each.
        base: the same of the common ancestor, if there is one.
        goals: the searched objectives.
        held_out: objectives that are only reported.
        items: dev, select, test, seed.
        tasks: folder of tasks; empty: lm-eval's own.
        why: reasons in words, by setting: base, items, batch, chat, dtype, workers.
    """

    file: Path
    study: str
    checkpoints: tuple[Mapping[str, Any], ...]
    base: Mapping[str, Any] | None
    goals: tuple[Goal, ...]
    held_out: tuple[Goal, ...]
    items: Mapping[str, int]
    tasks: str
    batch_size: int
    chat: bool
    allow_unsafe: bool
    dtype: str
    evaluations: int
    workers: int
    device: str
    why: Mapping[str, str]

    def text(self) -> str:
        """The study file."""
        return (
            "\n".join([*self._pool(), *self._objectives(), *self._scoring(), *self._search()])
            + "\n"
        )

    def config(self) -> StudyFile:
        """The text, read as `recycler run` will read it."""
        return parse_study(yaml.safe_load(self.text()), str(self.file))

    def write(self) -> None:
        """Write the file, whole and only if the name is free (see `files.write_new`)."""
        self.config()
        write_new(self.file, self.text().encode())

    def to_json(self) -> dict[str, Any]:
        """What was decided, and why."""
        return {**asdict(self), "file": str(self.file)}

    def _pool(self) -> list[str]:
        return [
            "# Written by `recycler init` from the folders' own files; every line may be changed.",
            "# Relative paths start at this file. configs/template.yaml explains every key.",
            f"study: {self.study} # name in the ledger; the same file resumes the study",
            "",
            "pool: # run, step, parent and the rest are metadata from the folders' own files",
            *(f"  - {_flow(entry)}" for entry in self.checkpoints),
            _said(f"base: {_flow(self.base) if self.base else 'null'}", self.why["base"]),
            "",
        ]

    def _objectives(self) -> list[str]:
        held_out = [_goal(goal) for goal in self.held_out]
        return [
            "objectives: # the search sees these, on dev items only (items are dev/select/test)",
            *(_goal(goal) for goal in self.goals),
            *(["held_out: # scored once, on test items; the search never sees them", *held_out]
              if held_out else ["held_out: [] # objectives that are only reported, never searched"]),
            "",
            _said(f"items: {_flow(self.items)}", self.why["items"]),
            "",
        ]  # fmt: skip

    def _scoring(self) -> list[str]:
        return [
            "evaluator:",
            "  kind: lm-eval",
            f"  tasks: {_flow(self.tasks)} # "
            + (
                "folder of tasks, then lm-eval's own"
                if self.tasks
                else "empty: lm-eval's own tasks"
            ),
            _said(f"  batch_size: {self.batch_size}", self.why["batch"]),
            "  max_length: null # longest sequence [tokens]; null: the model's",
            "  num_fewshot: null # null: each task's own number",
            _said(f"  apply_chat_template: {_flow(self.chat)}", self.why["chat"]),
            f"  allow_unsafe_code: {_flow(self.allow_unsafe)} # may tasks run what a model writes?",
            "",
            _said(f"merge: {_flow({'method': 'linear', 'dtype': self.dtype})}", self.why["dtype"]),
            "",
        ]

    def _search(self) -> list[str]:
        gpus = ["  gpus: 1 # accelerators of each worker"] if self.spread_over_gpus else []
        return [
            "search:",
            "  sampler: auto",
            f"  evaluations: {self.evaluations} # merges to score, besides the single checkpoints",
            f"  finalists: {max(4, self.evaluations // 3)} # a third of the budget, scored again on "
            "select items",
            "  seed: 0",
            "",
            f"execution: # may change from run to run. {_line(self.why['workers'])}",
            f"  workers: {self.workers} # merges evaluated at the same time",
            f"  device: {self.device}",
            *gpus,
        ]

    @property
    def spread_over_gpus(self) -> bool:
        """Whether workers are placed on accelerators of their own."""
        return self.device == "cuda" and self.workers > 1


def shorter(path: Path, root: Path) -> str:
    """A path as a study file in `root` may say it: relative if that is shorter and means the same."""
    whole = str(path)
    relative = os.path.relpath(path, root)
    if len(relative) >= len(whole) or relative.startswith("~"):
        return whole
    try:
        same = os.path.samefile(root / relative, path)  # `..` behind a link leads elsewhere
    except OSError:
        return whole
    return relative if same else whole


def _goal(goal: Goal) -> str:
    return _said(f"  - {_flow(goal.entry)}", goal.comment)


def _flow(value: Any) -> str:
    """A value as YAML on one line."""
    text = yaml.safe_dump(
        _plain(value), default_flow_style=True, sort_keys=False, width=10**9, allow_unicode=True
    )
    return text.removesuffix("\n").removesuffix("\n...")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    return (
        [_plain(entry) for entry in value]
        if isinstance(value, Sequence) and not isinstance(value, str)
        else value
    )


def _said(line: str, why: str) -> str:
    """A line and its comment: behind it if both are short, else above it."""
    why, indent = _line(why), line[: len(line) - len(line.lstrip())]
    if len(line) + len(why) <= _WIDTH:
        return f"{line} # {why}"
    return "\n".join([*(f"{indent}# {part}" for part in wrap(why, _WIDTH - len(indent))), line])


def _line(text: str) -> str:
    """Text for a comment: one line, without control characters."""
    return printable(" ".join(text.split()))

"""Study files: YAML, validated field by field and turned into nouns."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from recycler.errors import InvalidConfig
from recycler.evaluate.items import DEFAULT_ITEMS
from recycler.evaluate.kinds import checked_settings
from recycler.nouns.objectives import Objective, Objectives
from recycler.yamlfile import read_yaml


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class CheckpointEntry(BaseModel):
    """One checkpoint of a pool; all unknown keys are kept as metadata."""

    model_config = ConfigDict(frozen=True, extra="allow")
    name: str = ""
    path: str


class ReferenceEntry(_Section):
    """A further baseline: a model in a folder, weights on the pool, or a recipe file."""

    name: str = Field(min_length=1, max_length=100)
    path: str = ""
    weights: dict[str, float] = Field(default_factory=dict)
    recipe: str = ""

    @model_validator(mode="after")
    def _one_of_three(self) -> "ReferenceEntry":
        given = [key for key in ("path", "weights", "recipe") if getattr(self, key)]
        if len(given) != 1:
            found = " and ".join(given) or "none of them"
            raise ValueError(f"expected one of path, weights and recipe, found {found}")
        return self


class ObjectiveEntry(_Section):
    """One objective; see `objectives.Objective` for the meaning of each key."""

    name: str
    metric: str = "acc"
    direction: Literal["", "max", "min"] = ""
    unit: str = ""
    task: str = ""
    scale: float | None = None
    cluster: str = ""
    floor: float | str | None = None
    weight: float = 1.0


class ItemsSection(_Section):
    """Number of items of every task in each split, and the seed of the split."""

    dev: float = Field(DEFAULT_ITEMS["dev"], gt=0)
    select: float = Field(DEFAULT_ITEMS["select"], gt=0)
    test: float = Field(DEFAULT_ITEMS["test"], gt=0)
    seed: int = Field(DEFAULT_ITEMS["seed"], ge=0, lt=2**32)

    @field_validator("dev", "select", "test")
    @classmethod
    def _counts_or_shares(cls, size: float) -> float:
        if size >= 1 and size != int(size):
            raise ValueError("expected a whole number of items, or a share between 0 and 1")
        return int(size) if size >= 1 else size

    @model_validator(mode="after")
    def _shares_fit(self) -> "ItemsSection":
        shares = [size for size in (self.dev, self.select, self.test) if size < 1]
        if sum(shares) > 1 + 1e-9:
            raise ValueError(
                f"the shares of a task's items sum to {sum(shares):g}, expected at most 1"
            )
        return self


class EvaluatorSection(BaseModel):
    """The kind of evaluator; all other keys are its own settings, validated by its own model."""

    model_config = ConfigDict(frozen=True, extra="allow")
    kind: str = "lm-eval"

    @property
    def settings(self) -> dict[str, Any]:
        """The evaluator's own settings, as written."""
        return dict(self.model_extra or {})


class MergeSection(_Section):
    """Merge method, its parameters, and the dtype in which merges are evaluated and exported."""

    method: str = "linear"
    dtype: str = ""
    settings: dict[str, Any] = Field(default_factory=dict)


class SearchSection(_Section):
    """The sampler, its budget and its options."""

    sampler: str = "auto"
    evaluations: int = Field(50, ge=0)
    greedy: bool = True
    leave_one_out: bool = False
    seed: int = Field(0, ge=0, lt=2**32)
    finalists: int = Field(24, ge=1)
    failed_share: float = Field(0.5, ge=0, le=1)
    racing: bool | dict[str, Any] = False
    fill: float = Field(0.0, ge=0, le=1)
    space: dict[str, Any] = Field(default_factory=dict)
    stop_gain: float = Field(0.0, ge=0, le=1)
    warm_start: list[str] = Field(default_factory=list)
    settings: dict[str, Any] = Field(default_factory=dict)


class ExecutionSection(BaseModel):
    """Where jobs run, and whether answers are kept; may change between runs of one study.

    Every other key is a setting of the executor, validated by `workspace.executor_of`.
    """

    model_config = ConfigDict(frozen=True, extra="allow", strict=True, allow_inf_nan=False)
    executor: str = ""
    workers: int = Field(1, ge=1)
    device: str = "cpu"
    keep_answers: bool | Literal["auto"] = "auto"

    @property
    def keeps_answers(self) -> bool | None:
        """None: kept up to a size that the run prints."""
        return None if self.keep_answers == "auto" else self.keep_answers

    def own(self) -> dict[str, Any]:
        """The executor's settings, as the user wrote them."""
        return {"workers": self.workers, **(self.model_extra or {})}


class StudyFile(_Section):
    """A whole study file."""

    study: str = Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    pool: str | list[CheckpointEntry | str]
    base: CheckpointEntry | str | None = None
    objectives: list[ObjectiveEntry] = Field(min_length=1)
    held_out: list[ObjectiveEntry] = Field(default_factory=list)
    candidates: list[ObjectiveEntry] = Field(default_factory=list)
    references: list[ReferenceEntry] = Field(default_factory=list)
    items: ItemsSection = ItemsSection()
    evaluator: EvaluatorSection = EvaluatorSection()
    merge: MergeSection = MergeSection()
    search: SearchSection = SearchSection()
    execution: ExecutionSection = ExecutionSection()

    def asked_objectives(self) -> Objectives:
        """Searched objectives, then held-out ones; a missing direction is left to the task."""
        listed = [(entry, False) for entry in self.objectives]
        listed += [(entry, True) for entry in self.held_out]
        return Objectives(tuple(_objective(entry, held_out) for entry, held_out in listed))

    @property
    def roles(self) -> dict[str, str]:
        """Objective -> `searched`, `held out` or `candidate`, in the order of the file."""
        lists = {
            "searched": self.objectives,
            "held out": self.held_out,
            "candidate": self.candidates,
        }
        return {entry.name: role for role, entries in lists.items() for entry in entries}

    def all_objectives(self) -> Objectives:
        """The same with default directions, for an evaluator that gives none."""
        return self.asked_objectives().directed({})

    def pool_entries(self) -> list[dict[str, Any]]:
        """The checkpoints listed in the file; empty if `pool` names a registered pool."""
        return [] if isinstance(self.pool, str) else [_entry(entry) for entry in self.pool]

    def base_entry(self) -> dict[str, Any] | None:
        return _entry(self.base) if self.base else None

    def evaluator_settings(self, root: Path) -> dict[str, Any]:
        """Arguments of the evaluator: `kind`, the `root` of relative paths, and its own settings."""
        checked = checked_settings(self.evaluator.kind, self.evaluator.settings)
        own = checked.model_dump(mode="json", exclude_defaults=True)
        return {"kind": self.evaluator.kind, "root": str(root), **own}


def read_study(file: str | os.PathLike[str]) -> StudyFile:
    """Read and check a study file.

    Raises:
        NotFound: there is no such file.
        InvalidConfig: a field is wrong; the message says which, what was found and what was
            expected.
    """
    path = Path(file)
    table = read_yaml(path, "study file", "start from configs/template.yaml.")
    if not isinstance(table, dict):
        raise InvalidConfig(
            f"{path} holds {type(table).__name__}, expected a table of settings.",
            hint="start from configs/template.yaml.",
        )
    return parse_study(table, str(path))


@dataclass(frozen=True, slots=True)
class StudyDocument:
    """A study file as it was read, or the same content from elsewhere.

    Attributes:
        config: its content.
        root: folder that its relative paths start from.
    """

    config: StudyFile
    root: Path


# What functions that take a study accept: the path of its file, or the document itself.
StudySource = str | os.PathLike[str] | StudyDocument


def read_document(source: StudySource) -> StudyDocument:
    """The document of a study file; a document is returned as it is.

    Raises:
        NotFound: there is no such file.
        InvalidConfig: a field is wrong.
    """
    if isinstance(source, StudyDocument):
        return source
    return StudyDocument(read_study(source), Path(source).absolute().parent)


def parse_study(table: Mapping[str, Any], source: str = "study") -> StudyFile:
    """Validate a study given as plain data."""
    try:
        study = StudyFile.model_validate(table)
    except ValidationError as error:
        wrong = _by_place(error)
        place, first = next(iter(wrong.items()))
        where = ".".join(map(str, place)) or "the file"
        found = f", found {first['input']!r}" if first["type"] != "missing" else ""
        more = f" ({len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise InvalidConfig(
            f"{source}: {where}: {first['msg']}{found}{more}.",
            hint="configs/template.yaml explains every key.",
        ) from error
    checked_settings(study.evaluator.kind, study.evaluator.settings, f"{source}: evaluator")
    return study


def _by_place(error: ValidationError) -> dict[tuple[int | str, ...], Any]:
    """Pydantic's errors by their place in the file, without its names for the branches of a union.

    Of a union's branches only the one that matched furthest is reported.
    """
    complaints = error.errors()
    places = [tuple(part for part in c["loc"] if not _is_branch(part)) for c in complaints]
    wrong: dict[tuple[int | str, ...], Any] = {}
    for place, complaint in zip(places, complaints, strict=True):
        if not any(len(other) > len(place) and other[: len(place)] == place for other in places):
            wrong.setdefault(place, complaint)
    return wrong


def _is_branch(part: int | str) -> bool:
    return part in ("str", "CheckpointEntry") or str(part).startswith("list[")


def _objective(entry: ObjectiveEntry, held_out: bool) -> Objective:
    given = entry.model_dump()
    if not entry.metric.startswith("merge."):
        given["direction"] = entry.direction or "task"
    return Objective(**given, held_out=held_out)


def _entry(entry: CheckpointEntry | str) -> dict[str, Any]:
    return {"path": entry} if isinstance(entry, str) else entry.model_dump()

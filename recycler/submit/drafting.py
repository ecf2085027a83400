"""Drafting: from folders and names of tasks to a study file that runs as it is."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recycler.checkpoints.findings import ERROR, Finding
from recycler.checkpoints.folder import absolute, real_path
from recycler.checkpoints.lineage import (
    Lineage,
    guess_base,
    lineage,
    names_of,
    origins,
)
from recycler.checkpoints.pool import Pool, check_folders
from recycler.checkpoints.tokenizers import template_of
from recycler.errors import InvalidConfig
from recycler.evaluate.items import DEFAULT_ITEMS, split_sizes
from recycler.evaluate.offers import Offer, offers
from recycler.execute.machine import Load, Machine, longest_of, sized
from recycler.files import taken
from recycler.nouns.evaluation import SPLITS
from recycler.submit.config import StudyFile
from recycler.submit.draft import Draft, Goal, shorter
from recycler.submit.submission import measures
from recycler.submit.workspace import executor_of

DEV, TEST = 250, 500  # items of dev and select, and least of test, where tasks have as many
FEW = 50  # dev items below which the draft says that they are few
Choose = Callable[[Offer], str]  # the metric of a task that has several


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a user asks `init` for; all but folders and one objective has a default.

    Attributes:
        folders: the checkpoints; the base may be among them.
        tasks: `task` or `task:metric[,filter][:max|min]`; see `asked`.
        held_out: the same, only reported.
        out: the study file.
        include: folder of tasks; None: lm-eval's own.
        base: common ancestor; None: guessed from the folders' files.
        study: name of the study; empty: after the file or the folder of the checkpoints.
        evaluations: budget of the search.
        dtype: dtype of the merges; None: that of the checkpoints, if this processor is quick in it.
        allow_unsafe: whether tasks may run code that a model writes.
    """

    folders: Sequence[Path]
    tasks: Sequence[str]
    held_out: Sequence[str] = ()
    out: Path = Path("study.yaml")
    include: Path | None = None
    base: Path | None = None
    study: str = ""
    evaluations: int = 50
    dtype: str | None = None
    allow_unsafe: bool = False

    @classmethod
    def of(
        cls,
        folders: Sequence[Path],
        *,
        tasks: str = "",
        objectives: str = "",
        held_out: str = "",
        include_path: Path | None = None,
        name: str = "",
        allow_unsafe_code: bool = False,
        **others: Any,
    ) -> "Wanted":
        """From the options of `recycler init`, with lists separated by commas."""
        return cls(
            folders=folders,
            tasks=asked(tasks, objectives),
            held_out=asked(held_out),
            include=include_path,
            study=name,
            allow_unsafe=allow_unsafe_code,
            **others,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawer:
    """The folders, opened and checked.

    Attributes:
        pool: those that can be opened, with their new names; None if there is none.
        findings: of the check.
        about: name -> metadata.
        why_base: why there is this base, or none.
    """

    pool: Pool | None
    findings: tuple[Finding, ...]
    about: Mapping[str, Mapping[str, Any]]
    why_base: str

    @property
    def mergeable(self) -> bool:
        return self.pool is not None and all(f.severity != ERROR for f in self.findings)


@dataclass(frozen=True, slots=True)
class Done:
    """What `init` found and wrote; no draft: the folders can't be merged, and nothing is written."""

    drawer: Drawer
    draft: Draft | None


def init(wanted: Wanted, choose: Choose | None = None) -> Done:
    """Check the folders, and write their study file if they can be merged (see `drafted`)."""
    if os.path.lexists(wanted.out):
        raise taken(absolute(wanted.out))
    drawer = open_drawer(wanted.folders, wanted.base)
    if not drawer.mergeable:
        return Done(drawer, None)
    draft = drafted(wanted, drawer, choose)
    draft.write()
    return Done(drawer, draft)


def asked(tasks: str, by_hand: str = "") -> list[str]:
    """The objectives of two comma-separated lists; the second replaces entries of the first.

    Args:
        tasks: `task` or `task:metric` or `task:metric:min`.
        by_hand: the same, each with its metric; a part without a colon is the filter of the metric
            before it, as in `gsm8k:exact_match,strict-match,chat:acc_norm`.
    """
    made: list[str] = []
    for part in (part.strip() for part in by_hand.split(",")):
        if part and made and ":" not in part:
            made[-1] += f",{part}"
        elif part:
            made.append(part)
    fixed = {entry.partition(":")[0] for entry in made}
    plain = [part.strip() for part in tasks.split(",") if part.strip()]
    return [*(part for part in plain if part.partition(":")[0] not in fixed), *made]


def open_drawer(folders: Sequence[Path], base: Path | None) -> Drawer:
    """Open, name and check folders; find the base that most of them name, unless one is given.

    A base that is among the folders leaves the pool. A guessed one that can't be merged with the
    others is dropped, and the reason says so.
    """
    places = list(dict.fromkeys(absolute(folder) for folder in folders))
    told = [lineage(place) for place in places]
    parents = origins(places, told)
    guess = None if base else guess_base(places, told, parents)
    ancestor = absolute(base) if base else guess[0] if guess else None
    why = "given with --base" if base else guess[1] if guess else _NO_BASE
    found = _checked(places, told, parents, ancestor, why)
    if guess and ancestor and (not found.mergeable or found.pool is None or found.pool.n < 2):
        dropped = f"{ancestor.name} is named as the base, but can't be one"
        without = _checked(places, told, parents, None, dropped)
        return without if without.mergeable else found
    return found


_NO_BASE = (
    "common ancestor, needed by task-vector methods such as ties; no file names one that is here"
)


def _checked(
    places: Sequence[Path],
    told: Sequence[Lineage],
    parents: Sequence[Path | str | None],
    ancestor: Path | None,
    why: str,
) -> Drawer:
    rows = zip(places, told, parents, strict=True)
    kept = [row for row in rows if ancestor is None or real_path(row[0]) != real_path(ancestor)]
    if len(kept) < len(places):
        why += "; it was among the folders and left the pool: list it there too to mix it in"
    folders = [place for place, *_ in kept]
    everything = [*folders, *([ancestor] if ancestor else [])]
    names = names_of(everything)
    pool, findings = check_folders(folders, ancestor, names)
    label = {real_path(place): name for place, name in zip(everything, names, strict=True)}
    about = {}
    for name, (_, said, parent) in zip(names, kept, strict=False):
        known = label.get(parent, str(parent)) if isinstance(parent, Path) else parent
        about[name] = {**said.about, **({"parent": known} if known else {})}
    return Drawer(pool=pool, findings=findings, about=about, why_base=why)


def drafted(wanted: Wanted, drawer: Drawer, choose: Choose | None = None) -> Draft:
    """The study file for checked folders: everything in it was tried, except a merge.

    Args:
        wanted: what the user asked for.
        drawer: the folders; they must be mergeable.
        choose: asks which metric of a task counts; None: the preferred one.

    Raises:
        NotFound: a task (with the nearest names), or its data.
        InvalidConfig: too few checkpoints, a group, a metric that the task does not have.
    """
    pool, out = require_two(drawer), absolute(wanted.out)
    goals = [_parts(text) for text in wanted.tasks]
    held = [_parts(text) for text in wanted.held_out]
    if not goals:
        raise InvalidConfig(
            "no task is given.", hint="name what merges shall be good at: --tasks A,B,C."
        )
    include = absolute(wanted.include) if wanted.include else None
    first = pool.checkpoints[0]
    tasks = [task for task, *_ in (*goals, *held)]
    known = offers(tasks, include, out.parent, wanted.allow_unsafe, first.path)
    items, why_items = _items(known)
    taken_names: set[str] = set()
    made = [_goal(parts, known, items, choose, taken_names) for parts in (*goals, *held)]
    chat, why_chat = _chat(pool)
    machine = Machine.here()
    dtype, why_dtype = _dtype(wanted.dtype, first.dtype, machine)
    bytes_each = first.nbytes * (2 if dtype == "float32" and first.dtype != "float32" else 1)
    longest = min(max(offer.longest for offer in known.values()), longest_of(first.config))
    sizing = sized(machine, Load.of(first.config, bytes_each, longest), wanted.evaluations)
    draft = Draft(
        file=out,
        study=wanted.study or _study_name(out, pool),
        checkpoints=tuple(_entry(c, drawer, out.parent) for c in pool.checkpoints),
        base=_entry(pool.base, drawer, out.parent) if pool.base else None,
        goals=tuple(made[: len(goals)]),
        held_out=tuple(made[len(goals) :]),
        items=items,
        tasks=shorter(include, out.parent) if include else "",
        batch_size=sizing.batch,
        chat=chat,
        allow_unsafe=wanted.allow_unsafe,
        dtype=dtype,
        evaluations=wanted.evaluations,
        workers=sizing.workers,
        device=sizing.device,
        why={
            "base": drawer.why_base,
            "items": why_items,
            "chat": why_chat,
            "dtype": why_dtype,
            "batch": sizing.why_batch,
            "workers": sizing.why_workers,
        },
    )
    _try(draft.config(), out.parent)
    return draft


def require_two(drawer: Drawer) -> Pool:
    """The pool, if it has something to merge."""
    if drawer.pool is None or drawer.pool.n < 2:
        raise InvalidConfig(
            "one checkpoint alone has nothing to be merged with.",
            hint="give at least two folders of one architecture, besides the base.",
        )
    return drawer.pool


def _try(config: StudyFile, root: Path) -> None:
    """Open and load what the study file names, as `recycler run` will: paths, tasks, metrics."""
    pool = Pool.from_entries(config.study, config.pool_entries(), config.base_entry(), root)
    executor_of(config.execution)
    asked_for = config.asked_objectives()
    measured = measures(
        asked_for, config.evaluator_settings(root), config.items.model_dump(), pool
    )
    asked_for.directed(measured)


def _parts(text: str) -> tuple[str, str, str]:
    """Task, metric and direction of `task[:metric[:direction]]`."""
    task, _, rest = text.partition(":")
    metric, _, direction = rest.partition(":")
    if not task or direction not in ("", "max", "min"):
        raise InvalidConfig(
            f"{text!r} is no objective.",
            hint="write task, task:metric or task:metric:min, such as code:exact_match.",
        )
    return task, metric, direction


def _goal(
    parts: tuple[str, str, str],
    known: Mapping[str, Offer],
    items: Mapping[str, int],
    choose: Choose | None,
    used: set[str],
) -> Goal:
    task, metric, direction = parts
    offer = known[task]
    asks = choose is not None and not metric and len(offer.metrics) > 1
    chosen = offer.metric(metric or (choose(offer) if asks and choose else offer.metrics[0].name))
    if direction and chosen.direction and direction != chosen.direction:
        raise InvalidConfig(
            f"{task}:{chosen.name}:{direction}, and the task says {chosen.direction!r}.",
            hint="leave the direction out.",
        )
    if not (direction or chosen.direction):
        raise InvalidConfig(
            f"task {task!r} does not say whether a higher {chosen.name} is better.",
            hint=f"say it: --objectives {task}:{chosen.name}:max, or :min.",
        )
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", task)
    name = name if name[:1].isalpha() else f"task-{name}"
    if name in used:
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{name}-{chosen.name}")
    used.add(name)
    return Goal(
        name=name,
        task=task,
        metric=chosen.name,
        direction=direction or chosen.direction,
        written=not chosen.direction,
        others=tuple(m.name for m in offer.metrics if m.name != chosen.name),
        sizes=split_sizes(max(offer.items, 3), items),
        of=offer.items,
    )


def _items(known: Mapping[str, Offer]) -> tuple[dict[str, int], str]:
    """Items of each split, for all tasks, and why.

    Where all tasks have enough, 250 are for dev and for select, and up to 1000 for test. A smaller
    task is divided in the same proportion, so it does not take items from larger ones.
    """
    least = min(known.values(), key=lambda offer: offer.items)
    test = max(TEST, min(int(DEFAULT_ITEMS["test"]), least.items - 2 * DEV))
    items = {"dev": DEV, "select": DEV, "test": test, "seed": 0}
    sizes = split_sizes(max(least.items, 3), items)
    shared = ", ".join(f"{sizes[split]} {split}" for split in SPLITS)
    if sizes["dev"] == DEV:
        why = f"every task has as many: the smallest, {least.task}, has {least.items}"
    else:
        why = (
            "these are upper limits; a smaller task is divided in their proportion: "
            f"{least.task}, the smallest, has {least.items} items, so {shared}"
        )
    if sizes["dev"] < FEW:
        error = 50 / sizes["dev"] ** 0.5
        why += (
            f"; that is few: a share of {sizes['dev']} items has a standard error of up to "
            f"{error:.0f} points"
        )
    return items, why


def _chat(pool: Pool) -> tuple[bool, str]:
    """Whether prompts go into the chat template: that of the first checkpoint, if most have one."""
    have = [bool(template_of(checkpoint)[1]) for checkpoint in pool.checkpoints]
    count, n = sum(have), pool.n
    if have[0] and count * 2 > n:
        who = "all checkpoints have one" if count == n else f"{count} of {n} checkpoints have one"
        return True, f"{who}: prompts go into it; false for plain prompts"
    if not count:
        return False, "no checkpoint has one"
    first = "" if have[0] else f", and merges use the tokenizer of {pool.names[0]}, which has none"
    return False, f"{count} of {n} checkpoints have one{first}"


def _dtype(given: str | None, own: str, machine: Machine) -> tuple[str, str]:
    if given is not None:
        return given, "dtype as given; merges are evaluated and exported in it"
    slow = own in ("bfloat16", "float16") and not machine.accelerators and own not in machine.quick
    if slow:
        return "float32", (
            f"the checkpoints are {own}, which this processor computes several times slower; merges "
            'are evaluated and exported in this dtype; "" keeps theirs'
        )
    return (
        "",
        f"empty dtype: that of the checkpoints ({own}), in which merges are scored and exported",
    )


def _entry(checkpoint: Any, drawer: Drawer, root: Path) -> dict[str, Any]:
    about = drawer.about.get(checkpoint.name, {})
    return {"name": checkpoint.name, "path": shorter(checkpoint.path, root), **about}


def _study_name(out: Path, pool: Pool) -> str:
    """After the file, unless it is called study.yaml; else after the folder of the checkpoints."""
    common = Path(os.path.commonpath([c.path.parent for c in pool.checkpoints]))
    for name in (out.stem if out.stem != "study" else "", common.name, "study"):
        plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")[:100]
        if plain:
            return plain
    return "study"

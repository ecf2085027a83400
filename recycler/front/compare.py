"""Comparison of trials: paired differences, items gained and lost, and the items that differ.

Letters: r rivals.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import numpy as np

from recycler.errors import InvalidConfig, NotFound
from recycler.front.naming import named
from recycler.front.paired import Difference, common_split, differences
from recycler.front.results import Results
from recycler.nouns.answers import Answers
from recycler.nouns.evaluation import SPLITS, Outcomes, Split
from recycler.nouns.measure import TOGETHER
from recycler.nouns.objectives import Objective
from recycler.nouns.trial import State, Trial


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A difference in one objective, and on how many items it rests.

    Attributes:
        difference: merge minus rival, with its interval (see `front.paired`).
        rival: the trial that the merge is compared with.
        items: number of items that both were scored on.
        gained: number of these on which the merge is better; None: the score has no value per item.
        lost: number of these on which it is worse.
    """

    difference: Difference
    rival: Trial
    items: int
    gained: int | None
    lost: int | None

    def to_json(self) -> dict[str, Any]:
        """The change as plain data."""
        found = self.difference.to_json()
        counts = {"items": self.items, "gained": self.gained, "lost": self.lost}
        return {**found, "rival_name": self.rival.name, **counts}


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A trial against r others, on items of one split that all of them are scored on.

    Attributes:
        results: the study.
        split: dev, select or test.
        trials: the merge, then its rivals.
        changes: for each objective one entry for each rival; searched objectives first.
    """

    results: Results
    split: str
    trials: tuple[Trial, ...]
    changes: tuple[Change, ...]

    @property
    def optimistic(self) -> bool:
        """Whether the search or the choice has used these items."""
        return self.split != Split.TEST

    @property
    def missing(self) -> list[str]:
        """Objectives that not all of the trials are scored on, on this split."""
        shown = {change.difference.objective.name for change in self.changes}
        return [o.name for o in self.results.plan.objectives if o.name not in shown]

    def items(self, task: str, every: bool = False) -> "Items":
        """The items of a task that differ, with answers where they were kept (see `items_of`)."""
        return items_of(self, task, every)

    def to_json(self) -> dict[str, Any]:
        """The comparison as `recycler compare --json` prints it."""
        return {
            "study": self.results.name,
            "event": self.results.event,
            "split": self.split,
            "trials": [{"trial": t.number, "name": t.name} for t in self.trials],
            "differences": [change.to_json() for change in self.changes],
            "missing": self.missing,
            "looked_at": self.results.looked_at,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One item and what each trial made of it.

    Attributes:
        id: the evaluator's id of the item.
        difference: outcome of the merge minus that of its best rival, in the unit of the outcomes;
            positive is better.
        outcomes: (1 + r,) outcome of each trial, in the metric's unit.
        prompt: what was asked; None: no answers were kept.
        target: the right answer, in the same way.
        answers: (1 + r,) `{"text", "raw", "margin"}` of each trial; None: its answers were not kept.
    """

    id: int
    difference: float
    outcomes: tuple[float, ...]
    prompt: str | None
    target: str | None
    answers: tuple[Mapping[str, Any] | None, ...]

    def to_json(self) -> dict[str, Any]:
        """The item as plain data."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


@dataclass(frozen=True, slots=True, kw_only=True)
class Items:
    """Items of one objective in a comparison, those that differ most first.

    Attributes:
        objective: the objective.
        common: number of items that all trials were scored on.
        differing: number of these on which the outcomes differ.
        found: the chosen items.
        unkept: trials whose answers were not kept.
    """

    objective: Objective
    common: int
    differing: int
    found: tuple[Item, ...]
    unkept: tuple[Trial, ...]

    def to_json(self) -> dict[str, Any]:
        """All chosen items as plain data."""
        return {
            "objective": self.objective.name,
            "common": self.common,
            "differing": self.differing,
            "unkept": [trial.number for trial in self.unkept],
            "items": [item.to_json() for item in self.found],
        }


def compare(results: Results, names: Sequence[str], split: str = "") -> Comparison:
    """Compare the first of some trials with each of the others.

    Args:
        results: the study.
        names: two or more trials (see `naming.named`).
        split: dev, select or test; empty: the least used one on which all are scored.

    Raises:
        NotFound: a trial is unknown, or they share no scored items; the hint says what adds them.
        InvalidConfig: fewer than two trials, or one is named twice.
    """
    if len(names) < 2:
        raise InvalidConfig(
            "there is nothing to compare: fewer than two trials are given.",
            hint="give two or more, such as `pick` and `uniform`.",
        )
    trials = tuple(named(results, name) for name in names)
    numbers = [trial.number for trial in trials]
    if len(set(numbers)) < len(numbers):
        twice = next(n for n in numbers if numbers.count(n) > 1)
        raise InvalidConfig(
            f"{' and '.join(n for n, k in zip(names, numbers, strict=True) if k == twice)} are the "
            f"same trial, number {twice} ({results.trial(twice).name}).",
            hint="name two different ones.",
        )
    on = split or common_split(trials)
    for trial in trials:
        if on not in trial.evaluations:
            raise _unscored(results, trials, trial, on)
    plan, rivals = results.plan, trials[1:]
    found = differences(trials[0], rivals, plan.objectives, on, results.outcomes, plan.seed)
    rows = [_change(results, trials[0], difference, on) for difference in found]
    return Comparison(results=results, split=on, trials=trials, changes=tuple(rows))


def _change(results: Results, trial: Trial, difference: Difference, split: str) -> Change:
    rival, name = results.trial(difference.rival), difference.objective.name
    mine, theirs = (results.outcomes(t, split).get(name) for t in (trial, rival))
    items, gained, lost = min(difference.score.items, difference.against.items), None, None
    if mine and theirs:
        _, values = _common([mine, theirs])
        items = len(values[0])
        if _itemwise(results, name):
            better = difference.objective.sign * (values[0] - values[1])
            gained, lost = int((better > 0).sum()), int((better < 0).sum())
    return Change(difference=difference, rival=rival, items=items, gained=gained, lost=lost)


def items_of(comparison: Comparison, task: str, every: bool = False) -> Items:
    """The items of a task on which the trials' outcomes differ, those that differ most first.

    Args:
        comparison: the trials and the split.
        task: name of an objective or of its task.
        every: also the items that do not differ.

    Raises:
        NotFound: no such objective, or its scores came without a value per item.
    """
    results, split, trials = comparison.results, comparison.split, comparison.trials
    objective = _objective(comparison, task)
    found = [results.outcomes(trial, split).get(objective.name) for trial in trials]
    known = [outcomes for outcomes in found if outcomes is not None]
    if len(known) < len(found) or not _itemwise(results, objective.name):
        raise NotFound(
            f"objective {objective.name!r} has no value for each item: {objective.metric} is one "
            "number for all of them.",
            hint="its difference is in the table of `recycler compare` without --items.",
        )
    ids, values = _common(known)
    answers = [results.answers(trial, split, objective.name) for trial in trials]
    better = objective.sign * (values[0] - values[1:])  # (r, items)
    least = better.min(axis=0)
    differs = (values != values[0]).any(axis=0)
    order = sorted(
        range(len(ids)),
        key=lambda i: (-float(np.abs(better[:, i]).max()), float(least[i]), ids[i]),
    )
    chosen = [i for i in order if every or differs[i]]
    places = [{item: k for k, item in enumerate(outcomes.ids)} for outcomes in known]
    return Items(
        objective=objective,
        common=len(ids),
        differing=int(differs.sum()),
        found=tuple(
            _item(ids[i], float(least[i]), values[:, i], answers, [p[ids[i]] for p in places])
            for i in chosen
        ),
        unkept=tuple(t for t, kept in zip(trials, answers, strict=True) if kept is None),
    )


def _item(
    id_: int,
    difference: float,
    values: Any,
    answers: Sequence[Answers | None],
    places: Sequence[int],
) -> Item:
    asked = next(((a, k) for a, k in zip(answers, places, strict=True) if a), None)
    return Item(
        id=id_,
        difference=difference,
        outcomes=tuple(values.tolist()),
        prompt=asked[0].prompts[asked[1]] if asked else None,
        target=asked[0].targets[asked[1]] if asked else None,
        answers=tuple(_answer(a, k) if a else None for a, k in zip(answers, places, strict=True)),
    )


def _answer(answers: Answers, place: int) -> dict[str, Any]:
    return {
        "text": answers.texts[place],
        "raw": answers.raw[place] if answers.raw else answers.texts[place],
        "margin": answers.margins[place] if answers.margins else None,
    }


def _common(outcomes: Sequence[Outcomes]) -> tuple[list[int], Any]:
    """Ids of the items with a value in all, and (trials, items) their values."""
    rows = []
    for row in outcomes:
        weights = row.weights or (1.0,) * len(row.ids)
        entries = zip(row.ids, row.values, weights, strict=True)
        rows.append({i: value for i, value, weight in entries if weight > 0})
    shared = [i for i in outcomes[0].ids if all(i in row for row in rows)]
    return shared, np.array([[row[i] for i in shared] for row in rows]).reshape(len(rows), -1)


def _itemwise(results: Results, objective: str) -> bool:
    """Whether an outcome says how well that item was answered."""
    return results.plan.measures.get(objective, {}).get("scored") != TOGETHER


def _objective(comparison: Comparison, task: str) -> Objective:
    objectives = comparison.results.plan.objectives
    found = [o for o in objectives if o.name == task] or [o for o in objectives if o.task == task]
    if not found:
        names = [o.name for o in objectives]
        near = get_close_matches(task, names, n=3)
        raise NotFound(
            f"no objective or task {task!r} in study {comparison.results.name!r}.",
            hint=f"did you mean {', '.join(near)}?" if near else f"it has {', '.join(names)}.",
        )
    if len(found) > 1:
        raise InvalidConfig(
            f"{len(found)} objectives are scored on task {task!r}.",
            hint=f"name one of them: {', '.join(o.name for o in found)}.",
        )
    if found[0].name in comparison.missing:
        only = "; held-out objectives are scored on test items only" if found[0].held_out else ""
        raise NotFound(
            f"not all of these trials are scored on {found[0].name!r} on {comparison.split} items"
            f"{only}.",
            hint="compare trials that `recycler front` shows with test scores, or take another split "
            "with --split.",
        )
    return found[0]


def _unscored(results: Results, trials: Sequence[Trial], trial: Trial, split: str) -> NotFound:
    """What keeps the trials from being compared, and what to do about it."""
    trial = next((t for t in trials if not t.evaluations), trial)
    have = [s for s in SPLITS if s in trial.evaluations]
    shared = common_split(trials)
    if trial.state == State.FAILED:
        why = f"it failed: {trial.failure.message if trial.failure else 'without a reason'}"
        hint = f"`recycler show {results.name} {trial.number}` shows its details."
    elif trial.state == State.RUNNING:
        why = "it is not scored yet"
        hint = "wait for the run, or `recycler run` the study's file to go on with it."
    elif shared:
        why = f"it has scores on {' and '.join(have)} items only"
        hint = f"compare them on {shared} items: --split {shared}."
        if results.status["status"] != "complete":
            hint += f" The study is {results.status['status']}; `recycler run` its file to go on."
    else:
        why = "they share no split"
        hint = "`recycler run` the study's file to its end."
    what = f"{split} items" if split else "any items that the others are scored on"
    return NotFound(
        f"trial {trial.number} ({trial.name}) is not scored on {what}; {why}.", hint=hint
    )

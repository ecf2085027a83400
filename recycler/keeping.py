"""Kept answers: whether a run keeps what the merges answered, decided by size and said once."""

from collections.abc import Mapping
from dataclasses import replace

from recycler.nouns.evaluation import Evaluation, Split
from recycler.nouns.trial import Job

LIMIT = 200_000_000  # most bytes of answers to one split's items that are kept unasked
_KEPT = (Split.SELECT, Split.TEST)  # dev items are answered by every candidate of the search


class Keeping:
    """Decides on the first answers of a split whether those of all its merges are kept.

    Answers are part of no measure, so a run may keep them and the next one need not.
    """

    def __init__(self, wanted: bool | None = None) -> None:
        """With `wanted` None, they are kept up to LIMIT."""
        self._wanted = wanted
        self._decided: dict[str, bool] = {}

    def asks(self, split: str) -> bool:
        """Whether jobs on a split should return answers."""
        return split in _KEPT and self._wanted is not False and self._decided.get(split, True)

    def weigh(
        self, job: Job, found: Evaluation, merges: int, measures: Mapping[str, str]
    ) -> tuple[Evaluation, str]:
        """Keep the answers of an evaluation, or drop them.

        Args:
            job: the job that was done.
            found: its result, with answers.
            merges: number of merges that are scored on this split in this run.
            measures: objective -> id of its measure; answers belong to a measure.

        Returns:
            The evaluation, and what to tell the user; empty after the first time.
        """
        answers = {
            name: outcomes.answers
            for name, outcomes in found.outcomes.items()
            if outcomes.answers is not None and name in measures
        }
        if not answers:
            return found, ""
        said = ""
        if job.split not in self._decided:
            once = sum(len(kept.pack_asked()) for kept in answers.values())
            each = sum(len(kept.pack_given()) for kept in answers.values())
            total = once + each * merges
            self._decided[job.split] = self._wanted is True or total <= LIMIT
            said = _said(job.split, merges, total, self._decided[job.split])
        return (found if self.asks(job.split) else without_answers(found)), said


def without_answers(found: Evaluation) -> Evaluation:
    """The same evaluation without answers."""
    outcomes = {name: replace(o, answers=None) for name, o in found.outcomes.items()}
    return replace(found, outcomes=outcomes)


def _said(split: str, merges: int, total: int, kept: bool) -> str:
    about = f"answers of {merges} merges to {split} items: about {_size(total)}"
    if kept:
        return f"{about} are kept; `execution: {{keep_answers: false}}` turns it off."
    more = f"{about}, more than {_size(LIMIT)}: not kept"
    return f"{more}; `execution: {{keep_answers: true}}` keeps them."


def _size(count: int) -> str:
    return (
        f"{count / 1e6:,.0f} MB"
        if count >= 1e7
        else f"{count / 1e6:.1f} MB"
        if count >= 1e5
        else f"{count / 1e3:.0f} kB"
    )

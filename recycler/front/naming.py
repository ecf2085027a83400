"""Trials as users name them: by number, by name, or by what they are to the study."""

from difflib import get_close_matches

from recycler.errors import InvalidConfig, NotFound
from recycler.front import baselines
from recycler.front.results import Results
from recycler.nouns.trial import Kind, Trial

_PICKS = ("pick", "knee")


def named(results: Results, name: str) -> Trial:
    """Return the trial that a user means.

    Args:
        results: the study.
        name: a number (`17`), the name of a trial (`single:code-a`, `uniform`, `search 17`), the name
            of a checkpoint or reference alone (`code-a`), `greedy` for the greedy soup, `pick` for
            what `recycler pick` names, `knee` for the best balanced member of the front.

    Raises:
        NotFound: no trial is called so; the hint has the nearest names.
        InvalidConfig: several trials are called so.
    """
    if name.isdecimal():
        return results.trial(int(name))
    if name in _PICKS:
        return results.picked(knee=name == "knee")
    if name == Kind.GREEDY and (soup := baselines.greedy_soup(results.plan, results.trials)):
        return soup
    found = [trial for trial in results.trials if trial.name == name]
    found = found or [trial for trial in results.trials if trial.name.partition(":")[2] == name]
    found = found or _same_merge(results, name)
    if not found:
        raise _unknown(results, name)
    if len(found) > 1:
        raise InvalidConfig(
            f"{len(found)} trials of study {results.name!r} are called {name!r}.",
            hint=f"use a number: {', '.join(str(trial.number) for trial in found)}.",
        )
    return found[0]


def _same_merge(results: Results, name: str) -> list[Trial]:
    """The trial of a baseline that is the same merge as an earlier one and stands under its name."""
    proposed = baselines.proposals(results.plan, results.trials)
    wanted = next((p.recipe.id for p in proposed if p.name == name), "")
    return [trial for trial in results.trials if trial.recipe.id == wanted]


def _unknown(results: Results, name: str) -> NotFound:
    names = [*_PICKS, *(trial.name for trial in results.trials)]
    short = [n.partition(":")[2] or n for n in names]
    near = get_close_matches(name, dict.fromkeys([*names, *short]), n=3)
    said = f"did you mean {', '.join(near)}? " if near else ""
    last = len(results.trials) - 1
    return NotFound(
        f"study {results.name!r} has no trial called {name!r}.",
        hint=f"{said}Give a number from 0 to {last}, or a name that `recycler front "
        f"{results.name}` shows."
        if last >= 0
        else "it has no trials yet; run it first.",
    )

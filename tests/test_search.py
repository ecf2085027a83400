"""`search` on plain functions: what a function may return, and resuming after any stop."""

from pathlib import Path

import moocore
import numpy as np
import pytest
import torch
from contracts.sampler import bowls

import recycler.search.function
from recycler import RecyclerError, search
from recycler.errors import InvalidConfig
from recycler.nouns.evaluation import Score
from recycler.search.samplers import SAMPLERS
from recycler.store.sql import SqlStore

QUICK = {"samples": 8, "raw": 8, "maxiter": 3, "restarts": 1}


def ledger(url: str) -> list[tuple]:
    """Everything that a study's result depends on; how often a trial was begun is not."""
    store = SqlStore(url)
    trials = store.trials("search")
    store.close()
    return [
        (
            t.number,
            t.kind,
            t.name,
            t.recipe,
            t.state,
            t.notes,
            t.started,
            t.finished,
            t.means("dev"),
        )
        for t in trials
    ]


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_a_search_stopped_at_any_evaluation_goes_on_as_if_it_had_not_been(
    sampler: str, tmp_path: Path
) -> None:
    function, calls = bowls(3, 2), []

    def stopping(weights: np.ndarray) -> list[float]:
        calls.append(tuple(weights))
        if len(calls) == stop:
            raise KeyboardInterrupt
        return function(weights)

    options = {
        "sampler": sampler,
        "evaluations": 9,
        "seed": 4,
        "settings": QUICK if sampler == "nehvi" else {},
    }
    stop, whole = 0, f"sqlite:///{tmp_path}/whole.db"
    search(stopping, 3, ["max", "max"], store=whole, **options)
    undisturbed, wanted = ledger(whole), list(calls)
    assert len(wanted) >= 13
    stops = range(1, len(wanted) + 1) if sampler not in ("nehvi", "gp") else (1, 4, 8, len(wanted))
    for stop in stops:
        calls.clear()
        url = f"sqlite:///{tmp_path}/stopped-{stop}.db"
        with pytest.raises(KeyboardInterrupt):
            search(stopping, 3, ["max", "max"], store=url, **options)
        search(stopping, 3, ["max", "max"], store=url, **options)
        assert calls == [*wanted[:stop], *wanted[stop - 1 :]]  # only the stopped one again
        assert ledger(url) == undisturbed


def test_the_package_and_the_function_are_one() -> None:
    function = bowls(2, 1)
    for call in (search, recycler.search, recycler.search.function.search):
        assert call(function, 2, ["max"], sampler="dirichlet", evaluations=1).members


@pytest.mark.parametrize(
    ("returned", "mean", "stderr", "items"),
    [
        (0.3, 0.3, 0.0, 0),
        ((0.3, 0.1), 0.3, 0.1, 0),
        ([0.0, 1.0, 1.0, 0.0], 0.5, np.sqrt(1 / 3) / 2, 4),  # sample variance 1/3 over 4 items
        (np.array([0.0, 1.0, 1.0, 0.0]), 0.5, np.sqrt(1 / 3) / 2, 4),
    ],
)
def test_a_function_returns_means_pairs_or_items(
    returned: object, mean: float, stderr: float, items: int
) -> None:
    front = search(lambda w: [returned], 1, ["min"], sampler="dirichlet", evaluations=0)
    score = front.trials[0].evaluations["dev"].scores["f0"]
    assert (score.mean, score.items) == (mean, items)
    assert score.stderr == pytest.approx(stderr, rel=1e-15)


@pytest.mark.parametrize(
    ("returned", "mean", "stderr"),
    [
        (0.25, 0.25, 0),
        (np.float32(0.25), 0.25, 0),
        (np.array(0.25), 0.25, 0),
        (torch.tensor(0.25), 0.25, 0),
        (Score(0.25, 0.1, 4), 0.25, 0.1),
        ((0.25, 0.1), 0.25, 0.1),
        (np.array([0.25]), 0.25, 0),
    ],
)
def test_with_one_direction_the_value_may_be_returned_as_it_is(
    returned: object, mean: float, stderr: float
) -> None:
    front = search(lambda w: returned, 2, ["min"], sampler="dirichlet", evaluations=1)
    score = front.trials[0].evaluations["dev"].scores["f0"]
    assert (score.mean, score.stderr) == (mean, stderr)


@pytest.mark.parametrize(("returned", "count"), [(0.25, 1), ([0.1, 0.2, 0.3], 3), (None, 1)])
def test_another_number_of_values_than_directions_is_refused(
    returned: object, count: int, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/l.db"
    with pytest.raises(RecyclerError, match=f"returned {count} values for 2 objectives"):
        search(lambda w: returned, 2, ["max", "max"], evaluations=1, store=url)
    (trial,) = SqlStore(url).trials("search")  # told at once; no candidate is to blame
    assert trial.state == "running"
    assert SqlStore(url).status("search")["status"] == "stopped"


def test_the_front_is_brute_force_nondominated_and_its_volume_that_of_moocore() -> None:
    """One objective up, one down."""
    seen = []

    def function(weights: np.ndarray) -> list[float]:
        seen.append((float(weights[0]), float(np.abs(weights - 0.3).sum())))
        return list(seen[-1])

    front = search(function, 3, ["max", "min"], sampler="dirichlet", evaluations=12, seed=1)
    kept = {a for a in seen if not any(b[0] >= a[0] and b[1] <= a[1] and b != a for b in seen)}
    found = {tuple(t.means("dev").values()) for t in front.trials}
    assert found == kept
    corner = front.objectives.raw(front.reference)
    assert front.hypervolume("dev") == pytest.approx(
        moocore.hypervolume(np.array(sorted(kept)), ref=corner, maximise=[True, False])
    )
    # the scores came without errors, so nobody knows how sure membership is
    assert all(member.p_nondominated is None for member in front.members)


def test_a_larger_budget_extends_a_finished_search(tmp_path: Path) -> None:
    options = {"sampler": "dirichlet", "seed": 2}
    short, long = f"sqlite:///{tmp_path}/short.db", f"sqlite:///{tmp_path}/long.db"
    for budget in (3, 8):
        search(bowls(3, 2), 3, ["max", "max"], evaluations=budget, store=short, **options)
    search(bowls(3, 2), 3, ["max", "max"], evaluations=8, store=long, **options)
    assert ledger(short) == ledger(long)


def test_a_store_with_another_search_of_that_name_is_refused(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/l.db"
    search(bowls(3, 1), 3, ["max"], sampler="dirichlet", evaluations=1, store=url)
    with pytest.raises(InvalidConfig, match="another seed"):
        search(bowls(3, 1), 3, ["max"], sampler="dirichlet", evaluations=1, store=url, seed=1)


@pytest.mark.parametrize(
    ("n", "directions", "names"),
    [(0, ["max"], ()), (2, [], ()), (2, ["max"], ("a",)), (2, ["up"], ())],
)
def test_shapes_that_do_not_fit_are_refused(n: int, directions: list, names: tuple) -> None:
    with pytest.raises(RecyclerError):
        search(bowls(2, 1), n, directions, names=names)

"""No setting is ignored: each number of a study file is obeyed or refused, whatever is written there."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy
import yaml
from contracts.sampler import bowls, opening, proceed, study_plan

from recycler.errors import InvalidConfig, RecyclerError
from recycler.front.racing import settings_of
from recycler.nouns.objectives import Objective
from recycler.search.function import search
from recycler.search.samplers import SAMPLERS, Proposer
from recycler.submit.config import parse_study
from recycler.submit.submission import submit
from recycler.submit.workspace import Workspace

NAN, INF = math.nan, math.inf
LEAST: dict[str, Any] = {"study": "s", "pool": ["runs/a"], "objectives": [{"name": "a"}]}
WRONG = [NAN, INF, -INF, -1, "3", True, [1], 1e300]  # of every number


def with_(path: str, value: Any) -> dict[str, Any]:
    """The least study file with one value set."""
    *sections, key = path.split(".")
    table: dict[str, Any] = {**LEAST}
    if sections == ["objectives"]:
        return {**table, "objectives": [{"name": "a", key: value}]}
    return {**table, sections[0]: {key: value}} if sections else {**table, key: value}


NUMBERS = {  # each with what else it refuses
    "objectives.scale": (0,),
    "objectives.weight": (0,),
    "items.dev": (0, 2.5),
    "items.select": (0, 2.5),
    "items.test": (0, 2.5),
    "items.seed": (0.5, 2**32),
    "search.evaluations": (2.5,),
    "search.seed": (0.5, 2**32),
    "search.finalists": (0, 2.5),
    "search.failed_share": (1.1,),
    "search.fill": (1.1,),
    "search.stop_gain": (1.1,),
    "execution.workers": (0, 2.5),
}
FINE = {"objectives.scale=1e+300", "objectives.weight=1e+300"}
FINE |= {f"items.{split}=1e+300" for split in ("dev", "select", "test")}  # as many as there are


@pytest.mark.parametrize(
    ("path", "value"),
    [
        pytest.param(path, value, id=f"{path}={value!r}")
        for path, others in NUMBERS.items()
        for value in (*WRONG, *others)
        if f"{path}={value!r}" not in FINE
    ],
)
def test_a_number_of_a_study_file_that_can_not_be_meant_is_refused(path: str, value: Any) -> None:
    with pytest.raises(RecyclerError) as refused:
        parse_study(with_(path, value)).all_objectives()
    assert refused.value.message
    assert refused.value.hint


def test_every_number_of_a_study_file_is_in_the_table() -> None:
    study = parse_study(LEAST)
    shown = {
        f"{section}.{name}"
        for section in ("items", "search", "execution")
        for name, value in getattr(study, section)
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    assert shown == {path for path in NUMBERS if not path.startswith("objectives.")}


@pytest.mark.parametrize("executor", ["inline", "ray"])
@pytest.mark.parametrize(
    "own",
    [
        {"wokers": 2},
        {"timout": 5},
        {"start_timeout": -1},
        {"gpus": 1.5},
        {"gpus": NAN},
        {"timeout": 0},
        {"timeout": INF},
        {"ray_address": 5},
    ],
    ids=str,
)
def test_a_setting_that_no_executor_can_mean_is_refused(
    tmp_path: Path, drawer: list[Path], executor: str, own: dict[str, Any]
) -> None:
    with pytest.raises(InvalidConfig, match=f"executor {executor}"):
        submit(Workspace(), study_file(tmp_path, drawer, execution={"executor": executor, **own}))


def test_inline_refuses_more_than_one_worker_and_says_what_takes_them(
    tmp_path: Path, drawer: list[Path]
) -> None:
    with pytest.raises(InvalidConfig, match=r"workers.*one worker.*`executor: ray`.*found 8"):
        submit(
            Workspace(),
            study_file(tmp_path, drawer, execution={"executor": "inline", "workers": 8}),
        )


def study_file(root: Path, folders: list[Path], **sections: Any) -> Path:
    file = toy.study_file(root, folders)
    table = {**yaml.safe_load(file.read_text(encoding="utf-8")), **sections}
    file.write_text(yaml.safe_dump(table), encoding="utf-8")
    return file


# --- samplers ---

OWN = {  # sampler -> a setting of its own, and values it refuses
    "surrogate": [("draws", (0, 2.5)), ("rounds", (2.5,)), ("average", (1.5,))],
    "nehvi": [("samples", (0,)), ("raw", (0, 1)), ("restarts", (0,)), ("maxiter", (0,))],
    "paper": [("sigma", (0,)), ("population", (0, 1, 2.5))],
    "cmaes": [("sigma", (0,)), ("population", (1,))],
    "nsga2": [("population", (0, 1))],
    "nsga3": [("population", (1,))],
    "dirichlet": [("concentration", (0,))],
}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_setting_that_a_sampler_does_not_know_is_refused_and_the_nearest_is_named(
    sampler,
) -> None:
    for typo in ("max_nonzer", "seed_", "drawz"):
        with pytest.raises(InvalidConfig, match=f"there is no setting '{typo}'") as refused:
            Proposer(study_plan(sampler, 4, 2, settings={typo: 3}))
        assert "max_nonzero" in refused.value.hint
    for value in (*WRONG, 0, 2.5):
        if value != 1e300 or isinstance(value, bool):
            with pytest.raises(InvalidConfig, match="max_nonzero"):
                Proposer(study_plan(sampler, 4, 2, settings={"max_nonzero": value}))
    with pytest.raises(InvalidConfig, match="max_nonzero is 1"):
        Proposer(study_plan(sampler, 4, 2, settings={"max_nonzero": 1}))


@pytest.mark.parametrize(("sampler", "own"), OWN.items())
def test_each_setting_of_a_sampler_refuses_what_it_can_not_mean(sampler, own) -> None:
    for name, others in own:
        for value in (NAN, INF, -1, "3", True, *others):
            with pytest.raises(InvalidConfig, match=name):
                Proposer(study_plan(sampler, 4, 2, settings={name: value}))


@pytest.mark.parametrize("sampler", [s for s in SAMPLERS if s not in ("nehvi", "gp")])
@pytest.mark.parametrize("fill", [0.0, 0.5])
def test_no_merge_of_the_search_mixes_more_than_max_nonzero(sampler: str, fill: float) -> None:
    """The greedy path, what fills gaps and what replaces repeated merges are no exceptions."""
    plan = study_plan(
        sampler, 6, 2, settings={"max_nonzero": 2}, greedy=True, fill=fill, evaluations=12
    )
    function = bowls(6, 2)
    ledger = proceed(plan, opening(plan, function), function, 12)
    counts = [np.count_nonzero(t.recipe.vector(plan.names)) for t in ledger if not t.is_baseline]
    assert len(counts) == 12
    assert max(counts) <= 2


def test_the_merge_that_replaces_a_repeated_one_obeys_max_nonzero() -> None:
    plan = study_plan("dirichlet", 6, 2, settings={"max_nonzero": 2})
    proposer, function = Proposer(plan), bowls(6, 2)
    ledger = opening(plan, function)
    reference = proposer.reference(ledger)
    assert reference is not None
    known = _Everything()
    for _ in range(5):
        found = proposer._sampled(ledger, reference, known)
        assert np.count_nonzero(found.recipe.vector(plan.names)) == 2


class _Everything(set):
    """Every merge is known already."""

    def __contains__(self, item: object) -> bool:
        return True


# --- racing, and search() ---


@pytest.mark.parametrize(
    "wanted",
    [
        {"chance": 5},
        {"chance": -0.1},
        {"chance": NAN},
        {"chance": True},
        {"chance": "0.1"},
        {"gain": NAN},
        {"gain": INF},
        {"gain": 2},
        {"blocks": [0.5]},
        {"blocks": []},
        {"blocks": [0.0, 1.0]},
        {"blocks": [0.5, 0.5, 1.0]},
        {"blocks": [0.5, 0.25, 1.0]},
        {"blocks": [NAN, 1.0]},
        {"blocks": [0.5, True]},
        {"blocks": 0.5},
        {"chanse": 0.1},
        {},
        1,
        "yes",
        None,
    ],
    ids=str,
)
def test_racing_refuses_what_is_no_chance_gain_or_share(wanted: Any) -> None:
    with pytest.raises(InvalidConfig, match="racing: found"):
        settings_of(wanted)


@pytest.mark.parametrize(
    "given",
    [
        {"seed": -1},
        {"seed": 2**32},
        {"evaluations": -1},
        {"evaluations": 2.5},
        {"racing": {"chance": 5}},
        {"settings": {"sigm": 1.0}},
        {"settings": {"max_nonzero": 0}},
    ],
    ids=str,
)
def test_search_refuses_the_same_and_registers_nothing(tmp_path: Path, given: Any) -> None:
    store = f"sqlite:///{tmp_path}/l.db"
    with pytest.raises(InvalidConfig):
        search(lambda w: [0.0, 0.0], 3, ["max", "max"], store=store, **given)
    assert not (tmp_path / "l.db").exists()


@pytest.mark.parametrize("scale", [0.0, -1.0, NAN, INF])
def test_a_scale_that_is_no_step_is_refused(scale: float) -> None:
    with pytest.raises(InvalidConfig, match="scale"):
        Objective("a", scale=scale)


def test_a_checkpoint_twice_in_a_pool_is_refused(tmp_path: Path, drawer: list[Path]) -> None:
    file = toy.study_file(tmp_path, drawer)
    table = yaml.safe_load(file.read_text(encoding="utf-8"))
    table["pool"].append({"name": "again", "path": table["pool"][0]})
    file.write_text(yaml.safe_dump(table), encoding="utf-8")
    with pytest.raises(RecyclerError, match="again"):
        submit(Workspace(), file)

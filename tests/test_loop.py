"""The loop on real executors and a real ledger: failures, budgets, and who is re-checked."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from contracts.sampler import bowls, study_plan

from recycler import loop
from recycler.errors import InvalidConfig, StudyFailed, Unavailable
from recycler.evaluate.results import evaluation_of, read_values
from recycler.execute.inline import Inline
from recycler.front import pareto
from recycler.front.front import floor_gains, front_rows
from recycler.front.stages import elected, exhausted, finalists, remaining_gain
from recycler.loop import ATTEMPTS, Progress, run
from recycler.nouns.evaluation import Evaluation, Score
from recycler.nouns.objectives import Objective, Objectives
from recycler.nouns.plan import Plan
from recycler.nouns.status import Status, Wanted
from recycler.nouns.trial import Job, State, Trial
from recycler.search.samplers import Proposer
from recycler.store.sql import SqlStore


def finish(
    plan: Plan, function: Callable[[Job, Any], Mapping[str, Any]], **options: Any
) -> SqlStore:
    """Run a study to its end with an evaluator of weights; gives the ledger."""
    store = options.pop("store", None) or SqlStore("sqlite://")
    if plan.name not in [row["name"] for row in store.studies()]:
        store.create_study(plan)

    def score(job: Job) -> Evaluation:
        values = function(job, np.array(job.recipe.vector(plan.names)))
        return evaluation_of(job, {k: read_values(values[k]) for k in job.objectives}, "", {})

    run(plan, store, Proposer(plan), Inline(lambda: score), **options)
    return store


def quadratic(plan: Plan) -> Callable[[Job, Any], dict[str, float]]:
    names = [o.name for o in plan.objectives]
    function = bowls(plan.n, len(names))
    return lambda job, w: dict(zip(names, function(w), strict=True))


def held_out(plan: Plan) -> Plan:
    """The plan with one more objective, which the search may not see."""
    more = (*plan.objectives.all, Objective("held", "value", "min", held_out=True))
    return replace(plan, objectives=Objectives(more))


def test_a_run_evaluates_references_on_top_of_the_budget_and_the_path_inside() -> None:
    plan = study_plan("dirichlet", 4, 2, evaluations=7, greedy=True)
    trials = finish(plan, quadratic(plan)).trials("study")
    kinds = [trial.kind for trial in trials]
    assert kinds[:5] == ["single"] * 4 + ["uniform"]
    assert sum(kind in ("greedy", "search") for kind in kinds) == 7
    assert kinds.count("greedy") >= 1
    assert all(trial.state == "complete" for trial in trials)


@pytest.mark.parametrize(
    ("n", "kinds"),
    [
        (1, ["single"]),  # uniform and merge-best are the same merge
        (2, ["single", "single", "uniform"]),  # merge-best is the uniform soup
        (3, ["single"] * 3 + ["uniform", "merge-best"]),
    ],
)
def test_with_no_budget_only_the_different_references_are_scored(n: int, kinds: list) -> None:
    plan = study_plan("dirichlet", n, 2, evaluations=0, greedy=True)
    one_each = {"f0": lambda w: w[0], "f1": lambda w: w[1 % n]}
    store = finish(plan, lambda job, w: {k: float(f(w)) for k, f in one_each.items()})
    assert [trial.kind for trial in store.trials("study")] == kinds
    assert store.status("study")["status"] == "complete"


def test_one_checkpoint_needs_no_search_however_large_the_budget() -> None:
    plan = study_plan("nehvi", 1, 1, evaluations=50, greedy=True)
    assert len(finish(plan, quadratic(plan)).trials("study")) == 1


@pytest.mark.parametrize("bad", ["raises", "nan"])
def test_a_failing_candidate_is_recorded_with_its_reason_and_the_others_go_on(bad: str) -> None:
    plan = study_plan("dirichlet", 3, 2, evaluations=6)
    good = quadratic(plan)

    def sometimes(job: Job, w: np.ndarray) -> Mapping[str, Any]:
        if np.count_nonzero(w == 1.0) and w[1] == 1.0:
            if bad == "raises":
                raise ValueError("cannot score this")
            return {"f0": float("nan"), "f1": 0.0}
        return good(job, w)

    trials = finish(plan, sometimes).trials("study")
    (lost,) = [t for t in trials if t.state == "failed"]
    assert lost.name == "single:w1"
    kind, text = {
        "raises": ("exception", "ValueError: cannot score this"),
        "nan": ("not-finite", "nan"),
    }[bad]
    assert lost.failure.kind == kind
    assert text in lost.failure.message
    assert sum(t.kind == "search" for t in trials) == 6
    assert lost.evaluations == {}


def test_too_many_failures_end_the_study_and_say_so() -> None:
    plan = study_plan("dirichlet", 3, 2, evaluations=20, failed_share=0.25)
    store, good = SqlStore("sqlite://"), quadratic(plan)

    def no_mixtures(job: Job, w: np.ndarray) -> Mapping[str, Any]:
        if w.max() < 1:
            raise ValueError("no mixtures")
        return good(job, w)

    with pytest.raises(StudyFailed, match=r"40% of 5 trials failed.*25%.*no mixtures"):
        finish(plan, no_mixtures, store=store)  # 3 singles well, then 1 of 4, then 2 of 5
    assert store.status("study")["status"] == "failed"
    assert "no mixtures" in store.status("study")["message"]
    assert [t.state for t in store.trials("study")] == ["complete"] * 3 + ["failed"] * 2


@pytest.mark.parametrize(("failing", "ends"), [((0,), False), ((0, 3), True), ((0, 4), False)])
def test_failures_are_counted_from_the_fourth_ended_trial_on(
    failing: tuple[int, ...], ends: bool
) -> None:
    """One of one, of two, of three is above the share, too, and says nothing yet; 2 of 4 does."""
    plan = study_plan("dirichlet", 6, 2, evaluations=4, failed_share=0.4)
    store, good = SqlStore("sqlite://"), quadratic(plan)

    def some(job: Job, w: np.ndarray) -> Mapping[str, Any]:
        if w.max() == 1 and int(w.argmax()) in failing:
            raise ValueError("not this one")
        return good(job, w)

    if ends:
        with pytest.raises(StudyFailed, match="50% of 4 trials failed"):
            finish(plan, some, store=store)
    else:
        finish(plan, some, store=store)
    assert sum(t.state == "failed" for t in store.trials("study")) == len(failing)


def test_every_single_failing_ends_the_study_before_any_search() -> None:
    plan = study_plan("dirichlet", 3, 2, evaluations=20)
    store = SqlStore("sqlite://")

    def never(job: Job, w: np.ndarray) -> Mapping[str, Any]:
        raise ValueError("never")

    with pytest.raises(StudyFailed, match=r"every single checkpoint failed; single:w0: .*never"):
        finish(plan, never, store=store)
    assert all(t.kind in ("single", "uniform") for t in store.trials("study"))
    assert store.status("study")["status"] == "failed"


def test_a_trial_that_kills_its_process_again_and_again_is_given_up() -> None:
    plan = study_plan("dirichlet", 3, 2, evaluations=2)
    store, good = SqlStore("sqlite://"), quadratic(plan)

    def deadly(job: Job, w: np.ndarray) -> Mapping[str, Any]:
        if w[2] == 1.0:
            raise KeyboardInterrupt
        return good(job, w)

    for _ in range(ATTEMPTS):
        with pytest.raises(KeyboardInterrupt):
            finish(plan, deadly, store=store)
        assert store.status("study")["status"] == "stopped"
    trials = finish(plan, deadly, store=store).trials("study")
    assert (trials[2].failure.kind, trials[2].attempts) == ("process-died", ATTEMPTS)
    assert store.status("study")["status"] == "complete"


def test_each_split_is_scored_on_its_own_trials_and_objectives() -> None:
    plan = held_out(study_plan("dirichlet", 3, 2, evaluations=10, greedy=True, finalists=4))
    jobs: list[Job] = []
    good = quadratic(plan)

    def noting(job: Job, w: np.ndarray) -> Mapping[str, Any]:
        jobs.append(job)
        return good(job, w)

    store = finish(plan, noting)
    trials = store.trials("study")
    corner = np.array(store.status("study")["reference"])
    assert {job.objectives for job in jobs if job.split != "test"} == {("f0", "f1")}
    assert {job.objectives for job in jobs if job.split == "test"} == {("f0", "f1", "held")}
    by_split = {s: {t.number for t in trials if s in t.evaluations} for s in ("select", "test")}
    references = {t.number for t in Proposer(plan).references(trials)}
    assert by_split["select"] == {t.number for t in finalists(plan, trials, corner)} | references
    assert by_split["test"] == {t.number for t in elected(plan, trials)} | references
    assert len(jobs) == len({(job.trial, job.split) for job in jobs})  # nothing twice


def test_a_failure_on_test_items_is_tried_again_by_the_next_run() -> None:
    plan = study_plan("dirichlet", 3, 2, evaluations=4)
    store, good = SqlStore("sqlite://"), quadratic(plan)

    def broken(job: Job, w: np.ndarray) -> Mapping[str, Any]:
        if job.split == "test":
            raise ValueError("no")
        return good(job, w)

    with pytest.raises(StudyFailed, match=r"could not be scored on test items.*ValueError: no"):
        finish(plan, broken, store=store)
    before = store.trials("study")
    after = finish(plan, good, store=store).trials("study")
    assert len(after) == len(before)
    assert any("test" in t.evaluations for t in after)
    assert store.status("study")["status"] == "complete"


# --- finalists and elected, by hand ---


def scored(number: int, dev: tuple, select: tuple | None = None) -> Trial:
    plan = study_plan("dirichlet", 2, 2)
    splits = {"dev": dev, **({"select": select} if select else {})}
    return Trial(
        number=number,
        kind="search",
        name=f"search {number}",
        recipe=plan.recipe((1.0, 1.0 + number)),
        state="complete",
        evaluations={
            split: Evaluation(
                split=split, scores={f"f{j}": Score(v, 0.0, 0) for j, v in enumerate(values)}
            )
            for split, values in splits.items()
        },
    )


# rank 1: 0, 1, 2; rank 2: 3, 4; rank 3: 5
RANKS = [(4.0, 1.0), (3.0, 3.0), (1.0, 4.0), (3.0, 2.0), (2.0, 2.5), (0.5, 0.5)]


@pytest.mark.parametrize(
    ("places", "numbers"),
    [
        (1, [1]),  # 3 x 3 = 9 is the largest volume above (0, 0); 4 for the others
        (2, [0, 1]),  # 0 and 2 add 1 each to it: the first
        (6, [0, 1, 2]),  # half of the places are taken
        (8, [0, 1, 2, 3, 4]),  # 3 < 4: the next rank too
        (12, [0, 1, 2, 3, 4, 5]),
    ],
)
def test_finalists_are_the_front_and_the_ranks_behind_it_up_to_half_the_places(
    places: int, numbers: list[int]
) -> None:
    plan = study_plan("dirichlet", 2, 2, finalists=places)
    trials = [scored(i, dev) for i, dev in enumerate(RANKS)]
    found = finalists(plan, trials, np.zeros(2))
    assert [t.number for t in found] == numbers


def test_of_a_rank_larger_than_the_places_left_those_that_add_most_are_finalists() -> None:
    """By hand: (5, 5) is the largest volume, then (3, 7) and (7, 3) add 6 each, (1, 9) adds 2."""
    plan = study_plan("dirichlet", 2, 2, finalists=4)
    ranks = [(10.0, 10.0), (1.0, 9.0), (3.0, 7.0), (5.0, 5.0), (7.0, 3.0), (9.0, 1.0)]
    found = finalists(plan, [scored(i, dev) for i, dev in enumerate(ranks)], np.zeros(2))
    assert [t.number for t in found] == [0, 2, 3, 4]


def test_baselines_take_no_place_among_the_finalists() -> None:
    plan = study_plan("dirichlet", 2, 2, finalists=6)
    trials = [scored(i, dev) for i, dev in enumerate(RANKS)]
    trials[1] = replace(trials[1], kind="single")
    found = finalists(plan, trials, np.zeros(2))
    assert [t.number for t in found] == [0, 2, 3, 4]  # 2 < 3: the next rank too


def test_the_elected_are_not_dominated_on_select_items() -> None:
    plan = study_plan("dirichlet", 2, 2)
    select = [(4.0, 1.0), (1.0, 1.0), (1.0, 4.0), (3.0, 2.0), (2.0, 1.5), None]
    trials = [scored(i, d, s) for i, (d, s) in enumerate(zip(RANKS, select, strict=True))]
    assert [t.number for t in elected(plan, trials)] == [0, 2, 3]


# --- floors ---


def floored(floor: Any, **changes: Any) -> Plan:
    """Three checkpoints, f0 and f1 to be maximized, f1 with a floor."""
    plan = study_plan("dirichlet", 3, 2, **changes)
    first, second = plan.objectives.all
    return replace(plan, objectives=Objectives((first, replace(second, floor=floor))))


def linear(job: Job, w: np.ndarray) -> dict[str, float]:
    """f0 is the weight of the first checkpoint, f1 that of the second, in every split."""
    return {"f0": float(w[0]), "f1": float(w[1])}


@pytest.mark.parametrize(
    ("floor", "least"),
    [(0.5, 0.5), ("uniform", 1 / 3), ("merge-best * 0.8", 0.4), ("single:w1 - 0.6", 0.4)],
)
def test_finalists_and_members_are_above_the_floor_and_so_is_the_reference(
    floor: Any, least: float
) -> None:
    plan = floored(floor, evaluations=30, greedy=True)
    store = finish(plan, linear)
    trials, corner = store.trials("study"), np.array(store.status("study")["reference"])
    assert corner[1] == pytest.approx(least)
    assert corner[0] == pytest.approx(-0.1)  # a tenth below the singles, as without a floor
    below = [t for t in trials if t.means("dev")["f1"] < least - 1e-12]
    assert any(t.means("dev")["f0"] == 1.0 for t in below)  # w0 alone would else be a member
    assert not {t.number for t in below} & {t.number for t in finalists(plan, trials, corner)}
    assert elected(plan, trials)
    assert all(t.means("select")["f1"] >= least - 1e-12 for t in elected(plan, trials))


def test_where_no_merge_meets_the_floor_the_finalists_are_those_without_it() -> None:
    plan = floored(1.5, evaluations=12)
    trials = finish(plan, linear).trials("study")
    free = replace(plan, objectives=study_plan("dirichlet", 3, 2).objectives)
    assert finalists(plan, trials, np.zeros(2)) == finalists(free, trials, np.zeros(2))
    assert elected(plan, trials) == elected(free, trials)


def test_a_floor_is_that_of_the_items_in_question() -> None:
    """On dev items the second single scores 1, on the others 0.2: the floor follows it."""
    plan = floored("best-single * 0.9", evaluations=12, finalists=50)

    def shifting(job: Job, w: np.ndarray) -> dict[str, float]:
        return {"f0": float(w[0]), "f1": float(w[1]) * (1.0 if job.split == "dev" else 0.2)}

    trials = finish(plan, shifting).trials("study")
    assert floor_gains(trials, plan.objectives, "dev")[1] == pytest.approx(0.9)
    assert floor_gains(trials, plan.objectives, "test")[1] == pytest.approx(0.18)
    assert {t.name for t in elected(plan, trials)} == {"single:w1"}


def test_a_floor_whose_baseline_failed_ends_the_study() -> None:
    plan = floored("uniform", evaluations=5)

    def no_soup(job: Job, w: np.ndarray) -> dict[str, float]:
        if w.max() < 0.4:
            raise ValueError("no soup")
        return linear(job, w)

    with pytest.raises(StudyFailed, match="'f1' has its floor at the baseline 'uniform'"):
        finish(plan, no_soup)


def test_a_floor_relative_to_a_checkpoint_that_is_not_there_is_refused() -> None:
    with pytest.raises(InvalidConfig, match="'single:w9' names no checkpoint") as refused:
        floored("single:w9")
    assert "w0, w1, w2" in refused.value.hint


# --- gaps and the end of the search ---


def test_the_last_evaluations_go_midway_into_the_largest_gaps() -> None:
    plan = study_plan("dirichlet", 3, 2, evaluations=10, fill=0.3)
    store = finish(plan, quadratic(plan))
    trials = store.trials("study")
    names = [t.name for t in trials if t.kind == "search"]
    assert names == [f"search {i}" for i in range(7)] + ["fill 7", "fill 8", "fill 9"]
    for filled in [t for t in trials if t.name.startswith("fill")]:
        before = [t for t in trials if t.number < filled.number]
        front = sorted(
            front_rows(before, plan.objectives, "dev"), key=lambda t: t.means("dev")["f0"]
        )
        gains = plan.objectives.gains([t.means("dev") for t in front])
        tried = {t.recipe.id for t in before}
        steps = [  # along the front, in steps of scale 1
            (
                -float(np.linalg.norm(b - a)),
                (np.add(*(t.recipe.vector(plan.names) for t in two)) / 2),
            )
            for a, b, two in zip(gains, gains[1:], pairwise(front), strict=False)
        ]
        untried = [s for s in steps if plan.recipe(tuple(s[1])).id not in tried]
        widest = min(untried, key=lambda step: step[0])
        assert filled.recipe.vector(plan.names) == pytest.approx(tuple(widest[1]))


def saturating(job: Job, w: np.ndarray) -> dict[str, float]:
    """Whoever has some of both is as good as all others: the first merges find everything."""
    return {"f0": float(min(w[0], 0.1)), "f1": float(min(w[1], 0.1))}


def test_a_search_that_gains_no_more_ends_and_says_so_and_goes_on_when_asked() -> None:
    plan = study_plan("dirichlet", 3, 2, evaluations=60, stop_gain=0.001)
    heard: list[Progress] = []
    store = finish(plan, saturating, listen=heard.append)
    spent = sum(t.kind == "search" for t in store.trials("study"))
    assert 10 <= spent < 60
    status = store.status("study")
    assert status["status"] == "complete"
    assert f"the search ended after {spent} of 60 evaluations" in status["message"]
    assert "stop_gain 0.10%" in status["message"]
    searching = [p.remaining_gain for p in heard if p.phase == "search"]
    known = [gain for gain in searching if gain is not None]
    assert len(known) == spent - 9  # from the tenth evaluation on
    assert known[-1] < 0.001
    assert all(gain >= 0.001 for gain in known[:-1])
    again = finish(plan, saturating, store=store).trials("study")
    assert sum(t.kind == "search" for t in again) == spent  # the same end on replay
    store.extend("study", 60, 0.0)
    longer = finish(store.plan("study"), saturating, store=store)
    assert sum(t.kind == "search" for t in longer.trials("study")) == 60
    assert longer.status("study")["message"] == ""


def test_a_stopped_search_with_a_larger_budget_makes_ten_more_before_the_rule_is_asked() -> None:
    plan = study_plan("dirichlet", 3, 2, evaluations=60, stop_gain=0.001)
    store = finish(plan, saturating)
    spent = sum(t.kind == "search" for t in store.trials("study"))
    store.extend("study", 80, stop_after=spent + 10)
    finish(store.plan("study"), saturating, store=store)
    assert sum(t.kind == "search" for t in store.trials("study")) == spent + 10
    assert "of 80 evaluations" in store.status("study")["message"]


def test_the_outlook_is_read_off_the_volumes_before_and_after_the_window() -> None:
    plan = study_plan("dirichlet", 3, 2, evaluations=45, greedy=True)
    store = finish(plan, quadratic(plan))
    trials, corner = store.trials("study"), np.array(store.status("study")["reference"])
    searched = [t.number for t in trials if t.kind == "search"]
    k, window = len(searched), 14
    assert k == 45  # the greedy path is among the references; 30 % of 45, rounded up, is 14
    volumes = [
        pareto.hypervolume(
            plan.objectives.gains([t.means("dev") for t in trials if t.number <= last]), corner
        )
        for last in (searched[-window - 1], searched[-1])
    ]
    told = remaining_gain(trials, plan.objectives, corner)
    assert told == pytest.approx(
        pareto.expected_gain(volumes[0], volumes[1], k, window, 10) / volumes[1]
    )
    few = [t for t in trials if t.number <= searched[8]]
    assert remaining_gain(few, plan.objectives, corner) is None  # nine are too few
    assert remaining_gain(trials, plan.objectives, None) is None


def test_a_search_that_finds_nothing_more_still_spends_its_whole_budget() -> None:
    """Volumes summed in another order differ by a rounding, which must not pass for an end."""
    plan = study_plan("dirichlet", 4, 4, evaluations=60)
    corner = np.full(4, -1.0)
    for seed in range(30):
        rng = np.random.default_rng(seed)
        ledger: list[Trial] = []
        front = rng.random((20, 4))
        for number in range(60):  # an early front of many members, and nothing better after it
            gains = front[number] if number < 20 else rng.random() * front[number % 20]
            scores = {f"f{j}": Score(float(g), 0.01, 4) for j, g in enumerate(gains)}
            recipe = plan.recipe(tuple(rng.dirichlet(np.ones(4))))
            ledger.append(
                Trial(
                    number=number,
                    kind="search",
                    name="x",
                    recipe=recipe,
                    state=State.COMPLETE,
                    finished=number,
                    evaluations={"dev": Evaluation(split="dev", scores=scores)},
                )
            )
        assert exhausted(plan, ledger, corner) is None
        told = remaining_gain(ledger, plan.objectives, corner)
        assert told is not None
        assert told >= 0.0


# --- what listeners hear ---


@pytest.mark.parametrize(("n", "m"), [(1, 2), (2, 2), (4, 2), (4, 1)])
def test_progress_counts_up_to_its_total_in_each_phase(n: int, m: int) -> None:
    plan = study_plan("dirichlet", n, m, evaluations=5, greedy=True)
    heard: list[Progress] = []
    one_each = {"f0": lambda w: w[0], "f1": lambda w: w[1 % n]}
    finish(plan, lambda job, w: {k: float(f(w)) for k, f in one_each.items()}, listen=heard.append)
    for phase in ("search", "select", "test"):
        own = [p for p in heard if p.phase == phase]
        assert [p.done for p in own] == list(range(own[0].total + 1))
        assert len({p.total for p in own}) == 1


# --- faults of the environment, and what other processes ask for ---


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "BACKOFF", (0.0, 0.01, 0.02))


def calm(plan: Plan) -> list[tuple[Any, ...]]:
    return told(finish(plan, quadratic(plan)))


def told(store: SqlStore) -> list[tuple[Any, ...]]:
    """What a study found, without how often anything was tried."""
    return [
        (t.number, t.name, t.recipe, t.state, {s: e.scores for s, e in t.evaluations.items()})
        for t in store.trials("study")
    ]


@pytest.mark.usefixtures("impatient")
def test_a_passing_fault_of_the_machine_costs_nothing_and_leaves_no_trace() -> None:
    plan = study_plan("dirichlet", 3, 2, evaluations=6)
    good, met = quadratic(plan), []

    def shaky(job: Job, w: np.ndarray) -> Mapping[str, Any]:
        if job.trial in (1, 4, 6) and met.count((job.trial, job.split)) < 3:
            met.append((job.trial, job.split))
            raise OSError(28, "No space left on device")
        return good(job, w)

    store = finish(plan, shaky)
    assert {trial for trial, _ in met} >= {1, 4, 6}
    assert told(store) == calm(plan)
    assert store.status("study")["failed"] == 0


@pytest.mark.usefixtures("impatient")
def test_a_lasting_fault_of_the_machine_pauses_the_study_and_the_next_run_goes_on() -> None:
    plan = study_plan("dirichlet", 3, 2, evaluations=6)
    store, good, tries = SqlStore("sqlite://"), quadratic(plan), []

    def broken(job: Job, w: np.ndarray) -> Mapping[str, Any]:
        if job.trial == 5:
            tries.append(job)
            raise OSError(28, "No space left on device")
        return good(job, w)

    for _ in range(2):  # waiting in vain costs no attempt either
        tries.clear()
        with pytest.raises(Unavailable, match="trial 5 met a fault of the machine 4 times") as c:
            finish(plan, broken, store=store)
        assert len(tries) == 4
        assert "run study 'study' again" in c.value.hint
        status = store.status("study")
        assert (status["status"], status["failed"], status["running"]) == ("paused", 0, 1)
        assert "No space left" in status["message"]
    assert store.trials("study")[5].attempts <= 2
    assert told(finish(plan, good, store=store)) == calm(plan)


@pytest.mark.usefixtures("impatient")
def test_a_wrong_setting_is_told_at_once_and_no_candidate_is_to_blame() -> None:
    plan = study_plan("dirichlet", 3, 2, evaluations=6)
    store, jobs = SqlStore("sqlite://"), []

    def wrong(job: Job, w: np.ndarray) -> Mapping[str, Any]:
        jobs.append(job)
        raise InvalidConfig("there is no metric 'acc'.", hint="mend it.")

    with pytest.raises(InvalidConfig, match="no metric 'acc'"):
        finish(plan, wrong, store=store)
    assert len(jobs) == 1
    status = store.status("study")
    assert (status["status"], status["failed"], status["running"]) == ("stopped", 0, 1)
    assert told(finish(plan, quadratic(plan), store=store)) == calm(plan)


@pytest.mark.parametrize(
    ("wanted", "left"), [(Wanted.PAUSE, Status.PAUSED), (Wanted.STOP, Status.STOPPED)]
)
@pytest.mark.parametrize("after", [0, 3, 9, 12])
def test_a_study_stops_on_request_between_jobs_and_goes_on_as_if_it_had_not(
    wanted: Wanted, left: Status, after: int
) -> None:
    plan = study_plan("dirichlet", 3, 2, evaluations=6)
    store, good, done = SqlStore("sqlite://"), quadratic(plan), []

    def counting(job: Job, w: np.ndarray) -> Mapping[str, Any]:
        done.append(job)
        return good(job, w)

    finish(plan, counting, store=store, wanted=lambda: Wanted.RUN if len(done) < after else wanted)
    assert len(done) == after
    assert store.status("study")["status"] == left
    assert store.status("study")["running"] == 0  # nothing was begun that did not land
    assert told(finish(plan, good, store=store)) == calm(plan)


# --- what was scored before is not scored again ---


def shared(plan: Plan, **parts: Any) -> Plan:
    names = [o.name for o in plan.objectives]
    return replace(plan, measures={name: {"function": name, **parts} for name in names})


def jobs_of(plan: Plan, store: SqlStore) -> list[Job]:
    jobs: list[Job] = []

    def counting(job: Job, w: np.ndarray) -> Mapping[str, Any]:
        jobs.append(job)
        return quadratic(plan)(job, w)

    finish(plan, counting, store=store)
    return jobs


def test_a_second_study_evaluates_no_baseline_again() -> None:
    first = shared(study_plan("dirichlet", 4, 2, evaluations=6, greedy=True))
    store = SqlStore("sqlite://")
    jobs_of(first, store)
    second = replace(first, name="second", sampler="sobol", seed=9)
    jobs = jobs_of(second, store)
    trials = store.trials("second")
    kinds = {trial.number: trial.kind for trial in trials}
    assert {kinds[job.trial] for job in jobs if job.split == "dev"} == {"search"}
    again = [job for job in jobs if kinds[job.trial] in ("single", "uniform", "merge-best")]
    assert again == []  # on select and test items neither
    by_id = {trial.recipe.id: trial for trial in store.trials("study")}
    for trial in trials:
        if trial.is_baseline:
            assert (
                trial.evaluations["dev"].scores == by_id[trial.recipe.id].evaluations["dev"].scores
            )
            assert trial.evaluations["dev"].seconds == {}
    assert store.looked_at("test", second.measure_ids.values()) == 2
    alone = finish(replace(second, measures={}), quadratic(second))
    assert [t.recipe for t in trials] == [t.recipe for t in alone.trials("second")]


@pytest.mark.parametrize("change", ["measure", "none"])
def test_scores_of_another_measure_or_of_none_are_made_anew(change: str) -> None:
    first = shared(study_plan("dirichlet", 3, 2, evaluations=2))
    store = SqlStore("sqlite://")
    count = len(jobs_of(first, store))
    second = replace(shared(first, data="edited"), name="second")
    if change == "none":
        second = replace(second, measures={})
    assert len(jobs_of(second, store)) == count
    assert store.looked_at("test", first.measure_ids.values()) == 1


def test_only_the_objectives_that_are_new_are_scored() -> None:
    first = shared(study_plan("dirichlet", 3, 2, evaluations=2))
    store = SqlStore("sqlite://")
    jobs_of(first, store)
    more = Objectives((*first.objectives.all, Objective("f2", "value", "max", scale=1.0)))
    second = shared(replace(first, name="second", objectives=more))
    known = {trial.recipe.id for trial in store.trials("study")}
    for job in jobs_of(second, store):
        if job.split == "dev":
            expected = ("f2",) if job.recipe.id in known else ("f0", "f1", "f2")
            assert job.objectives == expected
    first_dev = {t.recipe.id: t.evaluations["dev"].scores for t in store.trials("study")}
    for trial in store.trials("second"):
        scores = trial.evaluations["dev"].scores
        assert sorted(scores) == ["f0", "f1", "f2"]
        if trial.recipe.id in first_dev:
            assert {k: scores[k] for k in ("f0", "f1")} == first_dev[trial.recipe.id]

"""Racing: what a candidate may still become, and studies whose candidates are scored block by block."""

from collections.abc import Callable
from dataclasses import replace
from math import erf, sqrt
from typing import Any

import numpy as np
import pytest
import studies
import toy
from contracts.sampler import study_plan

from recycler.errors import InvalidConfig
from recycler.evaluate.harness import LmEval
from recycler.evaluate.items import part_of
from recycler.evaluate.python import PythonEvaluator
from recycler.evaluate.results import evaluation_of
from recycler.execute.inline import Inline
from recycler.execute.rescore import rescore
from recycler.front.racing import DEFAULTS, estimate, expected_improvement, settings_of
from recycler.front.resampling import drawn_gains, probabilities
from recycler.loop import Progress, run
from recycler.nouns.evaluation import Evaluation, Outcomes, Score
from recycler.nouns.objectives import Objective, Objectives
from recycler.nouns.plan import Plan
from recycler.nouns.trial import Job, State
from recycler.protocols import Context
from recycler.report import text
from recycler.report.figures import front_figure
from recycler.report.groups import groups
from recycler.report.page import html_page
from recycler.report.volume import lost, trace_figure
from recycler.search.function import search
from recycler.search.samplers import Proposer
from recycler.store.sql import SqlStore
from recycler.study import Study
from recycler.submit.submission import submit
from recycler.submit.workspace import Workspace

ONE = Objectives((Objective("up", "value", "max"),))
TWO = Objectives((Objective("up", "value", "max"), Objective("down", "value", "min")))


def items(values: Any) -> Outcomes:
    return Outcomes(tuple(range(len(values))), tuple(np.asarray(values, dtype=float).tolist()))


def normal_share(z: float) -> float:
    return (1 + erf(z / sqrt(2))) / 2


# --- what a candidate may still become ---


@pytest.mark.parametrize("seed", range(12))
def test_with_all_items_seen_the_chance_is_whether_nobody_dominates(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rivals = [{"up": items(rng.random(8)), "down": items(rng.random(8))} for _ in range(3)]
    found = {"up": items(rng.random(8)), "down": items(rng.random(8))}

    def gains(row: dict[str, Outcomes]) -> tuple[float, float]:
        return np.mean(row["up"].values), -np.mean(row["down"].values)

    mine = gains(found)
    beaten = any(a >= mine[0] and b >= mine[1] for a, b in map(gains, rivals))
    improvement = expected_improvement(found, rivals, TWO, np.array([-1.0, -2.0]))
    assert improvement.chance == (0.0 if beaten else 1.0)
    assert (improvement.gain == 0.0) == beaten


def test_with_all_items_seen_the_gain_is_the_volume_it_adds() -> None:
    rivals = [{"up": items([0.4, 0.6]), "down": items([0.2, 0.2])}]
    found = {"up": items([0.7, 0.7]), "down": items([0.3, 0.5])}
    improvement = expected_improvement(found, rivals, TWO, np.array([0.0, -1.0]))
    # the rival's box is 0.5 x 0.8; the candidate's 0.7 x 0.6 sticks out by 0.2 x 0.6
    assert improvement.gain == pytest.approx(0.2 * 0.6 / (0.5 * 0.8))


@pytest.mark.parametrize("whole", [64, 100, 400])
def test_doubt_shrinks_with_the_share_of_items_that_is_seen(whole: int) -> None:
    """The lead over a rival is known up to the items not seen: its error is cut by sqrt(1 - s)."""
    rng = np.random.default_rng(whole)
    rival, jitter = rng.normal(size=whole), rng.normal(size=50)
    jitter += 0.06 - jitter.mean()
    candidate = items(rival[:50] + jitter)
    told = [
        expected_improvement(
            {"up": candidate}, [{"up": items(rival)}], ONE, np.array([-9.0]), seed
        ).chance
        for seed in range(24)
    ]
    error = jitter.std() / sqrt(50) * sqrt(1 - 50 / whole)
    expected = normal_share(0.06 / error)
    assert 0.55 < expected < 0.99
    assert np.mean(told) == pytest.approx(expected, abs=0.03)  # 24 x 256 draws: 5 errors


def test_pairing_sees_a_small_steady_lead_in_few_items() -> None:
    hard = np.random.default_rng(0).normal(size=80)
    for lead, chance in ((0.01, 1.0), (-0.01, 0.0)):
        improvement = expected_improvement(
            {"up": items(hard[:10] + lead)}, [{"up": items(hard)}], ONE, np.array([-9.0])
        )
        assert improvement.chance == chance


@pytest.mark.parametrize(
    ("mean", "deviation"), [(0.1, 0.02), (-0.1, 0.02), (0.1, 0.2), (0.0, 50.0)]
)
def test_a_prior_moves_and_narrows_what_the_items_say(mean: float, deviation: float) -> None:
    """Two normal laws of the lead over a rival at 0: their product is normal again."""
    rng = np.random.default_rng(5)
    rival, jitter = rng.normal(size=400), rng.normal(size=50)
    rival -= rival.mean()
    jitter += 0.1 - jitter.mean()
    told = [
        expected_improvement(
            {"up": items(rival[:50] + jitter)},
            [{"up": items(rival)}],
            ONE,
            np.array([-9.0]),
            seed,
            prior=(np.array([mean]), np.array([deviation])),
        ).chance
        for seed in range(24)
    ]
    seen = jitter.var() / 50 * (1 - 50 / 400)
    both = 1 / (1 / seen + deviation**-2)
    centre = both * (0.1 / seen + mean * deviation**-2)
    assert np.mean(told) == pytest.approx(normal_share(centre / sqrt(both)), abs=0.03)


def test_an_objective_without_items_is_known_exactly() -> None:
    hard = np.random.default_rng(0).normal(size=80)
    rivals = [{"up": items(hard), "down": Score(3.0, 0.0, 0)}]
    doubtful = {"up": items(hard[:10] - 0.01)}  # surely behind in this one
    for down, chance in ((2.0, 1.0), (3.0, 0.0), (4.0, 0.0)):
        improvement = expected_improvement(
            {**doubtful, "down": Score(down, 0.0, 0)}, rivals, TWO, np.array([-9.0, -9.0])
        )
        assert improvement.chance == chance


def test_what_is_below_a_floor_will_not_be_on_the_front() -> None:
    rival, better = items([0.5, 0.5, 0.5, 0.5]), items([0.59, 0.61])
    for floor, chance in ((0.55, 1.0), (0.65, 0.0), (-np.inf, 1.0)):
        improvement = expected_improvement(
            {"up": better}, [{"up": rival}], ONE, np.array([0.0]), floors=np.array([floor])
        )
        assert (improvement.chance, improvement.gain > 0) == (chance, chance > 0)


def test_candidates_scored_on_different_items_are_not_compared() -> None:
    other = Outcomes((7, 8), (0.1, 0.2))
    with pytest.raises(InvalidConfig, match="scored on different items"):
        expected_improvement({"up": other}, [{"up": items([0.1, 0.2, 0.3])}], ONE, np.array([0.0]))


@pytest.mark.parametrize(
    "wrong",
    [
        {"block": [1]},
        {"blocks": [0.5]},
        {"blocks": [0.5, 0.5, 1]},
        {"blocks": [0.5, 0.25, 1]},
        {"blocks": [0, 1]},
        {"blocks": ["a", 1]},
        {"blocks": []},
        {"blocks": 3},
        {"gain": "x"},
        {"chance": None},
    ],
)
def test_settings_that_make_no_race_are_refused(wrong: dict) -> None:
    with pytest.raises(InvalidConfig, match="racing: found"):
        settings_of(wrong)
    assert settings_of(False) == {}
    assert settings_of(True) == DEFAULTS
    assert settings_of({"chance": 0.2})["chance"] == 0.2
    assert settings_of({"blocks": (0.5, 1)})["blocks"] == [0.5, 1]


@pytest.mark.parametrize("function", [lambda w: [[0.5]], lambda w, *, seed=0: [[0.5]]])
def test_a_search_says_at_once_that_its_function_can_not_race(function: Any) -> None:
    with pytest.raises(InvalidConfig, match="does not take: got an unexpected keyword"):
        search(function, 3, ["max"], racing=True)


# --- a raced study whose items are known ---

ITEMS = 48
BLOCKS = [0.125, 0.25, 0.5, 1.0]
_COMMON = np.random.default_rng(11).normal(size=(2, ITEMS))


def values_of(w: np.ndarray) -> dict[str, np.ndarray]:
    """Outcomes of a merge by objective, (ITEMS,) each: its quality, the items' and its own luck."""
    luck = np.random.default_rng([int(1e6 * x) for x in w]).normal(size=(2, ITEMS))
    best = np.array([[0.8, 0.2, 0.0], [0.1, 0.9, 0.0]])
    quality = -((w - best) ** 2).sum(axis=1)
    return {f"f{j}": quality[j] + 0.5 * _COMMON[j] + 0.1 * luck[j] for j in range(2)}


class Known:
    """Scores from `values_of`, counts what was evaluated, and may die before its k-th job."""

    def __init__(self, plan: Plan, dies_before: int = -1) -> None:
        self.plan, self.dies_before = plan, dies_before
        self.jobs: list[Job] = []
        self.seen: list[tuple[int, str, int]] = []  # (trial, split, item)

    def __call__(self, job: Job) -> Evaluation:
        if len(self.jobs) == self.dies_before:
            raise KeyboardInterrupt
        self.jobs.append(job)
        everything = values_of(np.array(job.recipe.vector(self.plan.names)))
        ids = part_of(range(ITEMS), job.part)
        self.seen += [(job.trial, job.split, i) for i in ids]
        found = {
            name: Outcomes(tuple(ids), tuple(everything[name][list(ids)].tolist()))
            for name in job.objectives
        }
        return evaluation_of(job, found, f"digest of {job.recipe.id}", {})


def raced(**changes: Any) -> Plan:
    racing = {"blocks": BLOCKS, "chance": 0.2, "gain": 0.0}
    return study_plan("dirichlet", 3, 2, evaluations=25, racing=racing, **changes)


def finish(plan: Plan, store: SqlStore, **options: Any) -> Known:
    scorer = Known(plan, **options)
    run(plan, store, Proposer(plan), Inline(lambda: scorer))
    return scorer


@pytest.fixture(scope="module")
def undisturbed() -> tuple[Plan, SqlStore, Known]:
    plan, store = raced(), SqlStore("sqlite://")
    store.create_study(plan)
    return plan, store, finish(plan, store)


def test_blocks_follow_one_another_and_add_up_to_the_whole(undisturbed: Any) -> None:
    plan, store, scorer = undisturbed
    trials = store.trials("study")
    assert {t.state for t in trials if t.kind == "search"} == {State.COMPLETE, State.PRUNED}
    for trial in trials:
        parts = [
            job.part for job in scorer.jobs if (job.trial, job.split) == (trial.number, "dev")
        ]
        if trial.kind != "search":
            assert parts == [(0.0, 1.0)]
            continue
        steps = list(zip([0.0, *BLOCKS], BLOCKS, strict=False))
        assert parts == steps[: len(parts)]
        assert (len(parts) == len(BLOCKS)) == (trial.state == State.COMPLETE)
        scored = [
            i for number, split, i in scorer.seen if (number, split) == (trial.number, "dev")
        ]
        assert scored == list(range(round(parts[-1][1] * ITEMS)))
        exact = values_of(np.array(trial.recipe.vector(plan.names)))
        outcomes = store.outcomes("study", trial.number, "dev")
        for name, values in exact.items():
            assert outcomes[name].values == tuple(values[: len(scored)].tolist())
            if trial.state == State.COMPLETE:
                assert trial.evaluations["dev"].scores[name] == outcomes[name].score()


def test_a_stopped_trial_is_scored_by_estimates_with_their_wider_error(undisturbed: Any) -> None:
    plan, store, _ = undisturbed
    trials = store.trials("study")
    stopped = [t for t in trials if t.state == State.PRUNED]
    assert stopped
    misses, plain = [], []
    for trial in stopped:
        for name, values in values_of(np.array(trial.recipe.vector(plan.names))).items():
            score = trial.evaluations["dev"].scores[name]
            assert score.items in {6, 12, 24}
            seen = values[: score.items]
            misses.append((score.mean - values.mean()) / score.stderr)
            plain.append((seen.mean() - values.mean()) / score.stderr)
            assert score.stderr < 1.01 * seen.std(ddof=1) / sqrt(score.items)
    assert np.sqrt(np.mean(np.square(misses))) < 1.5
    assert np.sqrt(np.mean(np.square(misses))) < 0.8 * np.sqrt(np.mean(np.square(plain)))


def test_stopped_trials_may_be_finalists(undisturbed: Any) -> None:
    """What decides is the select items, all of which they are scored on."""
    _, store, scorer = undisturbed
    trials = {t.number: t for t in store.trials("study")}
    again = {number for number, split, _ in scorer.seen if split == "select"}
    assert {trials[number].state for number in again} == {State.COMPLETE, State.PRUNED}
    for number in again:
        items = [i for n, split, i in scorer.seen if (n, split) == (number, "select")]
        assert items == list(range(ITEMS))


def test_racing_stops_no_member_of_the_true_dev_front_here(undisturbed: Any) -> None:
    plan, store, scorer = undisturbed
    trials = store.trials("study")
    means = np.array(
        [
            [v.mean() for v in values_of(np.array(t.recipe.vector(plan.names))).values()]
            for t in trials
        ]
    )
    front = {
        t.number
        for t, mine in zip(trials, means, strict=True)
        if not ((means >= mine).all(1) & (means > mine).any(1)).any()
    }
    lost_members = front & {t.number for t in trials if t.state == State.PRUNED}
    assert len(lost_members) <= 0.25 * len(front)  # a chance of 0.2 is given up on purpose
    evaluated = sum(split == "dev" for _, split, _ in scorer.seen)
    assert evaluated < 0.8 * ITEMS * len(trials)


@pytest.mark.parametrize("jobs", [1, 4, 6, 7, 8, 9, 17, 30, 44])
def test_a_killed_run_resumes_at_the_next_block(undisturbed: Any, jobs: int) -> None:
    plan, whole, scorer = undisturbed
    store = SqlStore("sqlite://")
    store.create_study(plan)
    with pytest.raises(KeyboardInterrupt):
        finish(plan, store, dies_before=jobs)
    before = {(t.number, t.state) for t in store.trials("study")}
    assert any(state == "running" for _, state in before) or jobs >= 40
    rest = finish(plan, store)
    assert rest.jobs == scorer.jobs[jobs:]  # the very jobs that were left, blocks and all
    assert len(rest.seen) + sum(
        len(part_of(range(ITEMS), job.part)) for job in scorer.jobs[:jobs]
    ) == len(set(scorer.seen))
    again = [replace(t, attempts=1) for t in store.trials("study")]
    assert again == list(whole.trials("study"))


def test_properties_of_the_merge_race_along() -> None:
    few = Objective("few", "merge.nonzero")
    first = raced().objectives.all
    plan = raced(objectives=Objectives((few, *first)))
    store = SqlStore("sqlite://")
    store.create_study(plan)
    known = Known(plan)

    def score(job: Job) -> Evaluation:
        names = tuple(name for name in job.objectives if name != "few")
        found = known(replace(job, objectives=names))
        exact = Score(float(len(job.recipe.ingredients)), 0.0, 0)
        return replace(found, scores={"few": exact, **found.scores})

    run(plan, store, Proposer(plan), Inline(lambda: score))
    searched = [t for t in store.trials("study") if t.kind == "search"]
    assert {t.state for t in searched} == {State.COMPLETE, State.PRUNED}
    assert all(t.evaluations["dev"].scores["few"] == Score(3.0, 0.0, 0) for t in searched)


def test_plain_means_cannot_race() -> None:
    plan, store = raced(), SqlStore("sqlite://")
    store.create_study(plan)

    def score(job: Job) -> Evaluation:
        return evaluation_of(job, {n: Score(0.5, 0.0, 0) for n in job.objectives}, "", {})

    with pytest.raises(InvalidConfig, match="no item values, which racing needs"):
        run(plan, store, Proposer(plan), Inline(lambda: score))


# --- evaluators ---


def in_parts(evaluate: Callable[..., Any]) -> dict[str, Outcomes]:
    parts = [evaluate(part=part) for part in zip([0.0, *BLOCKS], BLOCKS, strict=False)]
    found = dict(parts[0])
    for more in parts[1:]:
        found = {name: outcomes.joined(more[name]) for name, outcomes in found.items()}
    return found


def test_lm_evals_parts_add_up_to_the_whole(tmp_path) -> None:
    objectives = (
        Objective("text", "bits_per_byte"),
        Objective("choice", "acc", cluster="group"),
        Objective("word", "exact_match"),
    )
    tokenizer = str(toy.checkpoint(tmp_path / "one"))
    items = {"dev": 30, "select": 4, "test": 4}
    settings = {"tasks": str(toy.tasks(tmp_path / "tasks")), "batch_size": 4, "max_length": 128}
    evaluator = LmEval(
        Context(objectives=objectives, items=items, tokenizer=tokenizer),
        LmEval.Settings(**settings),
    )
    model = toy.model(seed=3)
    whole = evaluator.evaluate(model, objectives, "dev")
    found = in_parts(lambda part: evaluator.evaluate(model, objectives, "dev", part=part))
    for name, outcomes in whole.items():
        assert found[name].ids == outcomes.ids
        assert found[name].clusters == outcomes.clusters
        assert found[name].weights == outcomes.weights
        assert found[name].values == pytest.approx(outcomes.values, rel=1e-5)
        assert found[name].score().stderr == pytest.approx(outcomes.score().stderr, rel=1e-5)
    assert len(set(whole["choice"].clusters)) < 30  # some items do share a group


def test_a_functions_parts_add_up_to_the_whole(tmp_path) -> None:
    (tmp_path / "in_parts.py").write_text(
        "def score(model, tokenizer, split, part=(0.0, 1.0)):\n"
        "    rows = model.get_output_embeddings().weight.norm(dim=1).tolist()\n"
        "    first, last = (round(share * len(rows)) for share in part)\n"
        "    return {'norm': rows[first:last]}\n"
    )
    tokenizer = str(toy.checkpoint(tmp_path / "one"))
    model, objectives = toy.model(seed=3), (Objective("norm", "value", "max"),)
    context = Context(objectives=objectives, items={}, tokenizer=tokenizer, root=str(tmp_path))
    evaluator = PythonEvaluator(context, PythonEvaluator.Settings(function="in_parts:score"))
    whole = evaluator.evaluate(model, objectives, "dev")
    found = in_parts(lambda part: evaluator.evaluate(model, objectives, "dev", part=part))
    assert found == whole


def test_blocks_are_joined_only_where_exact_scores_agree() -> None:
    def block(few: float, *ids: int) -> Evaluation:
        own = Outcomes(ids, tuple(float(i) for i in ids))
        return Evaluation(
            split="dev",
            scores={"few": Score(few, 0.0, 0), "up": own.score()},
            outcomes={"up": own},
        )

    joined = block(2.0, 4, 5).joined(block(2.0, 6))
    assert joined.scores == {"few": Score(2.0, 0.0, 0), "up": Score(5.0, sqrt(1 / 3), 3)}
    with pytest.raises(InvalidConfig, match="'few' came without item values"):
        block(2.0, 4, 5).joined(block(3.0, 6))


# --- from the study file to the page ---


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    racing = {"blocks": [0.25, 0.5, 1.0], "chance": 0.4, "gain": 0.0}
    return studies.build(tmp_path_factory.mktemp("raced"), evaluations=9, racing=racing)


def test_the_page_counts_the_stopped_and_draws_them_as_crosses(world) -> None:
    study = world.open().results
    table, stopped = study.front_json(), [t for t in study.trials if t.state == State.PRUNED]
    assert stopped
    assert table["counts"] == {
        "complete": len(study.trials) - len(stopped),
        "pruned": len(stopped),
        "failed": 0,
    }
    raced_trials = [t for t in study.trials if not t.is_baseline]
    evaluated = sum(s.items for t in raced_trials for s in t.evaluations["dev"].scores.values())
    assert table["item_share"] == pytest.approx(evaluated / (2 * 12 * len(raced_trials)))
    assert table["evaluations"] == len(raced_trials) == 9
    page = html_page(study)
    assert f"{len(stopped)} candidates were pruned by racing" in page
    assert f"{table['item_share']:.0%} of the item evaluations" in page
    members = {t.number for t in study.front.trials}  # on select items, whoever was stopped before
    beaten = [t for t in stopped if t.number not in members]
    assert [t.number for t in groups(study, "test")["pruned"]] == [t.number for t in beaten]
    pruned = [part for part in front_figure(study).data if part.name.startswith("pruned")]
    (crosses,) = [part for part in pruned if part.customdata is not None]
    drawn = [tuple(row) for row in crosses.customdata]
    assert drawn == [(t.means("dev")["text"], t.means("dev")["choice"]) for t in beaten]
    assert [t.number for *_, t in lost(study)] == [t.number for t in stopped]
    assert len(trace_figure(study).data[1].x) == len(stopped)


def test_trials_stopped_on_other_items_leave_the_bootstrap_paired(drawer, tmp_path) -> None:
    """While only dev items are known, those who have all of them are compared item by item.

    The others are members too, by estimates: their chances are those of their larger errors.
    """
    racing = {"blocks": [0.25, 0.5, 1.0], "chance": 0.4, "gain": 0.0}
    workspace = Workspace()
    file = toy.study_file(tmp_path, drawer[:3], evaluations=9, racing=racing)
    study = Study(submit(workspace, file).name, workspace)

    def stop(progress: Progress) -> None:
        if progress.phase == "select":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        study.run(listen=stop)
    front, trials = study.front, study.trials
    assert (front.basis, front.certainty) == ("dev", "dev")
    whole = [t for t in trials if t.state == State.COMPLETE]
    assert len(whole) < len(trials)
    outcomes = [workspace.store.outcomes("toy", t.number, "dev") for t in trials]
    scores = [t.evaluations["dev"].scores for t in trials]
    chances = probabilities(outcomes, scores, study.plan.objectives)
    expected = {t.number: p for t, p in zip(trials, chances, strict=True)}
    draws = drawn_gains(outcomes, scores, study.plan.objectives)
    alone = drawn_gains(
        [workspace.store.outcomes("toy", t.number, "dev") for t in whole],
        [t.evaluations["dev"].scores for t in whole],
        study.plan.objectives,
    )
    assert (draws[:, [t.state == State.COMPLETE for t in trials], 0] == alone[:, :, 0]).all()
    assert [m.p_nondominated for m in front.members] == [
        expected[m.trial.number] for m in front.members
    ]


def test_an_estimate_is_as_sure_as_the_items_seen_and_the_paired_rest() -> None:
    """Var = s · Var(mean of the items seen) + (1 - s) · Var(paired difference), s the share seen."""
    rng = np.random.default_rng(0)
    rival = Outcomes(tuple(range(80)), tuple(rng.normal(size=80)))
    apart = rng.normal(0.3, 0.1, 20)
    seen = Outcomes(tuple(range(20)), tuple(np.array(rival.values[:20]) + apart))
    objectives = Objectives((Objective("f0", "value", "max"),))
    found = estimate({"f0": seen}, [{"f0": rival}], objectives)["f0"]
    assert found.mean == pytest.approx(np.mean(rival.values) + apart.mean(), rel=1e-12)
    alone, paired = (x.var(ddof=1) / 20 for x in (np.array(seen.values), apart))
    assert found.stderr == pytest.approx(sqrt(alone / 4 + 3 * paired / 4), rel=1e-9)
    assert found.items == 20


def test_a_raced_merge_scores_the_same_again_from_its_folder(world, tmp_path) -> None:
    study = world.open()
    trial = next(t for t in study.trials if t.kind == "search" and t.state == State.COMPLETE)
    study.export(trial, tmp_path / "out")
    rows = rescore(study.results, study.scorer_factory().make_evaluator(), tmp_path / "out")
    assert {row["split"] for row in rows} == set(trial.evaluations)


def test_a_stopped_trial_is_exported_proved_and_shown_as_an_estimate(
    world, tmp_path, capsys
) -> None:
    study = world.open()
    stopped = [t for t in study.trials if t.state == State.PRUNED]
    trial = next(t for t in stopped if "select" in t.evaluations)
    done = study.export(trial, tmp_path / "out")
    assert done["digest"] == trial.digest
    again = {
        row["split"]
        for row in rescore(
            study.results, study.scorer_factory().make_evaluator(), tmp_path / "out"
        )
    }
    assert again == set(trial.evaluations) - {"dev"}  # those of all items
    text.trial(study.results.trial_json(trial.number))
    said = capsys.readouterr().out
    items = trial.evaluations["dev"].scores["text"].items
    assert f"(estimated from {items} items)" in said
    assert said.count("estimated") == len(study.plan.objectives.searched)

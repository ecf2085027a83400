"""Executors: inline and Ray, held to one contract, and to each other on real merges."""

import os

import pytest
import toy
from contracts.executor import ExecutorContract, drain
from contracts.merge_method import bits
from transformers import AutoModelForCausalLM

from recycler.checkpoints.pool import Pool
from recycler.errors import InvalidConfig, NotFound
from recycler.execute.inline import Inline
from recycler.execute.ray_cluster import Cluster
from recycler.execute.ray_workers import RaySettings, RayWorkers
from recycler.execute.scorer import MergeScorerFactory
from recycler.nouns.evaluation import Evaluation, Failure
from recycler.nouns.objectives import Objective, Objectives
from recycler.nouns.recipe import Ingredient, Recipe
from recycler.nouns.trial import Job


@pytest.fixture(scope="module")
def cluster():
    """One local Ray for the module, with room for two executors at once; they leave it running."""
    made = Cluster("", workers=4)
    yield
    made.close()


class TestInlineContract(ExecutorContract):
    @pytest.fixture(scope="class")
    @classmethod
    def make(cls):
        return Inline


class TestRayContract(ExecutorContract):
    workers = 2
    survives = True

    @pytest.fixture(scope="class")
    @classmethod
    def make(cls, cluster):
        return lambda factory, **settings: RayWorkers(factory, RaySettings(workers=2, **settings))


OBJECTIVES = Objectives((Objective("text", "bits_per_byte"), Objective("choice", "acc")))


@pytest.fixture(scope="module")
def factory(drawer, tmp_path_factory) -> MergeScorerFactory:
    return MergeScorerFactory(
        pool=Pool.open(drawer),
        objectives=OBJECTIVES,
        evaluator={
            "kind": "lm-eval",
            "tasks": str(toy.tasks(tmp_path_factory.mktemp("tasks"))),
            "batch_size": 8,
            "max_length": 128,
        },
        items={"dev": 10, "select": 10, "test": 10},
        dtype="float32",
    )


def jobs_of(pool: Pool) -> list[Job]:
    prints = {c.name: c.fingerprint() for c in pool.checkpoints}
    vectors = [(1, 0, 0, 0), (0.25, 0.25, 0.25, 0.25), (0.7, 0.1, 0.1, 0.1), (0, 0.5, 0.5, 0)]
    recipes = [
        Recipe(
            "linear",
            tuple(
                Ingredient(prints[name], name, float(w))
                for name, w in zip(pool.names, vector, strict=True)
            ),
            "float32",
        )
        for vector in vectors
    ]
    return [Job(i, recipe, "dev", ("text", "choice")) for i, recipe in enumerate(recipes)]


def without_costs(found: dict[int, Evaluation | Failure]):
    return {
        n: (r.digest, r.split, r.scores, r.outcomes) if isinstance(r, Evaluation) else r
        for n, r in found.items()
    }


def test_ray_and_inline_give_the_same_outcomes_and_digests(cluster, factory):
    jobs = jobs_of(factory.pool)
    inline = drain(Inline(factory), jobs)
    workers = RayWorkers(factory, RaySettings(workers=2))
    try:
        assert without_costs(drain(workers, jobs)) == without_costs(inline)
    finally:
        workers.close()
    assert all(isinstance(result, Evaluation) for result in inline.values())
    assert len({result.digest for result in inline.values()}) == 4


def test_a_scored_single_is_the_checkpoint_itself(factory, drawer):
    scorer = factory()
    single = scorer(jobs_of(factory.pool)[0])
    assert single.digest == factory.pool.checkpoints[0].fingerprint()
    plain = AutoModelForCausalLM.from_pretrained(drawer[0])
    evaluator = factory.make_evaluator()
    again = evaluator.evaluate(plain.eval(), tuple(OBJECTIVES), "dev")
    assert single.outcomes == again
    assert set(single.seconds) == {"merge", "evaluate"}
    state = scorer._resident.model.state_dict()
    assert all(bits(t) == bits(state[n]) for n, t in plain.state_dict().items())


def test_only_the_jobs_objectives_are_scored(factory):
    job = jobs_of(factory.pool)[1]
    only = factory()(Job(0, job.recipe, "select", ("choice",)))
    assert set(only.scores) == {"choice"}
    assert only.split == "select"
    assert only.scores["choice"].items == 10


def test_a_python_evaluator_beside_the_study_is_found_by_ray_workers(cluster, factory, tmp_path):
    (tmp_path / "beside_the_study.py").write_text(
        "def score(model, tokenizer, split):\n"
        "    return {'text': [float(p.sum()) for p in model.parameters()], 'choice': 0.5}\n"
    )
    evaluator = {
        "kind": "python",
        "function": "beside_the_study:score",
        "root": str(tmp_path),
    }
    own = MergeScorerFactory(factory.pool, OBJECTIVES, evaluator, factory.items, "float32")
    workers = RayWorkers(own, RaySettings(workers=1))
    try:
        found = drain(workers, jobs_of(factory.pool)[:2])
    finally:
        workers.close()
    assert all(isinstance(result, Evaluation) for result in found.values())
    assert found[0].scores["text"] != found[1].scores["text"]


def test_an_unknown_evaluator_names_the_known_ones(factory):
    wrong = MergeScorerFactory(
        factory.pool, OBJECTIVES, {"kind": "lmeval"}, factory.items, "float32"
    )
    with pytest.raises(InvalidConfig, match="'lmeval' is not a") as c:
        wrong.make_evaluator()
    assert "lm-eval" in c.value.hint


def test_workers_run_on_one_thread_each(cluster):
    workers = RayWorkers(threads, RaySettings(workers=1))
    try:
        (result,) = drain(workers, [Job(0, a_recipe(), "dev", ("a",))]).values()
    finally:
        workers.close()
    assert result == Failure("exception", "RuntimeError: 1 1 0", result.details)


def threads():
    """A factory whose scorer tells the settings of its process by failing."""

    def tell(job):
        raise RuntimeError(
            f"{os.environ['OMP_NUM_THREADS']} {os.environ['HF_HUB_OFFLINE']} {os.nice(0)}"
        )

    return tell


def a_recipe() -> Recipe:
    return Recipe("linear", (Ingredient("f", "a", 1.0),), "float32")


@pytest.mark.slow
def test_a_cluster_that_is_not_there_is_told(monkeypatch):
    """In a process of its own: Ray allows one connection a process."""
    import subprocess
    import sys

    code = (
        "from recycler.execute.ray_workers import RaySettings, RayWorkers\n"
        "from recycler.errors import NotFound\n"
        "try:\n    RayWorkers(int, RaySettings(ray_address='127.0.0.1:1'))\n"
        "except NotFound as error:\n    print('told', error.hint)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert "told start one with `ray start --head`" in done.stdout, done.stderr[-500:]
    assert issubclass(NotFound, Exception)


def test_properties_of_the_merge_are_exact_and_asked_of_no_evaluator(drawer, tmp_path) -> None:
    properties = (Objective("few", "merge.nonzero"), Objective("near", "merge.distance"))
    (tmp_path / "lonely.py").write_text(
        "def score(model, tokenizer, split):\n    raise RuntimeError('nobody should ask')\n"
    )
    pool = Pool.open(drawer[1:], drawer[0])
    made = MergeScorerFactory(
        pool=pool,
        objectives=Objectives(properties),
        evaluator={"kind": "python", "function": "lonely:score", "root": str(tmp_path)},
        items={},
        dtype="float32",
    )()
    tensors = [AutoModelForCausalLM.from_pretrained(folder).state_dict() for folder in drawer[:3]]
    for w in ((0.25, 0.75), (1.0, 0.0), (0.5, 0.5)):
        recipe = Recipe(
            "linear",
            tuple(
                Ingredient(c.fingerprint(), c.name, x)
                for c, x in zip(pool.checkpoints, w, strict=False)
            ),
            "float32",
        )
        for split in ("dev", "test"):
            found = made(Job(0, recipe, split, ("few", "near")))
            moved = norm = 0.0
            for name, base in tensors[0].items():
                merge = w[0] * tensors[1][name].double() + w[1] * tensors[2][name].double()
                moved += float((merge - base.double()).square().sum())
                norm += float(base.double().square().sum())
            few, near = found.scores["few"], found.scores["near"]
            assert (few.mean, few.stderr, few.items) == (sum(x > 0 for x in w), 0.0, 0)
            assert near.mean == pytest.approx((moved / norm) ** 0.5, rel=1e-6)
            assert (near.stderr, near.items, found.outcomes) == (0.0, 0, {})

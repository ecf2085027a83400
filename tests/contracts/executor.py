"""What every executor must do (see `recycler.protocols.Executor`).

To hold your own executor to it, subclass in a test file and say how one is made:

    class TestMine(ExecutorContract):
        workers = 2                # how many it is made with
        survives = True            # whether it outlives a worker that dies or hangs

        @pytest.fixture(scope="class")
        @classmethod
        def make(cls):             # -> a function (factory, **options) that makes an executor
            return lambda factory, **options: MyExecutor(factory, 2, **options)

Factories and scorers here are plain top-level code, so they travel to other processes by name.
"""

import os
import time
from typing import ClassVar

import pytest

from recycler.errors import InvalidConfig, RecyclerError
from recycler.nouns.evaluation import Evaluation, Failure, Score
from recycler.nouns.recipe import Ingredient, Recipe
from recycler.nouns.trial import Job

HANG = 600.0  # seconds, far beyond any time limit here


def job(number: int, what: str = "score") -> Job:
    """A job whose split's word is what the scorer shall do."""
    recipe = Recipe("linear", (Ingredient("f", "a", 1.0 + number),), "float32")
    return Job(number, recipe, what, ("a",))


def behave(task: Job) -> Evaluation:
    """A scorer that obeys: scores, raises, dies or hangs; its score tells the job's weight."""
    if task.split == "raise":
        raise ZeroDivisionError("on purpose")
    if task.split == "mistake":
        raise InvalidConfig("a mistake", hint="mend it")
    if task.split == "die":
        os._exit(3)
    if task.split == "hang":
        time.sleep(HANG)
    if task.split.startswith("die-once:") and not os.path.exists(path := task.split[9:]):
        with open(path, "w"):
            os._exit(3)
    weight = task.recipe.ingredients[0].weight
    return Evaluation(split=task.split, scores={"a": Score(weight, float(os.getpid()), 1)})


def obedient():
    """Factory of `behave`."""
    return behave


def misconfigured():
    """A factory that finds the user's settings wrong."""
    raise InvalidConfig("no such task", hint="name another")


def drain(executor, jobs: list[Job]) -> dict[int, Evaluation | Failure]:
    """Submit while there is room, wait until all are back; each must come back once."""
    waiting, flying, found = list(jobs), 0, {}
    while waiting or flying:
        while waiting and executor.free > 0:
            executor.submit(waiting.pop(0))
            flying += 1
        back = executor.wait()
        assert back, "wait returns at least one result"
        for task, result in back:
            assert task.trial not in found, "a job came back twice"
            found[task.trial] = result
            flying -= 1
    return found


class ExecutorContract:
    """Subclass it, set `workers`, `survives` and `make`, and pytest runs the suite."""

    workers: ClassVar[int] = 1
    survives: ClassVar[bool] = False

    @pytest.fixture(scope="class")
    @classmethod
    def executor(cls, make):
        made = make(obedient)
        yield made
        made.close()

    def test_every_job_comes_back_once_with_its_own_scores(self, executor):
        found = drain(executor, [job(i) for i in range(7)])
        assert {n: r.scores["a"].mean for n, r in found.items()} == {i: 1.0 + i for i in range(7)}

    def test_free_counts_the_jobs_that_could_start(self, executor):
        assert executor.free == self.workers
        executor.submit(job(0))
        assert executor.free == self.workers - 1
        assert len(executor.wait()) == 1
        assert executor.free == self.workers

    @pytest.mark.parametrize(
        ("what", "message"),
        [("raise", "ZeroDivisionError: on purpose"), ("mistake", "a mistake")],
    )
    def test_an_exception_is_a_failure_and_the_others_go_on(self, executor, what, message):
        found = drain(executor, [job(0), job(1, what), job(2), job(3)])
        assert isinstance(found[1], Failure)
        assert (found[1].kind, found[1].message) == ("exception", message)
        assert "behave" in found[1].details  # the place in the user's code
        assert [found[i].scores["a"].mean for i in (0, 2, 3)] == [1.0, 3.0, 4.0]

    def test_a_worker_that_can_not_be_set_up_is_the_studys_error(self, make):
        executor = make(misconfigured)
        try:
            executor.submit(job(0))
            with pytest.raises(RecyclerError, match="no such task") as caught:
                executor.wait()
            assert caught.value.hint == "name another"
        finally:
            executor.close()

    def test_a_worker_that_dies_on_a_job_gives_it_up_and_the_others_finish(self, executor):
        if not self.survives:
            pytest.skip("this executor shares the fate of its worker")
        found = drain(executor, [job(0), job(1, "die"), *(job(i) for i in range(2, 6))])
        assert isinstance(found[1], Failure)
        assert found[1].kind == "worker-died"
        assert all(isinstance(found[i], Evaluation) for i in (0, 2, 3, 4, 5))
        assert executor.free == self.workers

    def test_a_job_whose_worker_died_once_is_tried_again(self, executor, tmp_path):
        if not self.survives:
            pytest.skip("this executor shares the fate of its worker")
        found = drain(executor, [job(0, f"die-once:{tmp_path / 'mark'}")])
        assert found[0].scores["a"].mean == 1.0
        assert (tmp_path / "mark").exists()

    def test_a_job_over_the_time_limit_is_given_up_and_its_worker_replaced(self, make):
        if not self.survives:
            pytest.skip("this executor shares the fate of its worker")
        executor = make(obedient, timeout=6.0)
        try:
            drain(executor, [job(i) for i in range(self.workers)])  # workers are up
            start = time.monotonic()
            found = drain(executor, [job(0, "hang"), *(job(i) for i in range(1, 5))])
            assert time.monotonic() - start < 60
            assert isinstance(found[0], Failure)
            assert found[0].kind == "timeout"
            assert all(isinstance(found[i], Evaluation) for i in range(1, 5))
            assert executor.free == self.workers
        finally:
            executor.close()

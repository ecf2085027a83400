"""Contract of executors (see `recycler.protocols.Executor`).

To test your own executor, subclass the suite in a test file and say how to make one:

    class TestMine(ExecutorContract):
        workers = 2                # number of workers
        survives = True            # whether it survives a worker that dies or hangs

        @pytest.fixture(scope="class")
        @classmethod
        def make(cls):             # -> a function (factory, **settings) that makes an executor
            return lambda factory, **settings: MyExecutor(factory, MySettings(**settings))

Factories and scorers here are top-level code, so they can be pickled by name.
"""

import ctypes
import errno
import os
import signal
import time
from typing import ClassVar

import pytest

from recycler.errors import BrokenCheckpoint, InvalidConfig, RecyclerError
from recycler.nouns.evaluation import Evaluation, Failure, Fault, Score
from recycler.nouns.recipe import Ingredient, Recipe
from recycler.nouns.trial import Job
from recycler.settings import checked

HANG = 600.0  # seconds, far beyond any time limit here


def job(number: int, what: str = "score") -> Job:
    """Return a job whose `split` tells the scorer `behave` what to do."""
    recipe = Recipe("linear", (Ingredient("f", "a", 1.0 + number),), "float32")
    return Job(number, recipe, what, ("a",))


def behave(task: Job) -> Evaluation:
    """Score, raise, die or hang as the job's split says; the score is the job's weight."""
    if task.split == "raise":
        raise ZeroDivisionError("on purpose")
    if task.split == "mistake":
        raise InvalidConfig("a mistake", hint="mend it")
    if task.split == "disk":
        raise OSError(errno.ENOSPC, "No space left on device")
    if task.split == "die":
        os._exit(3)
    if task.split == "segfault":
        ctypes.string_at(0)
    if task.split == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if task.split.startswith("broken:"):  # a state that stays, as after a device-side assert
        return _in_broken_process(task)
    if task.split == "hang":
        time.sleep(HANG)
    if task.split.startswith("die-once:") and not os.path.exists(path := task.split[9:]):
        with open(path, "w"):
            os._exit(3)
    weight = task.recipe.ingredients[0].weight
    return Evaluation(split=task.split, scores={"a": Score(weight, float(os.getpid()), 1)})


_broken: list[str] = []


def _in_broken_process(task: Job) -> Evaluation:
    """Break the first process that sees this job for good; others stay intact."""
    mark = task.split.removeprefix("broken:")
    if not os.path.exists(mark):
        with open(mark, "w"):
            _broken.append(mark)
    if _broken:
        raise RuntimeError("CUDA error: device-side assert triggered")
    return Evaluation(split=task.split, scores={"a": Score(1.0, float(os.getpid()), 1)})


def obedient():
    """Factory that returns `behave`."""
    return behave


def misconfigured():
    """Factory that rejects the settings."""
    raise InvalidConfig("no such task", hint="name another")


def late():
    """Factory that takes longer than a job's time limit."""
    time.sleep(6.0)
    return behave


def untold():
    """Factory that raises an unexpected exception."""
    raise ValueError("size mismatch for lm_head.weight")


class WithoutFile:
    """Factory that needs a file, such as weights, that may be missing for a while."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __call__(self):
        if not os.path.exists(self.path):
            raise BrokenCheckpoint(f"{self.path} is gone.", hint="restore it")
        return behave


def at_full_strength(executor, workers: int, seconds: float = 90.0) -> None:
    """Wait until all workers are ready."""
    deadline = time.monotonic() + seconds
    while executor.free < workers:
        assert time.monotonic() < deadline, f"{executor.free} of {workers} workers are ready"
        time.sleep(0.1)


def drain(executor, jobs: list[Job]) -> dict[int, Evaluation | Failure]:
    """Submit jobs while there is room and wait for all; each must come back once."""
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
    """Subclass it and set `workers`, `survives` and `make`; pytest runs the suite."""

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

    def test_free_counts_the_workers_that_are_ready(self, executor):
        at_full_strength(executor, self.workers)
        executor.submit(job(0))
        assert executor.free == self.workers - 1
        assert len(executor.wait()) == 1
        assert executor.free == self.workers

    def test_its_settings_are_a_model_that_knows_workers_and_refuses_what_it_does_not(
        self, executor
    ):
        model = type(executor).Settings
        assert checked(model, {"workers": self.workers}, "execution").workers == self.workers
        for wrong in ({"wokers": 1}, {"workers": 0}, {"workers": "1"}, {"workers": True}):
            with pytest.raises(InvalidConfig):
                checked(model, wrong, "execution")

    @pytest.mark.parametrize(
        ("what", "kind", "fault", "message"),
        [
            ("raise", "exception", Fault.CANDIDATE, "ZeroDivisionError: on purpose"),
            ("mistake", "setup", Fault.SETUP, "a mistake"),
            ("disk", "system", Fault.ENVIRONMENT, "OSError: [Errno 28] No space left on device"),
        ],
    )
    def test_an_exception_is_a_failure_and_the_others_go_on(
        self, executor, what, kind, fault, message
    ):
        found = drain(executor, [job(0), job(1, what), job(2), job(3)])
        assert isinstance(found[1], Failure)
        assert (found[1].kind, found[1].fault) == (kind, fault)
        assert found[1].message.removesuffix(" (tried 3 times)") == message
        assert "behave" in found[1].details  # the place in the user's code
        assert [found[i].scores["a"].mean for i in (0, 2, 3)] == [1.0, 3.0, 4.0]

    @pytest.mark.parametrize(
        ("factory", "message", "hint"),
        [(misconfigured, "no such task", "name another"), (untold, "size mismatch", "untold")],
    )
    def test_a_worker_that_can_not_be_set_up_is_the_studys_error(
        self, make, factory, message, hint
    ):
        executor = make(factory)
        try:
            executor.submit(job(0))
            with pytest.raises(RecyclerError, match=message) as caught:
                executor.wait()
            assert hint in caught.value.hint
        finally:
            executor.close()

    def test_a_worker_without_its_files_is_the_environments_fault_until_they_are_back(
        self, make, tmp_path
    ):
        executor = make(WithoutFile(str(tmp_path / "weights")))
        try:
            (failure,) = drain(executor, [job(0)]).values()
            assert (failure.kind, failure.fault) == ("checkpoint", Fault.ENVIRONMENT)
            (tmp_path / "weights").touch()
            assert isinstance(drain(executor, [job(0)])[0], Evaluation)
        finally:
            executor.close()

    def test_a_process_whose_state_is_broken_gets_no_other_job(self, make, tmp_path):
        if not self.survives:
            pytest.skip("this executor shares the fate of its worker")
        executor = make(obedient)
        try:
            broken = [job(i, f"broken:{tmp_path / 'mark'}") for i in range(6)]
            assert all(isinstance(r, Evaluation) for r in drain(executor, broken).values())
        finally:
            executor.close()

    @pytest.mark.parametrize("way", ["die", "killed", "segfault"])
    def test_a_worker_that_dies_on_a_job_gives_it_up_and_the_others_finish(self, executor, way):
        if not self.survives:
            pytest.skip("this executor shares the fate of its worker")
        found = drain(executor, [job(0), job(1, way), *(job(i) for i in range(2, 6))])
        assert isinstance(found[1], Failure)
        assert (found[1].kind, found[1].fault) == ("worker-died", Fault.ENVIRONMENT)
        assert found[1].message.endswith("(tried 3 times)")
        assert all(isinstance(found[i], Evaluation) for i in (0, 2, 3, 4, 5))
        at_full_strength(executor, self.workers)

    def test_a_job_whose_worker_died_once_is_tried_again(self, executor, tmp_path):
        if not self.survives:
            pytest.skip("this executor shares the fate of its worker")
        found = drain(executor, [job(0, f"die-once:{tmp_path / 'mark'}")])
        assert found[0].scores["a"].mean == 1.0
        assert (tmp_path / "mark").exists()

    def test_a_job_over_the_time_limit_is_given_up_after_a_second_try_elsewhere(self, make):
        if not self.survives:
            pytest.skip("this executor shares the fate of its worker")
        executor = make(obedient, timeout=4.0)
        try:
            at_full_strength(executor, self.workers)
            start = time.monotonic()
            found = drain(executor, [job(0, "hang"), *(job(i) for i in range(1, 5))])
            assert 8.0 < time.monotonic() - start < 60
            assert isinstance(found[0], Failure)
            assert (found[0].kind, found[0].fault) == ("timeout", Fault.CANDIDATE)
            assert all(isinstance(found[i], Evaluation) for i in range(1, 5))
            at_full_strength(executor, self.workers)
        finally:
            executor.close()

    def test_the_time_limit_does_not_count_what_comes_before_the_work(self, make):
        if not self.survives:
            pytest.skip("this executor shares the fate of its worker")
        executor = make(late, timeout=3.0)
        try:
            found = drain(executor, [job(i) for i in range(3)])
            assert all(isinstance(result, Evaluation) for result in found.values())
        finally:
            executor.close()

"""Ray workers on real clusters: what the cluster does to them, and what they leave behind."""

import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import ray
from contracts.executor import at_full_strength, drain, job, obedient
from ray.cluster_utils import Cluster as Nodes

from recycler.errors import Conflict, InvalidConfig
from recycler.execute.ray_workers import RaySettings, RayWorkers
from recycler.nouns.evaluation import Evaluation, Failure, Fault, Score
from recycler.nouns.trial import Job

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def nodes():
    """A cluster of one node with two CPUs and no GPU, as an administrator starts it."""
    made = Nodes(initialize_head=True, head_node_args={"num_cpus": 2, "num_gpus": 0})
    yield made
    ray.shutdown()
    made.shutdown()


def workers(nodes, count: int = 2, **settings) -> RayWorkers:
    made = RaySettings(workers=count, ray_address=nodes.address, **settings)
    return RayWorkers(obedient, made)


def test_workers_that_fit_on_no_node_are_refused_with_what_the_cluster_has(nodes) -> None:
    with pytest.raises(InvalidConfig) as refused:
        workers(nodes, gpus=1)
    assert refused.value.message == (
        "each of the 2 workers asks for 1 CPU and 1 GPU; no node has that: the cluster has 2 of 2 "
        "CPUs free and 0 of 0 GPUs free."
    )
    assert not ray.is_initialized()


def test_with_fewer_places_than_workers_it_says_so_and_runs_with_those(nodes, caplog) -> None:
    with caplog.at_level(logging.WARNING, "recycler"):
        executor = workers(nodes, 8)
    try:
        assert "each of the 8 workers asks for 1 CPU; 2 fit" in caplog.text
        assert len(drain(executor, [job(i) for i in range(5)])) == 5
        at_full_strength(executor, 2)
        assert executor.free == 2
    finally:
        executor.close()


def test_a_place_that_others_hold_is_waited_for_and_then_told_as_the_environments(nodes) -> None:
    ray.init(address=nodes.address, log_to_driver=False)
    try:
        others = RayWorkers(obedient, RaySettings(workers=2))
        at_full_strength(others, 2)
        executor = RayWorkers(obedient, RaySettings(workers=2, start_timeout=3.0))
        (failure,) = drain(executor, [job(0)]).values()
        assert isinstance(failure, Failure)
        assert (failure.kind, failure.fault) == ("no-place", Fault.ENVIRONMENT)
        assert "0 of 2 CPUs free" in failure.message
        others.close()
        tries = (drain(executor, [job(0)])[0] for _ in range(20))
        assert any(isinstance(result, Evaluation) for result in tries)
        executor.close()
        assert ray.is_initialized()  # the connection is the user's
    finally:
        ray.shutdown()


def test_a_runtime_environment_that_can_not_be_set_up_ends_the_run(nodes) -> None:
    ray.init(
        address=nodes.address, log_to_driver=False, runtime_env={"conda": "there-is-no-such-one"}
    )
    try:
        executor = RayWorkers(obedient, RaySettings(workers=1))
        executor.submit(job(0))
        with pytest.raises(InvalidConfig, match="a worker can't be set up"):
            executor.wait()
        executor.close()
    finally:
        ray.shutdown()


def test_an_address_other_than_that_of_the_connection_is_refused(nodes) -> None:
    ray.init(address=nodes.address, log_to_driver=False)
    try:
        with pytest.raises(Conflict, match="is connected to the Ray cluster at"):
            RayWorkers(obedient, RaySettings(ray_address="192.0.2.77:6379"))
        executor = workers(nodes, 1)
        assert isinstance(drain(executor, [job(0)])[0], Evaluation)
        executor.close()
    finally:
        ray.shutdown()


def test_jobs_of_a_node_that_is_lost_are_done_on_another(nodes) -> None:
    second = nodes.add_node(num_cpus=1)
    nodes.wait_for_nodes()
    executor = RayWorkers(slow, RaySettings(workers=3, ray_address=nodes.address))
    try:
        at_full_strength(executor, 3)
        for i in range(3):
            executor.submit(job(i))
        nodes.remove_node(second)
        found: dict[int, Evaluation | Failure] = {}
        while len(found) < 3:
            found |= {task.trial: result for task, result in executor.wait()}
        assert all(isinstance(result, Evaluation) for result in found.values())
        assert len(drain(executor, [job(i) for i in range(3)])) == 3  # and it goes on with two
    finally:
        executor.close()


def slow():
    return _slow


def _slow(task: Job) -> Evaluation:
    time.sleep(3.0)
    return Evaluation(split=task.split, scores={"a": Score(1.0, 0.0, 1)})


HOG = 3 << 30  # bytes


def hungry():
    return _eat


def _eat(task: Job) -> Evaluation:
    if task.split == "hog":
        held = bytearray(HOG)
        held[:: 1 << 12] = b"x" * len(held[:: 1 << 12])
        time.sleep(60.0)
    return Evaluation(split=task.split, scores={"a": Score(1.0, 0.0, 1)})


def test_a_worker_that_rays_memory_monitor_kills_is_replaced() -> None:
    memory = psutil.virtual_memory()
    if memory.available < 3 * HOG:
        pytest.skip("needs 9 GB of free memory")
    limit = 1.0 - (memory.available - HOG / 2) / memory.total
    made = Nodes(
        initialize_head=True,
        head_node_args={
            "num_cpus": 2,
            "_system_config": {"memory_usage_threshold": limit, "memory_monitor_refresh_ms": 100},
        },
    )
    try:
        executor = RayWorkers(hungry, RaySettings(workers=2, ray_address=made.address))
        found = drain(executor, [job(0), job(1, "hog"), *(job(i) for i in range(2, 6))])
        assert isinstance(found[1], Failure)
        assert (found[1].kind, found[1].fault) == ("out-of-memory", Fault.ENVIRONMENT)
        assert "Ray killed it" in found[1].message
        assert all(isinstance(found[i], Evaluation) for i in (0, 2, 3, 4, 5))
        executor.close()
    finally:
        ray.shutdown()
        made.shutdown()


# --- what is left behind ---

DRIVER = """
import os, sys, time
from contracts.executor import drain, job, obedient
from recycler.execute.ray_workers import RaySettings, RayWorkers
for _ in range(int(sys.argv[1])):
    executor = RayWorkers(obedient, RaySettings(workers=2))
    assert len(drain(executor, [job(i) for i in range(3)])) == 3
    print("up", executor._cluster._folder, flush=True)
    if len(sys.argv) > 2:
        time.sleep(600)
    executor.close()
assert "RAY_AUTH_TOKEN" not in os.environ
"""


@pytest.fixture
def home(tmp_path: Path):
    """The environment of a driver with a home and a temporary folder of its own."""
    rays = Path(f"/tmp/r{os.getpid()}")
    rays.mkdir()
    path = os.pathsep.join(
        p for p in (str(Path(__file__).parent), os.environ.get("PYTHONPATH")) if p
    )
    own = {"HOME": str(tmp_path), "RECYCLER_RAY_DIR": str(rays), "PYTHONPATH": path}
    yield {**os.environ, **own}
    shutil.rmtree(rays)


def driver(environment: dict[str, str], *arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def of_ray(folder: str) -> list[psutil.Process]:
    """Processes that were started with this folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if any(folder in part for part in process.cmdline()):
                found.append(process)
        except psutil.Error:  # it ended meanwhile
            continue
    return found


def shared_memory() -> set[str]:
    """What lies in shared memory and is no database's."""
    return {name for name in os.listdir("/dev/shm") if not name.startswith("PostgreSQL")}


def test_two_studies_at_once_and_one_after_the_other_leave_nothing(home, tmp_path) -> None:
    before = shared_memory()
    both = [driver(home, "2"), driver(home, "1")]
    told = [process.communicate(timeout=240) for process in both]
    for process, (_, err) in zip(both, told, strict=True):
        assert process.returncode == 0, err[-3000:]
    folders = [line.split()[1] for out, _ in told for line in out.splitlines()]
    assert len(set(folders)) == 3
    assert os.listdir(home["RECYCLER_RAY_DIR"]) == []
    assert not any(of_ray(folder) for folder in folders)
    assert not (tmp_path / ".ray").exists()  # no token that others can read
    assert shared_memory() <= before


def test_the_cluster_of_a_driver_that_is_killed_ends_and_its_folder_goes_with_the_next_run(home):
    with driver(home, "1", "stay") as process:
        assert process.stdout is not None
        folder = process.stdout.readline().split()[1]
        assert of_ray(folder)
        process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 60
    while (left := of_ray(folder)) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert not left
    assert os.listdir(home["RECYCLER_RAY_DIR"])
    with driver(home, "1") as again:
        assert again.wait(timeout=120) == 0
    assert os.listdir(home["RECYCLER_RAY_DIR"]) == []

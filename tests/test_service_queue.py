"""The queue of the service: order, limits, processes that die, exports and their archives."""

import io
import os
import signal
import tarfile
import time
from pathlib import Path

import psutil
import pytest
import services
import studies
import toy
import yaml

from recycler.errors import Conflict, Unavailable
from recycler.nouns.operation import OperationState
from recycler.service.archive import Archive
from recycler.store.operations import ATTEMPTS
from recycler.store.sql import SqlStore
from recycler.study import Study
from recycler.submit.workspace import Workspace

# --- the queue in the ledger, on both databases ---


@pytest.fixture
def queue(url):
    """The queue of an empty ledger, on SQLite and on PostgreSQL."""
    store = SqlStore(url)
    yield store.operations
    store.close()


def test_operations_wait_in_the_order_of_priority_then_arrival(queue):
    asked = [queue.ask("run", f"s{i}", {}, priority=p) for i, p in enumerate((0, 5, 0, 5))]
    assert [found.subject for found in queue.waiting(["run"])] == ["s1", "s3", "s0", "s2"]
    assert queue.waiting(["export"]) == []
    queue.cancel(asked[1].id)
    assert [found.subject for found in queue.waiting(["run"])] == ["s3", "s0", "s2"]
    with pytest.raises(Conflict):
        queue.cancel(asked[1].id)
    assert queue.counts()["queued"] == 3


def test_a_full_queue_refuses_and_keeps_what_it_has(queue):
    for i in range(3):
        queue.ask("run", f"s{i}", {}, most=3)
    with pytest.raises(Unavailable, match="3 operations wait"):
        queue.ask("run", "s3", {}, most=3)
    assert queue.counts()["queued"] == 3


def test_one_process_at_a_time_works_on_an_operation(queue):
    asked = queue.ask("export", "s", {"a": 1})
    with queue.hold(asked.id) as held:
        assert queue.get(asked.id).alive
        with pytest.raises(Conflict, match="running"), queue.hold(asked.id):
            pass
        assert queue.bury() == []
        held.tell({"done": 1, "total": 2})
        assert held.end(OperationState.DONE, {"x": 1})
    ended = queue.get(asked.id)
    assert (ended.state, ended.result, ended.progress) == (
        "done",
        {"x": 1},
        {"done": 1, "total": 2},
    )
    with pytest.raises(Conflict), queue.hold(asked.id):
        pass


def test_an_operation_whose_process_is_gone_is_done_again_a_few_times(queue):
    """The token is dropped as a dead process would: its row stays, nobody holds it."""
    asked = queue.ask("export", "s", {})
    for attempt in range(1, ATTEMPTS + 1):
        with queue.hold(asked.id):
            pass
        assert not queue.get(asked.id).alive
        queue.bury(lambda id: "It printed boo.")
        state = "queued" if attempt < ATTEMPTS else "failed"
        assert (queue.get(asked.id).state, queue.get(asked.id).attempts) == (state, attempt)
    assert "boo" in queue.get(asked.id).error["error"]


def test_a_cancelled_operation_is_told_so(queue):
    asked, heard = queue.ask("export", "s", {}), []
    with queue.hold(asked.id) as held:
        held.on_cancel(lambda: heard.append(True))
        queue.cancel(asked.id)
        until = time.monotonic() + 10
        while not heard and time.monotonic() < until:
            time.sleep(0.05)
        held.end(OperationState.CANCELLED)
    assert heard == [True]
    assert queue.get(asked.id).state == "cancelled"


# --- a real service ---


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A finished study, and a service over its ledger."""
    root = tmp_path_factory.mktemp("served")
    made = studies.build(root)
    section = yaml.safe_load(made.file.read_text(encoding="utf-8"))["evaluator"]
    service = services.Service(
        root, f"sqlite:///{made.store}", evaluators={"toy": section}, limits={"studies": 1}
    )
    yield made, service
    service.close()


def document(made, name, **search):
    table = yaml.safe_load(made.file.read_text(encoding="utf-8"))
    table["evaluator"] = {"name": "toy"}
    return {**table, "study": name, "search": {**table["search"], **search}}


def test_a_study_over_http_is_the_study_of_the_command_line(world):
    made, service = world
    assert service.post("studies/validate", 200, document=document(made, "http"))["valid"]
    bill = service.done(service.post("studies/bill", document=document(made, "http")))
    assert bill["merges"][0] >= 0
    created = service.done(service.post("studies", document=document(made, "http"), start=True))
    assert service.done(created["started"])["status"] == "complete"
    own = Study("toy", Workspace(made.store)).results
    told = service.get("studies/http/front")
    assert told["members"] == own.front_json()["members"]


def test_bad_documents_are_refused_before_anything_is_queued(world):
    made, service = world
    before = service.get("operations")["operations"]
    for change, code in (
        ({"objectives": []}, "invalid-config"),
        ({"pool": [{"path": "/etc"}]}, "forbidden"),
        ({"nonsense": 1}, "invalid-config"),
        ({"search": {"evaluations": -1}}, "invalid-config"),
    ):
        given = {**document(made, "bad"), **change}
        found = service.post("studies/validate", 200, document=given)
        assert not found["valid"]
        assert found["problem"]["code"] == code
        assert found["problem"]["hint"]
        assert service.http.post("studies", json={"document": given}).status_code in (403, 422)
    assert service.get("operations")["operations"] == before


def test_pause_resume_stop_extend_clone_and_delete(world):
    made, service = world
    service.done(service.post("studies", document=document(made, "life", evaluations=200)))
    run = service.post("studies/life/start")
    conflict = service.http.post("studies/life/start", json={})
    assert (conflict.status_code, conflict.json()["code"]) == (409, "conflict")
    until = time.monotonic() + 60
    while not service.get("studies/life")["alive"] and time.monotonic() < until:
        time.sleep(0.1)
    assert service.http.delete("studies/life").status_code == 409
    assert service.post("studies/life/pause", 200)["asked"]
    assert service.done(run)["status"] == "paused"
    resumed = service.post("studies/life/resume")
    while not service.get("studies/life")["alive"] and time.monotonic() < until:
        time.sleep(0.1)
    service.post("studies/life/stop?now=true", 200)
    assert service.done(resumed)["status"] == "stopped"
    less = service.http.post("studies/life/extend", json={"evaluations": 3})
    assert (less.status_code, less.json()["code"]) == (409, "conflict")
    assert service.post("studies/life/extend", 200, evaluations=300)["evaluations"] == 300
    cloned = service.post("studies/life/clone", name="copy", changes={"search": {"seed": 7}})
    assert service.done(cloned)["study"] == "copy"
    plan = SqlStore(f"sqlite:///{made.store}").plan("copy")
    assert (plan.seed, plan.evaluations) == (7, 200)
    for name in ("life", "copy"):
        assert service.http.delete(f"studies/{name}").status_code == 200
        assert service.http.get(f"studies/{name}").status_code == 404


def test_one_study_at_a_time_and_a_stop_takes_it_out_of_the_queue(world):
    made, service = world
    for name in ("first", "second"):
        service.done(service.post("studies", document=document(made, name, evaluations=300)))
    first, second = (service.post(f"studies/{name}/start") for name in ("first", "second"))
    until = time.monotonic() + 60
    while service.get("studies/first")["status"] != "running" and time.monotonic() < until:
        time.sleep(0.1)
    assert service.get(f"operations/{first['id']}")["state"] == "running"
    assert service.get(f"operations/{second['id']}")["state"] == "queued"
    assert service.post("studies/second/stop", 200)["cancelled"] == [second["id"]]
    assert service.http.delete(f"operations/{first['id']}").status_code == 200
    assert service.wait(first)["state"] == "cancelled"
    assert service.get("studies/first")["status"] == "stopped"


def test_an_export_is_proved_and_its_archive_resumes(world):
    made, service = world
    export = service.post("studies/toy/exports", trial="pick")
    early = service.http.get(f"operations/{export['id']}/archive")
    assert early.status_code == 409
    result = service.done(export)
    assert result["digest"].startswith("sha256:")
    whole = service.http.get(f"operations/{export['id']}/archive")
    assert int(whole.headers["content-length"]) == len(whole.content)
    with tarfile.open(fileobj=io.BytesIO(whole.content)) as packed:
        packed.extractall(made.root / "unpacked", filter="data")
    (folder,) = (made.root / "unpacked").iterdir()
    from recycler.export import verify

    assert verify(folder)["digest"] == result["digest"]
    for first, last in ((0, 0), (100, 4000), (len(whole.content) - 5, None)):
        asked = f"bytes={first}-{'' if last is None else last}"
        part = service.http.get(
            f"operations/{export['id']}/archive",
            headers={"Range": asked, "If-Range": whole.headers["etag"]},
        )
        assert part.status_code == 206
        stop = len(whole.content) if last is None else last + 1
        assert part.content == whole.content[first:stop]
        assert part.headers["content-range"] == f"bytes {first}-{stop - 1}/{len(whole.content)}"
    stale = service.http.get(
        f"operations/{export['id']}/archive", headers={"Range": "bytes=5-", "If-Range": '"x"'}
    )
    assert (stale.status_code, stale.content) == (200, whole.content)
    beyond = service.http.get(
        f"operations/{export['id']}/archive", headers={"Range": "bytes=99999999-"}
    )
    assert beyond.status_code == 416
    assert service.get("exports")["exports"][0]["bytes"] == len(whole.content)
    assert service.http.delete(f"exports/{export['id']}").status_code == 200
    assert service.http.get(f"operations/{export['id']}/archive").status_code == 404


def test_what_can_not_be_done_ends_with_its_error(tmp_path):
    broken = services.Service(tmp_path, f"sqlite:///{tmp_path}/ledger.db", ray_address="")
    try:
        store = SqlStore(f"sqlite:///{tmp_path}/ledger.db")
        asked = store.operations.ask("no-such-kind", "s", {})
        kinds = store.operations.ask("export", "s", {"study": "none", "trial": 1})
        failed = broken.wait(kinds.id)
        assert failed["state"] == "failed"
        assert "none" in failed["error"]["error"]
        assert store.operations.get(asked.id).state == "queued"  # of a newer recycler: left alone
    finally:
        broken.close()


def test_a_killed_process_is_replaced_and_the_study_goes_on(world):
    made, service = world
    service.done(service.post("studies", document=document(made, "killed", evaluations=40)))
    run = service.post("studies/killed/start")
    until = time.monotonic() + 60
    while service.get("studies/killed")["spent"] < 2 and time.monotonic() < until:
        time.sleep(0.05)
    holder = service.get("studies/killed")["holder"]
    os.kill(int(holder.split()[1]), signal.SIGKILL)
    found = service.wait(run)
    assert (found["state"], found["attempts"]) == ("done", 2)
    assert service.get("studies/killed")["status"] == "complete"


def test_a_service_that_dies_leaves_studies_running_and_the_next_one_takes_over(tmp_path):
    folders = toy.drawer(tmp_path / "drawer", n=3)
    file = toy.study_file(tmp_path, folders)
    table = yaml.safe_load(file.read_text(encoding="utf-8"))
    service = services.Service(
        tmp_path, f"sqlite:///{tmp_path}/ledger.db", evaluators={"toy": table["evaluator"]}
    )
    table["evaluator"] = {"name": "toy"}
    table["search"]["evaluations"] = 60
    service.done(service.post("studies", document=table))
    run = service.post("studies/toy/start")
    until = time.monotonic() + 60
    while not service.get("studies/toy")["spent"] and time.monotonic() < until:
        time.sleep(0.05)
    holder = service.get("studies/toy")["holder"]
    service.kill()
    assert psutil.pid_exists(int(holder.split()[1]))
    service.start()
    try:
        found = service.wait(run)
        assert (found["state"], found["attempts"]) == ("done", 1)
        assert service.get("studies/toy")["status"] == "complete"
    finally:
        service.close()


# --- archives ---


def test_an_archive_is_what_tar_reads_whatever_piece_is_asked_for(tmp_path):
    folder = tmp_path / "näme \n with breaks"
    (folder / "sub").mkdir(parents=True)
    for name, size in (("a", 0), ("b", 511), ("c", 512), ("sub/" + "long" * 30, 700_001)):
        (folder / name).write_bytes(os.urandom(size))
    packed = Archive.of(folder)
    whole = b"".join(packed.read(0, packed.size))
    assert len(whole) == packed.size
    with tarfile.open(fileobj=io.BytesIO(whole)) as opened:
        found = {m.name: opened.extractfile(m).read() for m in opened.getmembers()}
    assert found == {
        f"{folder.name}/{p.relative_to(folder)}": p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file()
    }
    for start in (0, 1, 511, 512, 513, 700_000):
        for stop in (start, start + 1, start + 300_000, packed.size):
            assert b"".join(packed.read(start, stop)) == whole[start:stop]


def test_metrics_and_machine_tell_what_the_ledger_has(world):
    made, service = world
    text = service.http.get("metrics").text
    counts = service.get("machine")["operations"]
    for state, count in counts.items():
        assert f'recycler_operations{{state="{state}"}} {float(count)}' in text
    rows = SqlStore(f"sqlite:///{made.store}").studies()
    assert f'recycler_trials{{state="complete"}} {float(sum(r["complete"] for r in rows))}' in text
    disk = service.get("machine")["disk"]
    assert Path(disk["path"]) == made.root / "exports"
    assert 0 < disk["free"] <= disk["total"]

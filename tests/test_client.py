"""The client: its requests against a real service, and what it does when a connection is bad."""

import hashlib
import http.server
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from services import Service
from studies import World, finished

from recycler.checkpoints.folder import Checkpoint
from recycler.client import Client
from recycler.client.events import Event, read
from recycler.client.token import checked_url, find_token
from recycler.client.transport import WAITS
from recycler.errors import Conflict, InvalidConfig, Mismatch, NotFound, RecyclerError, Unavailable
from recycler.nouns.wire import Packed, answers_json, answers_of, trial_json, trial_of
from recycler.store.sql import SqlStore

# --- address and token ---


@pytest.mark.parametrize(
    "url", ["", "localhost:8321", "ftp://a", "http://", "http://a:x", "http://a b", "http://a?b=1"]
)
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        checked_url(url)
    assert "http://127.0.0.1:8321" in caught.value.hint


def test_a_password_in_the_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(InvalidConfig) as caught:
        checked_url("https://me:s3cret@example.org")
    assert "s3cret" not in str(caught.value)
    assert "RECYCLER_TOKEN" in caught.value.hint
    assert checked_url("https://example.org/recycler/") == "https://example.org/recycler"


def test_the_token_is_that_of_the_environment_or_of_a_file_nobody_else_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("RECYCLER_TOKEN", raising=False)
    assert find_token() == ""
    file = tmp_path / "recycler" / "token"
    file.parent.mkdir()
    file.write_text("from-file\n")
    file.chmod(0o640)
    with pytest.raises(InvalidConfig, match="0640") as caught:
        find_token()
    assert "from-file" not in str(caught.value)
    file.chmod(0o600)
    assert find_token() == "from-file"
    monkeypatch.setenv("RECYCLER_TOKEN", "from-environment")
    assert find_token() == "from-environment"
    monkeypatch.setenv("RECYCLER_TOKEN", "two\r\nX-Header: lines")
    with pytest.raises(InvalidConfig, match="does not hold one token"):
        find_token()


# --- bad connections, made by a small server ---


class Small:
    """An HTTP server whose answers a test writes; it keeps what was sent."""

    def __init__(self, answer: Any) -> None:
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _any(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                outer.seen.append((self.command, self.path, {**self.headers}))
                answer(self, len(outer.seen))

            do_GET = do_POST = _any

            def log_message(self, *arguments: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> "Small":
        return self

    def __exit__(self, *error: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


def send(handler: Any, status: int, body: Any, **headers: str) -> None:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    handler.send_response(status)
    for name, value in {"Content-Length": str(len(data)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(data)


PROBLEM = {"code": "unavailable", "detail": "the ledger is away.", "hint": "wait."}
DONE = {"id": 1, "kind": "run", "subject": "s", "arguments": {}, "state": "done", "result": {}}


def test_a_busy_server_is_asked_again_with_the_same_key() -> None:
    def answer(handler: Any, count: int) -> None:
        if count < 3:
            return send(handler, 503 if count == 1 else 429, PROBLEM, Retry_After="1")
        send(handler, 202, DONE)

    with Small(answer) as small, Client(small.url, "t0ken") as client:
        began = time.monotonic()
        assert client.start("s").id == 1
        assert time.monotonic() - began >= 2.0
    keys = {headers["Idempotency-Key"] for _, _, headers in small.seen}
    assert (len(small.seen), len(keys)) == (3, 1)
    assert small.seen[0][2]["Authorization"] == "Bearer t0ken"


def test_a_server_that_stays_busy_is_an_error_with_its_own_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("recycler.client.transport.WAITS", (0.01,) * len(WAITS))
    with Small(lambda h, count: send(h, 503, PROBLEM)) as small, Client(small.url, "") as client:
        with pytest.raises(Unavailable) as caught:
            client.health()
        assert (caught.value.message, caught.value.hint) == ("the ledger is away.", "wait.")
    assert len(small.seen) == 1 + len(WAITS)
    with (
        pytest.raises(Unavailable, match="can't be reached") as caught,
        Client(small.url) as client,
    ):
        client.health()
    assert "recycler serve" in caught.value.hint


def test_an_answer_of_something_else_is_no_traceback() -> None:
    with (
        Small(lambda h, count: send(h, 404, b"<html>")) as small,
        Client(small.url, "") as client,
        pytest.raises(RecyclerError, match="404 Not Found, and no problem document"),
    ):
        client.health()


def test_waiting_outlives_a_server_that_goes_away() -> None:
    def answer(handler: Any, count: int) -> None:
        if count == 2:  # closed without an answer, as by a killed process
            handler.close_connection = True
            return
        send(handler, 200, {**DONE, "state": "running"} if count == 1 else DONE)

    with Small(answer) as small, Client(small.url, "") as client:
        assert client.wait(1, every=0.05).state == "done"
    assert len(small.seen) == 3


def test_an_operation_that_failed_raises_its_own_error() -> None:
    error = {"error": "no trial 7.", "hint": "list them.", "code": "not-found"}
    rows = {1: {**DONE, "state": "failed", "error": error}, 2: {**DONE, "state": "cancelled"}}
    with Small(lambda h, n: send(h, 200, rows[n])) as small, Client(small.url, "") as client:
        with pytest.raises(NotFound) as caught:
            client.wait(1)
        assert caught.value.to_json() == error
        with pytest.raises(Conflict, match="was cancelled"):
            client.wait(1)


def test_events_are_read_as_the_standard_says() -> None:
    lines = [": hello", "", "event: trial", "id: 7", 'data: {"a":', "data: 1}", "", "id: 8", ""]
    assert list(read(lines)) == [Event("trial", {"a": 1}, 7)]


# --- what crosses the network ---


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return finished(tmp_path_factory.getbasetemp())


def test_a_reading_survives_the_way_through_json(world: World) -> None:
    store = SqlStore(f"sqlite:///{world.store}")
    packed = store.packed("toy")
    again = Packed.from_json(json.loads(json.dumps(packed.to_json())))
    assert again.to_json() == packed.to_json()
    one, other = store.read("toy"), again.opened(lambda number, split, objective: None)
    assert (other.plan, other.trials, other.event) == (one.plan, one.trials, one.event)
    for trial in one.trials:
        assert trial_of(json.loads(json.dumps(trial_json(trial)))) == trial
        for split in trial.evaluations:
            assert other.outcomes(trial.number, split) == one.outcomes(trial.number, split)
    kept = one.answers(0, "test", "choice")
    assert kept is not None
    assert answers_of(json.loads(json.dumps(answers_json(kept)))) == kept
    assert answers_of(answers_json(None)) is None
    store.close()


# --- a real service ---


@pytest.fixture(scope="module")
def service(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    own = {"kind": "lm-eval", "tasks": str(world.root / "tasks"), "batch_size": 16}
    found = Service(
        tmp_path_factory.mktemp("service"),
        world.store,
        checkpoints=[str(world.root)],
        evaluators={"toy": {**own, "max_length": 128}},
    )
    yield found
    found.close()


@pytest.fixture
def client(service: Service) -> Iterator[Client]:
    with Client(service.url, "") as found:
        yield found


def test_every_noun_can_be_read(client: Client, world: World) -> None:
    results = world.open().results
    assert client.health()["status"] == "ok"
    assert [row["study"] for row in client.studies()] == ["toy"]
    assert client.study("toy")["status"] == "complete"
    assert client.front("toy") == json.loads(json.dumps(results.front_json()))
    pick = client.pick("toy")
    assert pick["trial"] == results.decision.pick.number
    assert client.pick("toy", knee=True)["trial"] == results.front.knee().number
    assert client.pick("toy", prefer={"text": 1})["why"]
    assert client.trial("toy", "pick")["trial"] == pick["trial"]
    rows = list(client.trials("toy", sort="-text"))
    assert {row["number"] for row in rows} == {trial.number for trial in results.trials}
    assert [row["kind"] for row in client.trials("toy", kind=["single"])] == ["single"] * 3
    weights = {"ckpt-0": 0.5, "ckpt-1": 0.5}
    found = client.predict("toy", weights, prefer=[{"text": 1}])
    assert (len(found["predictions"]), len(found["proposals"])) == (1, 1)
    compared = client.compare("toy", "pick", 0, items="text", limit=3)
    assert len(compared["items"]["items"]) == 3
    assert client.pool("study:toy")["checkpoints"][0]["name"] == "ckpt-0"
    assert client.pools() == []
    assert client.check_pool([str(folder) for folder in world.folders])["findings"] == []
    with pytest.raises(NotFound, match="no trial 99") as caught:
        client.trial("toy", 99)
    assert caught.value.hint
    with pytest.raises(NotFound, match=r"no study 'a\.\.b'"):
        client.study("a..b")
    with pytest.raises(InvalidConfig, match="is not a name"):
        client.delete("..")


def test_events_of_a_study_come_with_numbers(client: Client) -> None:
    first = next(client.events("toy", last_id=0))
    assert first.kind in ("trial", "snapshot")
    assert first.id is None or first.id > 0


def test_a_download_goes_on_where_it_broke_and_is_proved(
    client: Client, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = client.wait(client.export("toy", "pick"))
    whole = client.transport.request("GET", f"/operations/{done.id}/archive").content
    mark = f'"{hashlib.sha256(whole).hexdigest()}"'

    def answer(handler: Any, count: int) -> None:
        if "archive" not in handler.path:
            return send(handler, 200, done.to_json())
        start = int(re.findall(r"\d+", handler.headers.get("Range", "bytes=0-"))[0])
        handler.send_response(206 if start else 200)
        handler.send_header("Content-Length", str(len(whole) - start))
        handler.send_header("ETag", mark)
        handler.end_headers()
        handler.wfile.write(whole[start : start + len(whole) // 3 + 1])
        handler.close_connection = True

    monkeypatch.setattr("recycler.client.download.PAUSE", 0.01)
    arrived: list[int] = []
    with Small(answer) as small, Client(small.url, "") as other:
        found = other.download(done, tmp_path / "out", on_bytes=lambda n, total: arrived.append(n))
        assert sum(arrived) == len(whole)
        with pytest.raises(Conflict, match="out exists"):
            other.download(done, tmp_path / "out")
    ranges = [h.get("Range") for _, path, h in small.seen if "archive" in path]
    assert len(ranges) == 3
    assert ranges[0] is None
    assert all(h["If-Range"] == mark for _, p, h in small.seen[1:] if h.get("Range"))
    result = done.result or {}
    assert found["digest"] == result["digest"] == Checkpoint.open(tmp_path / "out").fingerprint()
    names = {f.relative_to(tmp_path / "out").as_posix() for f in (tmp_path / "out").rglob("*")}
    assert names == {row["name"] for row in result["files"]}


@pytest.mark.parametrize("place", ["weights", "config", "end"])
def test_a_download_with_a_wrong_byte_leaves_nothing(
    client: Client, tmp_path: Path, place: str
) -> None:
    (done, *_) = client.operations(kind="export", state="done")
    whole = bytearray(client.transport.request("GET", f"/operations/{done.id}/archive").content)
    weights, config = whole.index(b"__metadata__") + 4000, whole.index(b'"architectures"')
    where = {"weights": weights, "config": config, "end": -1}
    whole[where[place]] ^= 1
    if place == "end":
        del whole[-3000:]

    def answer(handler: Any, count: int) -> None:
        archive = "archive" in handler.path
        send(handler, 200, bytes(whole) if archive else done.to_json(), ETag='"a"')

    with (
        Small(answer) as small,
        Client(small.url, "") as other,
        pytest.raises(Mismatch, match="not as the server's export says"),
    ):
        other.download(done, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_token_opens_a_service_that_wants_one(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = subprocess.run(
        [
            *(sys.executable, "-m", "recycler", "--store", world.store),
            *("token", "create", "reader", "--scope", "read", "--json"),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    token = json.loads(made.stdout)["secret"]
    closed = Service(tmp_path, world.store, tokens=True)
    try:
        closed.http.headers["Authorization"] = f"Bearer {token}"  # for its end
        with pytest.raises(RecyclerError) as caught, Client(closed.url, "") as client:
            client.studies()
        assert caught.value.to_json()["code"] == "unauthorized"
        assert "RECYCLER_TOKEN" in caught.value.hint
        monkeypatch.setenv("RECYCLER_TOKEN", token)
        with Client(closed.url) as client:
            assert client.studies()[0]["study"] == "toy"
            with pytest.raises(RecyclerError) as caught:
                client.stop("toy")
            assert caught.value.to_json()["code"] == "forbidden"
        assert token not in "".join(closed.said)
    finally:
        closed.close()


def test_ctrl_c_leaves_a_run_to_the_server(world: World, service: Service, tmp_path: Path) -> None:
    table = yaml.safe_load(world.file.read_text(encoding="utf-8"))
    table |= {"study": "long", "search": {"sampler": "dirichlet", "evaluations": 5000}}
    (tmp_path / "long.yaml").write_text(yaml.safe_dump(table), encoding="utf-8")
    run = subprocess.Popen(
        [sys.executable, "-m", "recycler", "run", "long.yaml"],
        env={**os.environ, "RECYCLER_SERVER": service.url},
        stderr=subprocess.PIPE,
        text=True,
        # a suite that runs in the background ignores SIGINT, and its children would too
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert run.stderr is not None
    with Client(service.url, "") as client:
        try:
            assert any("search" in line for line in iter(run.stderr.readline, ""))
            run.send_signal(signal.SIGINT)
            said = run.stderr.read()
            assert run.wait(30) == 130
            assert f"The run goes on, on {service.url}" in said
            assert "`recycler stop long` stops it" in said
            assert client.study("long")["alive"]
            assert client.stop("long", now=True)["asked"]
            (last, *_) = client.operations(kind="run", subject="long")
            client.wait(last)
            assert client.study("long")["status"] == "stopped"
            assert client.delete("long")["trials"] > 0
        finally:
            run.kill()
            run.wait()
            run.stderr.close()

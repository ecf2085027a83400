"""What the service refuses: strangers, other sites, paths, code, and more than it can hold."""

import json
import re
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx2
import psutil
import pytest
import uvicorn
import yaml
from click.testing import CliRunner

from recycler.cli.main import cli
from recycler.errors import InvalidConfig, RecyclerError
from recycler.service import broadcast, guard, replies
from recycler.service.admission import admit
from recycler.service.app import make_app
from recycler.service.config import Limits, ServiceConfig
from recycler.service.guard import attachment
from recycler.service.problems import Forbidden, Unauthorized
from recycler.service.server import require_tokens, serve
from recycler.service.state import Caller
from recycler.store import rows

OWN = {"X-Recycler": "1"}


@contextmanager
def served(config: ServiceConfig):
    """A real server on a free port; the client sends no token. Nothing in the queue is started."""
    app = make_app(config)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        settings = uvicorn.Config(app, log_level="warning", access_log=False)
        server = uvicorn.Server(settings)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        app.state.service.supervisor.close()
        try:
            with httpx2.Client(
                base_url=f"http://127.0.0.1:{listener.getsockname()[1]}/api/v1", timeout=60
            ) as client:
                client.service = app.state.service
                yield client
        finally:
            server.should_exit = True
            thread.join()


def settings(folder: Path, **more) -> ServiceConfig:
    (folder / "root").mkdir(exist_ok=True)
    given = {
        "store": f"sqlite:///{folder}/ledger.db",
        "checkpoints": (str(folder / "root"),),
        "exports": str(folder / "exports"),
        **more,
    }
    return ServiceConfig.model_validate(given)


@pytest.fixture
def local(tmp_path):
    """A service on this machine, without tokens."""
    with served(settings(tmp_path)) as client:
        yield client


@pytest.fixture
def closed(tmp_path):
    """A service that needs tokens."""
    with served(settings(tmp_path, tokens=True)) as client:
        yield client


def token(client, *scopes: str, name: str = "ann", seconds: float | None = None) -> dict[str, str]:
    secret, _ = client.service.store.access.create(name, scopes or ("read", "write"), seconds)
    return {"Authorization": f"Bearer {secret}"}


def problem(answer, status: int) -> dict:
    """The problem document of an answer."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    found = answer.json()
    assert found["status"] == status
    assert all(found[key] for key in ("detail", "hint", "code"))
    return found


def test_without_a_token_only_health_is_told(closed):
    found = problem(closed.get("/studies"), 401)
    assert "recycler token create" in found["hint"]
    assert closed.get("/studies").headers["www-authenticate"] == "Bearer"
    problem(closed.post("/pools", json={}), 401)
    problem(closed.get("/openapi.json"), 401)
    problem(closed.get("/studies", headers={"Authorization": "Bearer rcy_wrong"}), 401)
    assert closed.get("/health").status_code == 200
    assert closed.get("/studies", headers=token(closed)).status_code == 200


def test_a_token_does_what_its_scopes_say(closed):
    reads, writes = token(closed, "read"), token(closed, "write", name="bob")
    assert closed.get("/studies", headers=reads).status_code == 200
    found = problem(closed.delete("/operations/1", headers=reads), 403)
    assert "write" in found["hint"]
    problem(closed.get("/studies", headers=writes), 403)
    problem(closed.delete("/operations/1", headers=writes), 404)


def test_an_expired_or_revoked_token_is_worth_nothing(closed):
    short, revoked = token(closed, seconds=0.5), token(closed, name="bob")
    assert closed.get("/studies", headers=short).status_code == 200
    assert closed.get("/studies", headers=revoked).status_code == 200
    closed.service.store.access.revoke("bob")
    problem(closed.get("/studies", headers=revoked), 401)
    time.sleep(0.6)
    problem(closed.get("/studies", headers=short), 401)


def test_a_service_that_nobody_could_use_does_not_start(tmp_path):
    config = settings(tmp_path, host="0.0.0.0")
    service = make_app(config).state.service
    with pytest.raises(Unauthorized) as caught:
        require_tokens(service)
    assert "recycler token create" in caught.value.hint
    service.store.access.create("ann", ["read"], 0.2)
    require_tokens(service)
    time.sleep(0.3)
    with pytest.raises(Unauthorized):
        require_tokens(service)
    service.store.close()
    with pytest.raises(Unauthorized):
        serve(config.model_copy(update={"port": 0}), lambda address: pytest.fail("it listens"))


# --- other sites ---


def test_a_page_of_another_site_can_do_nothing(local, closed):
    body = {"name": "p", "checkpoints": [{"path": "x"}]}
    problem(local.post("/pools", json=body), 403)  # a form of another site, in an old browser
    foreign = {"Origin": "http://evil.example", **OWN}
    problem(local.post("/pools", json=body, headers=foreign), 403)
    problem(local.post("/pools", json=body, headers={"Origin": "null", **OWN}), 403)
    problem(local.get("/studies", headers={"Sec-Fetch-Site": "cross-site"}), 403)
    own = {"Origin": str(local.base_url).removesuffix("/api/v1/")}
    assert local.post("/pools", json=body, headers=own).status_code == 404  # past the guard
    assert local.post("/pools", json=body, headers=OWN).status_code == 404


def test_a_session_is_a_cookie_that_scripts_and_other_sites_do_not_get(closed):
    secret = token(closed)["Authorization"].removeprefix("Bearer ")
    problem(closed.post("/session", json={"token": secret}), 403)  # login by another site
    problem(closed.post("/session", json={"token": "rcy_no"}, headers=OWN), 401)
    done = closed.post("/session", json={"token": secret}, headers=OWN)
    assert done.status_code == 200
    cookie = done.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert secret not in cookie
    assert closed.get("/studies").status_code == 200  # the client keeps the cookie
    problem(closed.delete("/operations/1"), 403)  # a cookie alone changes nothing
    problem(closed.delete("/operations/1", headers=OWN), 404)
    cookies = dict(closed.cookies)
    assert closed.delete("/session", headers=OWN).status_code == 204
    problem(
        closed.get(
            "/studies", headers={"Cookie": f"recycler_session={next(iter(cookies.values()))}"}
        ),
        401,
    )


def test_a_session_ends_with_its_token(closed):
    secret = token(closed)["Authorization"].removeprefix("Bearer ")
    closed.post("/session", json={"token": secret}, headers=OWN).raise_for_status()
    closed.service.store.access.revoke("ann")
    problem(closed.get("/studies"), 401)


def test_a_stream_ends_with_its_token(closed, monkeypatch):
    monkeypatch.setattr(guard, "LOOK", 0.0)
    monkeypatch.setattr(broadcast, "QUIET", 0.2)
    ours = token(closed, "read")
    with closed.stream("GET", "/events", headers=ours, timeout=10) as stream:
        assert stream.status_code == 200
        chunks = stream.iter_raw()
        next(chunks)
        closed.service.store.access.revoke("ann")
        for _ in chunks:  # ends
            pass
    assert closed.get("/health").status_code == 200


def test_logins_are_slowed_down(closed):
    answers = [
        closed.post("/session", json={"token": f"rcy_{n}"}, headers=OWN).status_code
        for n in range(15)
    ]
    assert answers[:10] == [401] * 10
    assert answers[-1] == 429


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "10.0.0.1"])
def test_a_host_header_of_another_name_is_refused(local, host):
    found = problem(local.get("/studies", headers={"Host": host}), 421)
    assert "names" in found["hint"]


def test_configured_names_and_addresses_are_known(tmp_path):
    config = settings(tmp_path, host="0.0.0.0", names=("merge.lab",))
    with served(config) as client:
        ours = token(client)
        for host in ("merge.lab:8321", "MERGE.LAB", "10.0.0.7", "localhost:1"):
            assert client.get("/studies", headers={"Host": host, **ours}).status_code == 200
        problem(client.get("/studies", headers={"Host": "evil.example", **ours}), 421)


def test_every_answer_tells_browsers_what_it_is(local):
    for answer in (local.get("/studies"), local.get("/none"), local.get("/studies/none")):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert answer.headers["cache-control"] == "no-store"
        policy = answer.headers["content-security-policy"]
        assert "script-src 'self';" in policy
        assert "frame-ancestors 'none'" in policy
        assert "access-control-allow-origin" not in answer.headers


# --- paths ---


@pytest.fixture
def secret_model(tmp_path):
    """A folder outside the roots."""
    folder = tmp_path / "secret"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "secret"}')
    return folder


def register(client, path: str):
    return client.post("/pools", json={"name": "p", "checkpoints": [{"path": path}]}, headers=OWN)


def test_no_path_leaves_the_roots(local, tmp_path, secret_model):
    root = tmp_path / "root"
    (root / "link").symlink_to(secret_model)
    (root / "real").mkdir()
    (root / "inner").symlink_to("real")
    (tmp_path / "root-2").mkdir()
    for path in (
        str(secret_model),
        "/etc",
        f"{root}/../secret",
        "../secret",
        "real/../../secret",
        "real/../inner",
        "link",
        f"{root}/link",
        str(tmp_path / "root-2"),
        "/proc/self/root/etc",
        "/",
    ):
        found = problem(register(local, path), 403)
        assert "model_type" not in json.dumps(found)
    for path in ("%2e%2e/secret", "..%2fsecret", "~", "~root", "real%00", "none"):
        problem(register(local, path), 404)
    for path in ("real\0/../../secret", "a\nb", "x" * 4097):
        assert register(local, path).status_code in (400, 422)
    for path in ("real", "inner", str(root / "inner")):
        assert register(local, path).status_code == 202


def test_no_route_takes_encoded_steps(local, secret_model):
    for path in ("%2e%2e%2f%2e%2e%2fetc%2fpasswd", "..%252fsecret", "%00"):
        for route in (f"/studies/{path}", f"/pools/{path}", f"/studies/{path}/front"):
            assert local.get(route).status_code in (400, 404, 405)
    base = str(local.base_url).removesuffix("/api/v1/")
    with socket.create_connection((local.base_url.host, local.base_url.port)) as raw:
        raw.sendall(b"GET /static/../../app.py HTTP/1.0\r\nHost: localhost\r\n\r\n")
        assert b" 404 " in raw.makefile("rb").readline()
    assert httpx2.get(f"{base}/static/%2e%2e/%2e%2e/app.py").status_code == 404


# --- what a document may name ---


def document(**more) -> dict:
    return {"study": "s", "pool": "drawer", "objectives": [{"name": "a", "task": "t"}], **more}


CONFIGURED = {
    "ours": {"kind": "lm-eval", "tasks": "/srv/tasks", "batch_size": 8},
    "judge": {"kind": "python", "function": "judge:score"},
}
REFUSED = {
    "function": {"evaluator": {"kind": "python", "function": "os:system"}},
    "tasks": {"evaluator": {"kind": "lm-eval", "tasks": "/tmp/evil"}},
    "kind": {"evaluator": {"kind": "other"}},
    "no evaluator": {"evaluator": {"name": "none"}},
    "function of another": {"evaluator": {"name": "judge", "function": "os:system"}},
    "tasks of another": {"evaluator": {"name": "ours", "tasks": "/tmp/evil"}},
    "allow_unsafe_code": {"evaluator": {"allow_unsafe_code": True}},
    "ray_address": {"execution": {"ray_address": "ray://evil:1"}},
    "runtime_env": {"execution": {"runtime_env": {"pip": ["evil"]}}},
    "executor": {"execution": {"executor": "evil"}},
    "is a file": {"pool": "pool.yaml"},
    "checkpoint number 0": {"pool": ["/etc"]},
    "base": {"base": "/etc"},
    "reference": {"references": [{"name": "r", "path": "/etc"}]},
    "recipe file": {"references": [{"name": "r", "recipe": "/etc/passwd"}]},
}


@pytest.mark.parametrize("what", REFUSED)
def test_no_code_folder_or_host_comes_from_a_request(tmp_path, what):
    with served(settings(tmp_path, evaluators=CONFIGURED)) as client:
        asked = {"document": document(**REFUSED[what])}
        found = problem(client.post("/studies", json=asked, headers=OWN), 403)
        assert what.split(" of ")[0].removeprefix("no ") in found["detail"]
        if "evaluator" in REFUSED[what] and what != "allow_unsafe_code":
            assert "judge, ours" in found["hint"] or "batch_size" in found["hint"]
        assert client.service.store.operations.listed() == []


def test_configured_evaluators_and_own_tasks_are_admitted(tmp_path):
    config = settings(tmp_path, evaluators=CONFIGURED)
    own = CONFIGURED["ours"]
    for given, section in (
        ({"name": "ours"}, own),
        ({"name": "ours", "batch_size": 4}, {**own, "batch_size": 4}),
        (own, own),
        ({**own, "batch_size": 2, "max_length": 9}, {**own, "batch_size": 2, "max_length": 9}),
        ({"name": "judge"}, CONFIGURED["judge"]),
        ({}, {}),
        ({"kind": "lm-eval", "num_fewshot": 3}, {"kind": "lm-eval", "num_fewshot": 3}),
    ):
        made = admit(document(evaluator=given), config)
        assert made["evaluator"] == section
        assert admit(made, config) == made
    unsafe = {"allow_unsafe_code": True}
    allowed = config.model_copy(update=unsafe)
    assert admit(document(evaluator=unsafe), allowed)["evaluator"] == unsafe
    where = tmp_path / "root" / "a"
    where.mkdir()
    found = admit(document(pool=["a", {"name": "b", "path": str(where)}], base="a"), config)
    assert [entry["path"] for entry in found["pool"]] == [str(where)] * 2
    assert found["base"] == {"path": str(where)}


def test_an_execution_from_any_route_is_admitted(local):
    with pytest.raises(Forbidden):
        local.service.ask(Caller(), "run", "s", {"execution": {"ray_address": "ray://evil:1"}})
    with pytest.raises(InvalidConfig):
        local.service.ask(Caller(), "run", "s", {"execution": {"device": "cpu; evil"}})


# --- more than it can hold ---

BOMB = b"a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n"


def test_bodies_are_json_of_limited_size_and_depth(local):
    def send(content: bytes, kind: str = "application/json"):
        return local.post("/pools", content=content, headers={**OWN, "Content-Type": kind})

    for kind in (
        "application/yaml",
        "text/yaml",
        "text/plain",
        "application/x-www-form-urlencoded",
    ):
        problem(send(BOMB, kind), 415)
    problem(send(BOMB), 400)
    for bad in (b"{", b"[" * 100_000, b'{"a":' * 5000, b'{"a": "\\u0000"}', b'{"a": "\\ud800"}'):
        problem(send(bad), 400)
    problem(send(b"[" * 65 + b"]" * 65), 400)
    problem(send(b'{"name": "' + b"[" * 5000 + b'"}'), 422)  # brackets in a text are no depth
    problem(send(b" " * 2_000_001), 413)

    def chunks():
        for _ in range(40):
            yield b" " * 100_000

    headers = {**OWN, "Content-Type": "application/json"}
    problem(local.post("/pools", content=chunks(), headers=headers), 413)
    assert local.get("/studies").status_code == 200


def test_an_endless_body_is_cut_off_in_little_memory(local):
    head = b"POST /api/v1/pools HTTP/1.1\r\nHost: localhost\r\nX-Recycler: 1\r\n"
    head += b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    before = psutil.Process().memory_info().rss
    sent = 0
    with socket.create_connection((local.base_url.host, local.base_url.port)) as raw:
        raw.sendall(head)
        with suppress(ConnectionError):
            while sent < 500 << 20:
                raw.sendall(b"10000\r\n" + b" " * 65536 + b"\r\n")
                sent += 65536
    assert sent < 100 << 20
    assert psutil.Process().memory_info().rss - before < 50 << 20


def test_a_slow_body_is_cut_off_and_others_go_on(tmp_path):
    with served(settings(tmp_path, limits=Limits(seconds=2.0))) as client:
        head = b"POST /api/v1/pools HTTP/1.1\r\nHost: localhost\r\nX-Recycler: 1\r\n"
        head += b"Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
        place = (client.base_url.host, client.base_url.port)
        with ExitStack() as opened:
            open_ones = [opened.enter_context(socket.create_connection(place)) for _ in range(100)]
            for raw in open_ones:
                raw.sendall(head)
            start = time.perf_counter()
            assert client.get("/studies").status_code == 200
            assert time.perf_counter() - start < 5
            for raw in open_ones:
                raw.settimeout(20)
                with raw.makefile("rb") as answer:
                    found = answer.read()  # ends, because the connection does
                assert found.startswith(b"HTTP/1.1 408 ")
                assert b"limits.seconds" in found


def test_a_client_that_asks_too_often_waits(tmp_path):
    with served(settings(tmp_path, limits=Limits(requests=2))) as client:
        answers = [client.get("/health") for _ in range(25)]
        assert [a.status_code for a in answers[:20]] == [200] * 20
        refused = next(a for a in answers if a.status_code == 429)
        assert int(refused.headers["retry-after"]) >= 1
        problem(refused, 429)
        time.sleep(1.1)
        assert client.get("/health").status_code == 200


def test_ten_thousand_studies_in_the_queue(tmp_path):
    """The queue refuses more with 503, and everything else stays quick."""
    with served(settings(tmp_path, limits=Limits(queue=10_000, requests=1000))) as client:
        row = {"kind": "run", "arguments": "{}", "state": "queued", "priority": 0, "owner": "ann"}
        row |= {"created": "2026", "attempts": 0, "progress": "{}", "token": "", "holder": ""}
        row |= {"heartbeat": 0.0, "cancel": False}
        with client.service.store.engine.writing() as db:
            db.execute(
                rows.operations.insert(), [{**row, "subject": f"s{n}"} for n in range(10_000)]
            )
        (tmp_path / "root" / "a").mkdir()
        found = problem(register(client, "a"), 503)
        assert "10000" in found["detail"]
        for path in ("/operations", "/operations?state=queued&limit=1000", "/ready", "/studies"):
            start = time.perf_counter()
            assert client.get(path).status_code == 200
            assert time.perf_counter() - start < 2
        client.delete("/operations/1", headers=OWN).raise_for_status()
        assert register(client, "a").status_code == 202


# --- repeated requests, and who did what ---


def test_a_repeated_request_is_done_once(local, tmp_path):
    (tmp_path / "root" / "a").mkdir()
    body = {"name": "p", "checkpoints": [{"path": "a"}]}
    key = {**OWN, "Idempotency-Key": "k1"}
    first = local.post("/pools", json=body, headers=key)
    again = local.post("/pools", json=body, headers=key)
    assert first.status_code == again.status_code == 202
    assert again.json() == first.json()
    assert again.headers["idempotency-replayed"] == "true"
    problem(local.post("/pools", json={**body, "name": "q"}, headers=key), 422)
    with ThreadPoolExecutor(8) as threads:
        other = {**OWN, "Idempotency-Key": "k2"}
        made = [*threads.map(lambda _: local.post("/pools", json=body, headers=other), range(8))]
    assert {answer.json()["id"] for answer in made} == {first.json()["id"] + 1}
    assert len(local.service.store.operations.listed()) == 2
    problem(local.post("/pools", json=body, headers={**OWN, "Idempotency-Key": "k" * 201}), 422)


def test_a_refused_request_may_be_repeated_with_its_key(local, tmp_path):
    key = {**OWN, "Idempotency-Key": "k1"}
    body = {"name": "p", "checkpoints": [{"path": "a"}]}
    problem(local.post("/pools", json=body, headers=key), 404)
    (tmp_path / "root" / "a").mkdir()
    assert local.post("/pools", json=body, headers=key).status_code == 202


def test_a_request_that_was_cut_off_is_never_done_twice(local, tmp_path, monkeypatch):
    monkeypatch.setattr(replies, "PATIENCE", 0.3)
    body = {"name": "p", "checkpoints": [{"path": "a"}]}
    key = {**OWN, "Idempotency-Key": "k1"}
    sent = json.dumps(body).encode()
    request = replies._digest(
        {"method": "POST", "path": "/api/v1/pools", "query_string": b""}, sent
    )
    assert local.service.store.access.begin_reply("local", "k1", request) is None
    headers = {**key, "Content-Type": "application/json"}
    found = problem(local.post("/pools", content=sent, headers=headers), 409)
    assert "operations" in found["hint"]


def test_the_audit_log_says_who_changed_what(closed):
    ann, bob = token(closed), token(closed, "read", name="bob")
    closed.get("/studies", headers=ann)
    closed.delete("/operations/7?x=secret", headers=ann)
    closed.delete("/operations/8", headers=bob)
    closed.post("/session", json={"token": "rcy_no"}, headers=OWN)
    found = closed.get("/audit", headers=ann).json()["audit"]
    assert [(row["who"], row["action"], row["status"]) for row in found] == [
        ("nobody", "POST /api/v1/session", 401),
        ("bob", "DELETE /api/v1/operations/8", 403),
        ("ann", "DELETE /api/v1/operations/7", 404),
    ]
    assert found[0]["address"] == "127.0.0.1"
    assert "rcy_" not in json.dumps(found)
    mine = closed.get("/audit", headers=bob).json()["audit"]
    assert [row["who"] for row in mine] == ["bob"]


# --- texts ---

NASTY = 'a"\r\nSet-Cookie: x=1\r\n\r\n<script>alert(1)</script>/../../b\u202e.zip'


def test_a_file_name_adds_no_header(local):
    shown = attachment(NASTY)
    assert re.fullmatch(r"[ -~]+", shown)
    assert shown.startswith('attachment; filename="a-Set-Cookie-x-1-script')
    assert "/" not in shown.partition("filename*=")[0]
    assert shown.count('"') == 2
    assert attachment("../..") == "attachment; filename=\"download\"; filename*=UTF-8''..%2F.."
    assert attachment("réseau.tar").startswith('attachment; filename="r-seau.tar"')


def test_html_in_a_name_is_data(local):
    name = "<script>alert(1)</script>"
    for answer in (local.get(f"/studies/{name}"), local.get("/pools/%3Cimg%20src=x%3E")):
        problem(answer, 404)
        assert answer.headers["content-type"] == "application/problem+json"
    asked = {"name": name, "checkpoints": [{"path": "a"}]}
    problem(local.post("/pools", json=asked, headers=OWN), 422)
    long = document(references=[{"name": "x" * 201, "weights": {"a": 1.0}}])
    problem(local.post("/studies", json={"document": long}, headers=OWN), 422)
    control = document(objectives=[{"name": "a\u202e\x07", "task": "t"}])
    problem(local.post("/studies", json={"document": control}, headers=OWN), 422)


# --- a server of its own process ---


@contextmanager
def started(folder: Path, **more):
    """`recycler serve` as users start it; yields its process, its address and its settings."""
    config = folder / "service.yaml"
    (folder / "root").mkdir(exist_ok=True)
    given = {"port": 0, "store": "ledger.db", "checkpoints": ["root"], "exports": "ex", **more}
    config.write_text(yaml.safe_dump(given), encoding="utf-8")
    errors = (folder / "stderr").open("w+")
    command = [sys.executable, "-m", "recycler", "serve", "--config", str(config)]
    process = subprocess.Popen(command, stdout=errors, stderr=errors)
    try:
        until = time.monotonic() + 60
        while not (found := re.search(r"http://\S+", (folder / "stderr").read_text())):
            assert process.poll() is None, (folder / "stderr").read_text()
            assert time.monotonic() < until
            time.sleep(0.05)
        yield process, found[0]
    finally:
        process.terminate()
        process.wait(30)
        errors.close()


def command(*arguments: str) -> dict:
    done = CliRunner().invoke(cli, [*arguments, "--json"], catch_exceptions=False)
    assert done.exit_code == 0
    return json.loads(done.stdout)


def test_no_token_is_in_a_log_a_process_list_or_the_ledger(tmp_path):
    """Good, wrong and session secrets are used in every way, then looked for everywhere."""
    store = f"sqlite:///{tmp_path}/ledger.db"
    made = command(
        "--store", store, "token", "create", "ann", "--scope", "read", "--scope", "write"
    )
    secret, wrong = made["secret"], "rcy_" + "w" * 43
    (tmp_path / "root" / "a").mkdir(parents=True)
    with started(tmp_path, tokens=True) as (process, address):
        with httpx2.Client(base_url=f"{address}/api/v1", headers=OWN, timeout=60) as client:
            for given in (secret, wrong):
                bearer = {"Authorization": f"Bearer {given}"}
                client.get("/studies", headers=bearer)
                client.get(f"/studies/{wrong}/front", headers=bearer)
                client.post("/session", content=f'{{"token": "{given}", }}', headers=bearer)
                client.post("/session", json={"token": given, "more": 1})
                client.post("/session", json={"token": [given]})
                client.post("/session", json={"token": given})
            session = client.cookies["recycler_session"]
            body = {"name": "p", "checkpoints": [{"path": "a"}]}
            asked = client.post("/pools", json=body)
            asked.raise_for_status()
            children = ""
            until = time.monotonic() + 60
            while client.get(f"/operations/{asked.json()['id']}").json()["state"] != "failed":
                for child in psutil.Process(process.pid).children(recursive=True):
                    with suppress(psutil.Error):
                        children += " ".join(child.cmdline())
                assert time.monotonic() < until
                time.sleep(0.05)
            own = " ".join(psutil.Process(process.pid).cmdline())
        assert "recycler.service.process" in children
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert {"ledger.db", "stderr", "operation-1.log"} <= {file.name for file in files}
    for place in (own, children, *(file.read_bytes().decode("latin-1") for file in files)):
        for hidden in (secret, session, secret.removeprefix("rcy_")):
            assert hidden not in place
    assert wrong not in (tmp_path / "stderr").read_text()


def test_headers_that_come_bit_by_bit_do_not_hold_a_connection(tmp_path):
    with started(tmp_path, limits={"seconds": 0.5}) as (_, address):
        place = (httpx2.URL(address).host, httpx2.URL(address).port)
        with socket.create_connection(place) as raw, socket.create_connection(place) as quiet:
            raw.sendall(b"GET /api/v1/health HTTP/1.1\r\nHost: localhost\r\n")
            for one in (raw, quiet):
                one.settimeout(5)
                assert one.recv(100) == b""  # closed
        with httpx2.Client(base_url=address) as client:  # used connections stay
            for _ in range(3):
                assert client.get("/api/v1/health").status_code == 200
                time.sleep(0.7)


def test_tokens_from_the_command_line(tmp_path):
    store = ("--store", f"sqlite:///{tmp_path}/ledger.db", "token")
    made = command(*store, "create", "ann", "--scope", "read", "--expires", "30d")
    assert made["scopes"] == ["read"]
    assert made["secret"].startswith("rcy_")
    assert len(made["secret"]) >= 47  # 256 bits
    listed = command(*store, "list")["tokens"]
    assert [(row["name"], row["state"]) for row in listed] == [("ann", "valid")]
    assert "secret" not in listed[0]
    assert "hash" not in listed[0]
    assert [row["state"] for row in command(*store, "revoke", "ann")["revoked"]] == ["revoked"]
    for wrong in (
        ["create", "", "--scope", "read"],
        ["create", "a", "--expires", "3x"],
        ["revoke", "x"],
    ):
        done = CliRunner().invoke(cli, [*store, *wrong])
        assert isinstance(done.exception, RecyclerError)
        assert done.exception.hint

"""What the service refuses: strangers, other sites, paths, code, and more than it can hold."""

import socket
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
import uvicorn

from recycler.service.app import make_app
from recycler.service.config import ServiceConfig
from recycler.service.problems import Unauthorized
from recycler.service.server import require_tokens, serve

OWN = {"X-Recycler": "1"}


@contextmanager
def served(config: ServiceConfig):
    """A real server on a free port; the client sends no token."""
    app = make_app(config)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        settings = uvicorn.Config(app, log_level="warning", access_log=False)
        server = uvicorn.Server(settings)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
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

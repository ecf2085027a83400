"""The whole OpenAPI document against the service: no 5xx, no answer that it does not describe.

The queue is not served here, so operations are accepted and never begun.
"""

import shutil

import pytest
import schemathesis
import studies
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from recycler.service.app import make_app
from recycler.service.config import ServiceConfig

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
ENDLESS = r"/events$"
FEW = settings(
    max_examples=30,
    derandomize=True,
    phases=(Phase.generate,),  # a failure is shown as it is found
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
FEWER = settings(FEW, max_examples=15)  # what exists is computed, which takes longer
REAL = {"study": "toy", "trial": "pick", "name": "front"}  # what the ledger has


@pytest.fixture(scope="module")
def ledger(tmp_path_factory):
    """A copy of the finished study's ledger."""
    world = studies.finished(tmp_path_factory.getbasetemp())
    folder = tmp_path_factory.mktemp("schema")
    shutil.copy(world.store, folder / "ledger.db")
    return folder


def app_of(folder, **more):
    return make_app(
        ServiceConfig(
            store=f"sqlite:///{folder}/ledger.db",
            checkpoints=(str(folder),),
            exports=str(folder / "exports"),
            names=("testserver",),
            limits={"requests": 1e6, "queue": 20},
            **more,
        )
    )


@pytest.fixture(scope="module")
def api(ledger):
    """Without tokens, as on one's own machine."""
    app = app_of(ledger)

    async def unserved(scope, receive, send):
        """The application, never started: nobody serves its queue."""
        if scope["type"] != "lifespan":
            return await app(scope, receive, send)
        while (message := await receive())["type"] != "lifespan.shutdown":
            await send({"type": f"{message['type']}.complete"})
        await send({"type": "lifespan.shutdown.complete"})

    return schemathesis.openapi.from_asgi("/api/v1/openapi.json", unserved)


def wrong(api, known):
    """Route -> what is wrong with its answers; `known`: parameters of paths that exist."""
    found = {}
    for result in api.exclude(path_regex=ENDLESS).get_all_operations():
        operation = result.ok()
        if known and operation.method.upper() == "DELETE":
            continue

        @(FEWER if known else FEW)
        @given(case=operation.as_strategy())
        def holds(case):
            names = case.path_parameters or {}
            case.path_parameters = {**names, **{k: v for k, v in known.items() if k in names}}
            case.headers = {**(case.headers or {}), "X-Recycler": "test"}
            case.call_and_validate(checks=CHECKS)

        try:
            holds()
        except BaseException as error:  # groups of failures derive from it
            if isinstance(error, KeyboardInterrupt):
                raise
            parts = getattr(error, "exceptions", [error])
            found[operation.label] = [str(part)[:600] for part in parts]
    return found


def test_every_route_answers_as_it_says(api):
    assert wrong(api, {}) == {}


def test_every_route_answers_as_it_says_about_what_is_there(api):
    """The same, with the names of a study, a trial and a figure that exist."""
    assert wrong(api, REAL) == {}


@pytest.fixture(scope="module")
def guarded(ledger):
    """The same service with tokens."""
    app = app_of(ledger, tokens=True)
    app.state.token, _ = app.state.service.store.access.create("test", ["read"])
    return app


def test_without_a_token_every_route_answers_with_401(guarded):
    """But for those that need none."""
    from starlette.testclient import TestClient

    client = TestClient(guarded, base_url="http://localhost", raise_server_exceptions=False)
    document = guarded.openapi()
    free = {"/api/v1/health", "/api/v1/ready", "/api/v1/session"}
    for path, methods in document["paths"].items():
        for method in methods:
            url = path.replace("{id}", "1").replace("{study}", "toy").replace("{trial}", "1")
            url = url.replace("{pool}", "x").replace("{name}", "front")
            body = {"json": {}} if method in ("post", "put") else {}
            found = client.request(method, url, headers={"X-Recycler": "1"}, **body)
            assert (found.status_code == 401) == (path not in free), (method, path)
            bearer = {"Authorization": f"Bearer {guarded.state.token}"}
            if method == "delete" and path not in free:
                found = client.request(method, url, headers=bearer)
                assert (found.status_code, found.json()["code"]) == (403, "forbidden"), path

"""Kill -9 of the service, of a study's process and of the database, in random order.

Two studies and an export run meanwhile. The end has to be that of a calm run: the same trials with
the same scores, nothing evaluated twice, and no half archive served.
"""

import io
import os
import random
import signal
import tarfile
import time

import httpx2
import psutil
import pytest
import services
import sqlalchemy as sa
import toy
import yaml
from ledgers import Server

from recycler.store.sql import SqlStore

NAMES = ("one", "two")
SEED = 12  # decides which falls when


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Checkpoints and tasks that both runs share."""
    root = tmp_path_factory.mktemp("kill")
    folders = toy.drawer(root / "drawer", n=3)
    table = yaml.safe_load(toy.study_file(root, folders).read_text(encoding="utf-8"))
    return root, table


@pytest.fixture
def server():
    with Server() as found:
        yield found


def begin(service, table, evaluations):
    """Create both studies and start them."""
    for seed, name in enumerate(NAMES):
        search = {**table["search"], "evaluations": evaluations, "seed": seed}
        given = {**table, "study": name, "search": search, "evaluator": {"name": "toy"}}
        service.done(service.post("studies", document=given))
    return [service.post(f"studies/{name}/start")["id"] for name in NAMES]


def told(store):
    """Study -> recipe id -> (state, scores of all splits); how often each trial was begun."""
    found, attempts = {}, {}
    for name in NAMES:
        trials = store.trials(name)
        found[name] = {
            t.recipe.id: (str(t.state), {s: dict(t.means(s)) for s in sorted(t.evaluations)})
            for t in trials
        }
        attempts[name] = sum(trial.attempts - 1 for trial in trials)
    return found, attempts


def evaluations(url):
    """Number of evaluations in the ledger, and of their distinct keys."""
    engine = sa.create_engine(url)
    with engine.connect() as db:
        rows = db.execute(
            sa.text("SELECT recipe_id, measure, split FROM recycler_evaluations")
        ).all()
    engine.dispose()
    return len(rows), len(set(rows))


def patient(ask, *args, limit=90, **more):
    """Ask until the service and the database are there again."""
    until = time.monotonic() + limit
    while True:
        try:
            return ask(*args, **more)
        except (httpx2.HTTPError, AssertionError):
            if time.monotonic() > until:
                raise
            time.sleep(0.2)


def whole_archive(content):
    """Names of the files in an archive; it has to be whole."""
    with tarfile.open(fileobj=io.BytesIO(content)) as packed:
        return [member.name for member in packed.getmembers()]


def fall(what, service, server, rng):
    """Kill one of the three, and bring it back if nobody else does."""
    if what == "service":
        service.kill()
        service.start()
    elif what == "database":
        server.kill()
        time.sleep(rng.random())
        server.start()
    else:
        for name in rng.sample(NAMES, 2):
            holder = patient(service.get, f"studies/{name}")["holder"]
            if holder and psutil.pid_exists(int(holder.split()[1])):
                os.kill(int(holder.split()[1]), signal.SIGKILL)
                return


def test_whatever_is_killed_the_end_is_that_of_a_calm_run(shop, server, tmp_path):
    root, table = shop
    given = {"evaluators": {"toy": table["evaluator"]}, "limits": {"studies": 2}}

    calm = services.Service(root, f"sqlite:///{root}/calm.db", **given)
    for run in begin(calm, table, evaluations=12):
        calm.done(run)
    expected, _ = told(SqlStore(f"sqlite:///{root}/calm.db"))
    calm.close()

    url = server.database()
    service = services.Service(root, url, exports=str(tmp_path / "exports"), **given)
    rng = random.Random(SEED)
    try:
        runs = begin(service, table, evaluations=12)
        order = ["service", "study", "database", *rng.choices(["service", "study"], k=1)]
        rng.shuffle(order)
        export = None
        for what in order:
            time.sleep(1 + 2 * rng.random())
            ready = patient(service.get, "studies/one")["counts"]["complete"] > 3
            if export is None and ready:
                export = patient(service.post, "studies/one/exports", trial="0")["id"]
            fall(what, service, server, rng)
            if export is not None:
                half = service.http.get(f"operations/{export}/archive")
                assert half.status_code in (200, 409, 503), half.text
                if half.status_code == 200:
                    whole_archive(half.content)
        for run in runs:
            found = patient(service.wait, run)
            assert found["state"] == "done", found["error"]
            if found["result"]["status"] != "complete":  # it paused while the database was away
                again = patient(service.post, f"studies/{found['subject']}/resume")
                assert patient(service.done, again)["status"] == "complete"
        if export is None:
            export = service.post("studies/one/exports", trial="0")["id"]
        assert patient(service.wait, export)["state"] == "done"
        store = SqlStore(url)
        found, repeated = told(store)
        store.close()
        assert found == expected
        assert sum(repeated.values()) <= 2 * len(order)  # only what was in flight is begun again
        assert len({*evaluations(url)}) == 1  # no key twice
        assert evaluations(url)[0] == evaluations(f"sqlite:///{root}/calm.db")[0]
        whole = service.http.get(f"operations/{export}/archive")
        assert any(name.endswith("model.safetensors") for name in whole_archive(whole.content))
    finally:
        service.close()
    left = [p for p in psutil.process_iter(["cmdline"]) if str(tmp_path) in str(p.info["cmdline"])]
    assert left == []


def test_the_database_server_of_these_tests_really_dies(server):
    url = server.database()
    store = SqlStore(url)
    server.kill()
    with pytest.raises(sa.exc.DBAPIError):
        store.studies()
    server.start()
    assert store.studies() == []
    store.close()

"""What the service tells: each answer is what the command line prints for the same study."""

import json
import re
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, contextmanager, suppress

import httpx2
import numpy as np
import pytest
import services
import studies
from click.testing import CliRunner

from recycler.cli.main import cli
from recycler.front import pareto
from recycler.nouns.evaluation import Evaluation, Failure, Score
from recycler.nouns.trial import Kind, Proposal
from recycler.search.function import search
from recycler.store.sql import SqlStore

API = "/api/v1"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The finished toy study; read only."""
    return studies.finished(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def service(world, tmp_path_factory):
    """A service over a copy of its ledger, with a larger study of a function beside it."""
    root = tmp_path_factory.mktemp("api")
    store = copied(world.store, root / "ledger.db")
    search(hills, 4, ["max", "min", "max"], store=f"sqlite:///{store}", study="hills", seed=1)
    found = services.Service(root, store, checkpoints=[str(world.root)])
    yield found
    found.close()


def copied(store, file):
    """A copy of a ledger, with what is still in its write-ahead log."""
    with closing(sqlite3.connect(store)) as source, closing(sqlite3.connect(file)) as target:
        source.backup(target)
    return str(file)


def hills(weights):
    """Three smooth objectives of four weights; three merges fail."""
    if weights[0] > 0.3 and weights[1] > 0.3:
        raise ValueError("the merge is a monster")
    rng = np.random.default_rng(7)
    peaks = rng.dirichlet(np.ones(4), 3)
    off = ((peaks - weights) ** 2).sum(axis=1)
    noise = rng.normal(size=(3, 20)) * 0.05
    return [(1 - off[0]) + noise[0], off[1] + noise[1], (1 - off[2]) + noise[2]]


def printed(store, *command):
    """What a command prints with --json."""
    done = CliRunner().invoke(cli, ["--store", store, *command, "--json"], catch_exceptions=False)
    return json.loads(done.stdout)


# --- the same as the command line ---

READS = [
    ("studies/{s}/front", {}, ["front", "{s}"]),
    ("studies/{s}/trials/2", {}, ["show", "{s}", "2"]),
    ("studies/{s}/trials/pick", {}, ["show", "{s}", "pick"]),
    ("studies/{s}/pick", {}, ["pick", "{s}"]),
    ("studies/{s}/pick", {"knee": True}, ["pick", "{s}", "--knee"]),
    ("studies/{s}/pick", {"prefer": "{o}=2"}, ["pick", "{s}", "--prefer", "{o}=2"]),
    ("studies/{s}/pick", {"prefer": ""}, ["pick", "{s}", "--prefer="]),
    ("studies/{s}/pick", {"floor": "{o}=0.01"}, ["pick", "{s}", "--floor", "{o}=0.01"]),
    ("studies/{s}/comparison", {"trial": ["0", "1", "3"]}, ["compare", "{s}", "0", "1", "3"]),
]


@pytest.mark.parametrize("study", ["toy", "hills"])
@pytest.mark.parametrize(("route", "query", "command"), READS)
def test_a_read_is_what_the_command_prints(service, study, route, query, command):
    def named(text):
        name = {"toy": "choice", "hills": "f0"}[study]
        return text.format(s=study, o=name) if isinstance(text, str) else text

    asked = {key: named(value) for key, value in query.items()}
    found = service.get(named(route), **asked)
    assert json.dumps(found) == json.dumps(printed(service.store, *map(named, command)))


def test_predictions_are_what_the_command_prints(service):
    asked = {"weights": [{"w0": 0.5, "w1": 0.5}], "prefer": [{"f0": 2, "f1": 1}], "grid": 3}
    found = service.post("studies/hills/predictions", 200, **asked)
    given = ["--weights", "w0=0.5,w1=0.5", "--prefer", "f0=2,f1=1", "--grid", "3"]
    assert json.dumps(found) == json.dumps(printed(service.store, "predict", "hills", *given))
    assert len(found["proposals"]) == 4


def test_items_of_a_comparison_come_in_pages(service):
    given = ["compare", "toy", "0", "3", "--items", "word", "--all", "--limit", "0"]
    whole = printed(service.store, *given)["items"]
    pages = [
        service.get(
            "studies/toy/comparison",
            trial=["0", "3"], items="word", every=True, limit=5, skip=skip,
        )["items"]
        for skip in range(0, 20, 5)
    ]  # fmt: skip
    assert [item for page in pages for item in page["items"]] == whole["items"]
    assert {page["total"] for page in pages} == {len(whole["items"])} == {16}
    assert whole["items"][0]["prompt"]  # answers were kept


def test_a_study_is_its_snapshot_its_plan_and_what_waits(service):
    found, watched = service.get("studies/toy"), printed(service.store, "watch", "toy")
    assert {key: found[key] for key in watched} == watched
    plan = found["plan"]
    assert [o["name"] for o in plan["objectives"]] == ["text", "choice", "word"]
    assert [o["held_out"] for o in plan["objectives"]] == [False, False, True]
    assert [c["name"] for c in plan["checkpoints"]] == ["ckpt-0", "ckpt-1", "ckpt-2"]
    assert plan["evaluations"] == 4
    assert str(service.root) not in json.dumps(plan)  # no path of the server


def test_the_table_is_that_of_the_command(service, tmp_path):
    for study in ("toy", "hills"):
        answer = service.http.get(f"studies/{study}/report.csv")
        file = tmp_path / f"{study}.csv"
        CliRunner().invoke(cli, ["--store", service.store, "front", study, "--csv", str(file)])
        assert answer.text == file.read_text()
        assert answer.headers["content-type"] == "text/csv; charset=utf-8"


def test_the_report_is_that_of_the_command_and_has_an_origin_of_its_own(service, tmp_path):
    answer, file = service.http.get("studies/toy/report"), tmp_path / "toy.html"
    CliRunner().invoke(cli, ["--store", service.store, "front", "toy", "--html", str(file)])

    def words(page):
        page = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
        return re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "ID", page)  # plotly's random ids

    there, here = words(answer.text), words(file.read_text())
    assert re.sub(r"\s+", "", re.sub(r"<div>|</div>", "", there)) == re.sub(
        r"\s+", "", re.sub(r"<div>|</div>", "", here)
    )
    assert answer.text.count("Plotly.newPlot") == file.read_text().count("Plotly.newPlot") > 3
    assert "sandbox" in answer.headers["content-security-policy"]


@pytest.mark.parametrize(
    "name", ["front", "parallel", "weights", "roles", "hypervolume", "differences"]
)
def test_a_figure_has_the_width_that_is_asked_for(service, name):
    for study in ("toy", "hills"):
        drawn = service.get(f"studies/{study}/figures/{name}", width=400)
        assert drawn["layout"]["width"] == 400
        assert drawn["layout"]["meta"]["caption"]
        assert drawn["data"]


# --- lists of trials ---


def test_trials_come_in_pages_by_any_score(service):
    rows = service.get("studies/hills/trials", limit=1000)["trials"]
    assert [row["number"] for row in rows] == list(range(len(rows)))
    known = [row for row in rows if "dev" in row["scores"]]
    for sort, down in (("f1", False), ("-f1", True)):
        wanted = sorted(known, key=lambda r: r["scores"]["dev"]["f1"]["mean"], reverse=down)
        pages = [
            service.get("studies/hills/trials", sort=sort, limit=7, skip=skip)["trials"]
            for skip in range(0, len(rows), 7)
        ]
        found = [row["number"] for page in pages for row in page]
        assert found[: len(known)] == [row["number"] for row in wanted]
        assert sorted(found) == list(range(len(rows)))  # those without a score come last


def test_trials_are_filtered_by_state_kind_and_text(service):
    rows = service.get("studies/hills/trials", limit=1000)["trials"]

    def found(**query):
        return service.get("studies/hills/trials", limit=1000, **query)

    for query, keep in (
        ({"kind": "single"}, lambda r: r["kind"] == "single"),
        ({"kind": ["uniform", "greedy"]}, lambda r: r["kind"] in ("uniform", "greedy")),
        ({"state": "complete"}, lambda r: r["state"] == "complete"),
        ({"text": "EARCH 1"}, lambda r: "earch 1" in r["name"].lower()),
        ({"text": rows[5]["id"][:8]}, lambda r: r["id"] == rows[5]["id"]),
        (
            {"kind": "search", "state": "failed"},
            lambda r: (r["kind"], r["state"]) == ("search", "failed"),
        ),
    ):
        table = found(**query)
        assert table["trials"] == [row for row in rows if keep(row)]
        assert table["total"] == len(table["trials"])
    some = found(fields="number,weights")["trials"]
    assert some == [{"number": row["number"], "weights": row["weights"]} for row in rows]


def test_trials_by_the_volume_that_they_add(service):
    found = service.get("studies/hills/trials", sort="-hypervolume", limit=1000)["trials"]
    store = SqlStore(f"sqlite:///{service.store}")
    plan, trials = store.plan("hills"), store.trials("hills")
    reference = np.array(store.status("hills")["reference"])
    gains = plan.objectives.gains([trial.means("dev") for trial in trials])
    front = pareto.nondominated(gains)
    whole = pareto.hypervolume(gains, reference)
    assert {row["state"] for row in found} == {"complete", "failed"}
    for row in found:
        if row["state"] == "failed":
            assert row["hypervolume"] is None
            continue
        others = front & (np.arange(len(gains)) != row["number"])
        added = whole - pareto.hypervolume(gains[others], reference)
        assert row["hypervolume"] == pytest.approx(added, abs=1e-9), row["number"]
    store.close()
    values = [row["hypervolume"] for row in found if row["state"] == "complete"]
    assert values == sorted(values, reverse=True)
    assert values[0] > 0


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ({"sort": "f9"}, "no column 'f9'"),
        ({"fields": "number,secret"}, "no 'secret'"),
        ({"limit": 0}, "limit"),
        ({"state": "odd"}, "state"),
    ],
)
def test_a_list_that_can_not_be_made_is_refused(service, query, text):
    answer = service.http.get("studies/hills/trials", params=query)
    assert answer.status_code == 422
    assert text in answer.json()["detail"]
    assert answer.json()["hint"]


# --- the front by floors and preferences ---


def test_the_front_says_what_a_rule_would_take(service):
    members = service.get("studies/hills/front")["members"]
    least = sorted(m["dev"]["f0"]["mean"] for m in members)[len(members) // 2]
    asked = {"floor": f"f0={least}", "prefer": "f1=1"}
    found = service.get("studies/hills/front", **asked)
    passing = [m for m in members if m["dev"]["f0"]["mean"] >= least]
    best = min(passing, key=lambda m: m["expected"]["f1"])
    assert found["picked"]["trial"] == best["trial"]
    assert service.get("studies/hills/pick", **asked)["trial"] == best["trial"]
    none = service.get("studies/hills/front", floor="f0=99")["picked"]
    assert none["trial"] is None
    assert "no member" in none["why"]
    answer = service.http.get("studies/hills/pick", params={"knee": True, "floor": "f0=0"})
    assert answer.status_code == 422


# --- merges of one's own ---


def test_a_recipe_may_be_mergekits_or_ours_and_is_the_same_merge(service):
    shown = service.get("studies/toy/trials/3")  # uniform
    third = 1 / 3
    forms = [
        {"recipe": shown["recipe"]},
        {"weights": {f"ckpt-{i}": third for i in range(3)}},
        {
            "recipe": {
                "merge_method": "linear",
                "models": [
                    {"model": f"ckpt-{i}", "parameters": {"weight": third}} for i in range(3)
                ],
                "parameters": {"normalize": False},
            }
        },
        {
            "recipe": {
                "method": "linear",
                "checkpoints": [{"name": f"ckpt-{i}", "weight": third} for i in range(3)],
            }
        },
    ]
    for form in forms:
        found = service.post("studies/toy/trials", **form)
        assert (found["trial"], found["id"], found["operation"]) == (3, shown["id"], None)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({}, "one of `weights` and `recipe`"),
        ({"weights": {"ckpt-0": 0.5}}, "sum to 0.5"),
        ({"weights": {"ckpt-9": 1.0}}, "no checkpoint 'ckpt-9'"),
        ({"weights": {"ckpt-0": 1.5, "ckpt-1": -0.5}}, "allows 0 to 1"),
        ({"recipe": {"merge_method": "linear", "models": [{"model": "/etc"}]}}, "'/etc' is none"),
        ({"recipe": {"merge_method": "ties", "models": [{"model": "ckpt-0"}]}}, "needs a base"),
        ({"recipe": {"checkpoints": [{"path": "../x", "weight": 1}]}}, "'../x' is none"),
        ({"recipe": {"fingerprints": {}, "weights": {"a": 1}}}, "KeyError"),
        ({"recipe": {"checkpoints": 3}}, "must list"),
    ],
)
def test_a_merge_that_is_none_of_the_study_is_refused(service, body, text):
    before = service.get("studies/toy")["queued"]
    answer = service.http.post("studies/toy/trials", json=body)
    assert answer.status_code == 422, answer.text
    assert text in answer.json()["detail"]
    assert service.get("studies/toy")["queued"] == before


def test_a_merge_of_ones_own_becomes_a_trial(service):
    models = [
        {"model": "ckpt-0", "parameters": {"weight": 0.25}},
        {"model": "ckpt-1", "parameters": {"weight": 0.75}},
    ]
    recipe = {"merge_method": "linear", "models": models}
    asked = service.post("studies/toy/trials", recipe=recipe)
    assert asked["trial"] is None
    assert [row["id"] for row in service.get("studies/toy")["queued"]] == [asked["id"]]
    done = service.done(asked["operation"])
    trial = done["trials"][0]["trial"]
    shown = service.get(f"studies/toy/trials/{trial}")
    assert shown["id"] == asked["id"]
    assert shown["weights"] == {"ckpt-1": 0.75, "ckpt-0": 0.25}
    assert shown["kind"] == "try"
    assert {"dev", "select", "test"} <= shown.keys()
    assert service.get("studies/toy")["queued"] == []
    assert service.get("studies/toy")["operation"]["kind"] == "try"


# --- answers that are kept ---


def test_an_answer_is_sent_again_only_after_the_study_changed(service):
    store = SqlStore(f"sqlite:///{service.store}")
    for route in ("studies/hills/front", "studies/hills/trials", "studies/hills/report"):
        first = service.http.get(route)
        tag = {"If-None-Match": f'"other", {first.headers["etag"]}'}
        again = service.http.get(route, headers=tag)
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == first.headers["etag"]
        assert service.http.get(route, headers={"If-None-Match": '"other"'}).status_code == 200
    add_trial(store, "hills", 0.31)
    changed = service.http.get(route, headers=tag)
    assert changed.status_code == 200
    assert changed.headers["etag"] != first.headers["etag"]
    store.extend("hills", 77)  # no event, but another plan
    extended = service.http.get(route, headers={"If-None-Match": changed.headers["etag"]})
    assert extended.status_code == 200
    assert service.get("studies/hills")["budget"] == 77
    assert service.http.get("studies/none/front", headers=tag).status_code == 404
    store.close()


def add_trial(store, study, share, ends="failed"):
    """Write a trial into a study that no process runs; its number."""
    plan = store.plan(study)
    vector = (share, 1 - share, *[0.0] * (plan.n - 2))
    made = store.start(study, Proposal(kind=Kind.SEARCH, name="odd", recipe=plan.recipe(vector)))
    if ends == "failed":
        store.fail(study, made.number, Failure("boom", "it did not work"))
    elif ends == "complete":
        scores = {o.name: Score(mean=0.5, stderr=0.1, items=4) for o in plan.objectives}
        store.record(study, made.number, Evaluation(split="dev", scores=scores, digest="sha256:0"))
    return made.number


# --- events ---


@contextmanager
def events(service, path, last=None):
    """An iterator of (kind, id, data) from a stream."""
    headers = {} if last is None else {"Last-Event-ID": str(last)}
    with (
        httpx2.Client(base_url=service.url, timeout=20) as http,
        http.stream("GET", f"{API}/{path}", headers=headers) as answer,
    ):
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield parsed(answer.iter_lines())


def parsed(lines):
    fields = {}
    for line in lines:
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        else:
            if "data" in fields:
                id = int(fields["id"]) if "id" in fields else None
                yield fields["event"], id, json.loads(fields["data"])
            fields = {}


def test_events_tell_trials_then_the_snapshot_with_its_number(service):
    store = SqlStore(f"sqlite:///{service.store}")
    with events(service, "studies/hills/events") as told:
        kind, first, snapshot = next(told)
        assert kind == "snapshot"
        assert snapshot["event"] == first
        assert len(snapshot["hypervolume"]) <= 200
        assert next(told)[0] == "end"  # no process runs it
        number = add_trial(store, "hills", 0.32)
        kind, id, row = next(told)
        assert (kind, id) == ("trial", None)  # who breaks off here resumes before it
        assert row == service.get("studies/hills/trials", skip=number, limit=1)["trials"][0]
        kind, second, snapshot = next(told)
        assert (kind, second) == ("snapshot", first + 2)
        assert snapshot["counts"]["failed"] >= 1
    # while nobody listens
    more = [add_trial(store, "hills", share) for share in (0.33, 0.34)]
    with events(service, "studies/hills/events", last=second) as told:
        assert [next(told)[2]["number"] for _ in more] == more
        assert next(told)[0] == "snapshot"
    with events(service, "studies/hills/events", last=10**6) as told:  # of an earlier study
        assert next(told)[2]["number"] == 0
    store.close()


def test_events_of_everything_tell_studies_and_operations(service):
    with events(service, "events") as told:
        names = {next(told)[2]["study"] for _ in range(2)}
        assert names == {"toy", "hills"}
        asked = service.post("studies/toy/samples", trials=["pick"], prompts=["a"])
        states = []
        for kind, _, operation in told:
            if kind == "operation" and operation["id"] == asked["id"]:
                assert "arguments" not in operation
                states.append(operation["state"])
                if operation["state"] in services.ENDED:
                    break
        assert states[-1] == "done"
        found = service.done(asked["id"])
        assert found["prompts"][0]["prompt"] == "a"
        store = SqlStore(f"sqlite:///{service.store}")
        add_trial(store, "hills", 0.35)
        assert next(e for e in told if e[0] == "snapshot")[2]["study"] == "hills"
        store.close()


def test_a_deleted_study_ends_its_stream(service):
    store = f"sqlite:///{service.store}"
    search(lambda w: [w[0]], 2, ["max"], store=store, study="gone", evaluations=1)
    with events(service, "studies/gone/events") as told:
        assert next(told)[0] == "snapshot"
        assert service.http.delete("studies/gone").status_code == 200
        rest = list(told)
    assert rest[-1][0] == "end"
    assert rest[-1][2]["status"] == "deleted"
    answer = service.http.get("studies/gone/events")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_service_with_open_streams_ends_at_once_and_refuses_too_many(world, tmp_path):
    store = copied(world.store, tmp_path / "ledger.db")
    service = services.Service(tmp_path, store, limits={"streams": 3})
    with events(service, "events") as one, events(service, "studies/toy/events") as two:
        next(one), next(two)
        with events(service, "studies/toy/events") as three:
            next(three)
            answer = service.http.get("events")
            assert answer.status_code == 429
            assert "3 event streams" in answer.json()["detail"]
        time.sleep(0.3)
        with events(service, "studies/toy/events") as three:  # a place is free again
            next(three)
        began = time.monotonic()
        service.process.terminate()
        assert service.process.wait(20) in (0, -15)
        assert time.monotonic() - began < 5
        with suppress(httpx2.HTTPError):
            list(one)
    service.close()


# --- the document ---


def test_the_document_names_every_route_and_its_problems(service):
    found = service.get("openapi.json")
    operations = [o for methods in found["paths"].values() for o in methods.values()]
    ids = [operation["operationId"] for operation in operations]
    assert len(set(ids)) == len(ids) > 40
    assert {"studies_show", "trials_add", "results_front"} <= set(ids)
    assert "Problem" in found["components"]["schemas"]
    assert all(operation.get("description") for operation in operations)
    shown = service.http.get("docs")
    assert shown.status_code == 200
    assert shown.text.count("<h3>") == len(operations)
    assert "<script" not in shown.text


# --- what the service loads ---

SCRIPT = """
import json, sys, threading, time
import httpx2, psutil, uvicorn
from recycler.service.app import make_app
from recycler.service.config import ServiceConfig
from recycler.service.server import _listen

store, routes = sys.argv[1], json.loads(sys.argv[2])
config = ServiceConfig(store=store, port=0, limits={"requests": 10000.0})
listener = _listen(config)
server = uvicorn.Server(uvicorn.Config(make_app(config), log_level="warning"))
threading.Thread(target=server.run, args=([listener],), daemon=True).start()
with httpx2.Client(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=60) as http:
    while not server.started:
        time.sleep(0.01)
    for _ in range(2):
        for method, path, body in routes:
            answer = http.request(method, path, json=body, headers={"X-Recycler": "test"})
            assert answer.status_code < 400, (path, answer.text)
    memory = psutil.Process().memory_info().rss / 2**20
server.should_exit = True
print(json.dumps({"modules": sorted({name.partition(".")[0] for name in sys.modules}),
                  "scipy.stats": "scipy.stats" in sys.modules, "memory": memory}))
"""
HEAVY = {
    "torch", "ray", "lm_eval", "pandas", "transformers", "optuna", "matplotlib", "datasets",
    "botorch", "gpytorch", "tokenizers",
}  # fmt: skip


def test_reading_everything_loads_nothing_heavy(service, tmp_path):
    service.done(service.post("studies/toy/samples", trials=["pick"], prompts=["a"]))
    document = service.http.get("openapi.json").json()
    values = {
        "study": "hills", "trial": "pick", "name": "front", "pool": "study:toy", "id": "1",
    }  # fmt: skip
    asked = []
    for path, methods in document["paths"].items():
        if "get" not in methods or path.endswith(
            ("/events", "/archive", "/metrics", "/document", "/answers", "/recipe")
        ):
            continue
        filled = re.sub(r"\{(\w+)\}", lambda found: values[found[1]], path)
        query = "?trial=0&trial=1" if path.endswith("comparison") else ""
        asked.append(["GET", filled + query, None])
    asked = [one for one in asked if not one[1].endswith(("/scout", "/operations/1/log"))]
    asked += [["GET", f"{API}/studies/toy/figures/{name}", None] for name in
              ("front", "parallel", "weights", "roles", "hypervolume", "differences")]  # fmt: skip
    weights = {"weights": [{"w0": 0.5, "w1": 0.5}], "prefer": [{"f0": 1}], "grid": 2}
    asked.append(["POST", f"{API}/studies/hills/predictions", weights])
    assert len(asked) > 20
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, service.store, json.dumps(asked)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert not HEAVY & set(found["modules"])
    assert not found["scipy.stats"]  # 60 MB
    assert found["memory"] < 200

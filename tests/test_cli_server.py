"""The command line once more, through a server: its tests as they are, and equal output, word by word."""

import json
import re
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import test_cli
import test_compare
import test_predict
import test_try
import test_watch
import yaml
from click.testing import CliRunner
from services import Service
from studies import World, finished

from recycler.cli.main import cli

MAIN = cli.main
TIMES = re.compile(
    r"\d+ (s|min|h)\b( \d+ (s|min)\b)?|[\d,.]+ MB are free\s+here|-?\d+\.\d+ GB/s"
    r'|"free_bytes": \d+'
)


@dataclass
class Servers:
    """One server for each ledger that a test names, started when it is first named."""

    root: Path
    tasks: str
    running: dict[str, Service]

    def url(self, store: str) -> str:
        """The address of the server over a ledger."""
        if store not in self.running:
            home = self.root / f"server-{len(self.running)}"
            home.mkdir()
            own = {"kind": "lm-eval", "tasks": self.tasks, "batch_size": 16, "max_length": 128}
            self.running[store] = Service(
                home,
                store,
                checkpoints=[str(self.root)],
                evaluators={"toy": own},
                limits={"studies": 1, "operations": 1},
            )
        return self.running[store].url

    def main(self, args: Any = None, **options: Any) -> Any:
        """`recycler` with `--server URL` in the place of `--store LEDGER`."""
        given = [*(test_cli.sys.argv[1:] if args is None else args)]
        if given[:1] == ["--store"]:
            given[:2] = ["--server", self.url(given[1])]
        return MAIN(args=given, **options)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> World:
    """The finished toy study, over a ledger that these tests may write to."""
    shared = finished(tmp_path_factory.getbasetemp())
    copy = tmp_path_factory.mktemp("ledger") / "ledger.db"
    with sqlite3.connect(shared.store) as old, sqlite3.connect(copy) as new:
        old.backup(new)
    return replace(shared, store=str(copy))


@pytest.fixture
def world(built: World) -> World:
    return built


@pytest.fixture(scope="module")
def servers(built: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    found = Servers(tmp_path_factory.getbasetemp(), str(built.root / "tasks"), {})
    yield found
    for service in found.running.values():
        service.close()


@pytest.fixture
def through_server(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on every command of this test that names a ledger is sent to its server."""
    monkeypatch.setattr(cli, "main", servers.main)


pytestmark = pytest.mark.usefixtures("through_server")

# --- the tests of the commands, as they are ---

test_studies_as_json = test_cli.test_studies_as_json
test_front_as_json = test_cli.test_front_as_json_is_the_studys_front
test_every_key_is_described = test_cli.test_every_key_is_described_in_the_page_of_json
test_a_name_given_twice = test_cli.test_a_name_that_is_given_twice_is_refused
test_show_as_json = test_cli.test_show_as_json_tells_recipe_scores_and_digest
test_pick = test_cli.test_pick_prints_a_number_and_as_json_the_trial
test_pools = test_cli.test_pools_are_added_listed_and_shown_as_json
test_what_people_read = test_cli.test_what_people_read
test_front_writes = test_cli.test_front_writes_page_picture_and_table
test_a_report_replaces = test_cli.test_a_report_replaces_an_older_one_and_nothing_else
test_a_mistake_with_json = test_cli.test_a_mistake_with_json_is_json
test_a_study_that_nobody_runs = test_cli.test_a_study_that_nobody_runs_is_not_asked_to_stop
test_two_ways_to_pick = test_cli.test_two_ways_to_pick_at_once_are_refused
test_compare_prints = test_compare.test_the_command_prints_every_difference_and_pages_the_items
test_predict_prints = test_predict.test_the_command_predicts_weights_and_recipes_alike
test_watch_prints = test_watch.test_a_finished_study_of_models_is_watched_once
test_verify_score = test_cli.test_export_and_verify_as_json
test_try_of_a_file = test_try.test_the_merge_of_a_mergekit_file_becomes_a_trial_of_a_complete_study

# --- the same words as without a server ---


def said(monkeypatch: pytest.MonkeyPatch, capsys: Any, store: str, *command: str) -> Any:
    """Exit code and streams of a command, without the times in them."""
    monkeypatch.setattr(test_cli.sys, "argv", ["recycler", "--store", store, *command])
    with pytest.raises(SystemExit) as ended:
        test_cli.main()
    found = capsys.readouterr()
    return ended.value.code, *(TIMES.sub("TIME", text) for text in (found.out, found.err))


@pytest.mark.parametrize(
    "command",
    [
        "studies",
        "studies --json",
        "front toy --all",
        "show toy pick",
        "pick toy --knee",
        "pick toy --prefer text=2,choice=1 --json",
        "compare toy pick uniform single:ckpt-0",
        "compare toy 0 1 --items choice --json",
        "predict toy --grid 3 --json",
        "watch toy --json",
        "stop toy",
        "pool list --json",
        "pool show study:toy",
        "pool check {0} {1}",
        "pool check {0} {1} --base {2} --json",
        "pool check {0} {1} --deep",
        "try toy --weights ckpt-0=1",
        "sample toy uniform 0 -p abc -p de> --max-new-tokens 4 --json",
        # mistakes
        "front nothing",
        "show toy 99",
        "show toy nobody --json",
        "stop nothing",
        "rm toy",
        "rm nothing --yes",
        "watch nothing",
        "pool show nothing",
        "pool rm study:toy",
        "pick toy --floor choice=2",
        "pick toy --prefer speed=1",
        "compare toy 0 0",
        "compare toy 0 1 --items speed",
        "predict toy --weights ckpt-0=0.5",
        "try toy --weights nobody=1",
        "try toy --recipe nowhere.yaml",
        "export toy 99 out",
        "export toy single:ckpt-0 taken",
        "sample toy 99 -p a",
        "run nowhere.yaml",
        "scout nowhere.yaml",
        "run wrong.yaml",
        "verify nowhere",
        "dashboard nothing",
    ],
)
def test_a_server_changes_no_word(
    world: World, servers: Servers, monkeypatch: pytest.MonkeyPatch, capsys: Any, command: str
) -> None:
    Path("taken").mkdir()
    table = {**yaml.safe_load(world.file.read_text()), "search": {"sampler": "nehvy"}}
    Path("wrong.yaml").write_text(yaml.safe_dump(table))
    words = command.format(*world.folders).split()
    there = said(monkeypatch, capsys, world.store, *words)
    monkeypatch.setattr(cli, "main", MAIN)
    assert there == said(monkeypatch, capsys, world.store, *words)


# --- what a server does otherwise ---


@pytest.mark.parametrize("command", ["demo", "merge a b", "init a", "serve", "token list"])
def test_what_works_here_alone_says_so(
    servers: Servers, monkeypatch: pytest.MonkeyPatch, capsys: Any, world: World, command: str
) -> None:
    code, out, err = said(monkeypatch, capsys, world.store, *command.split())
    assert (code, out) == (1, "")
    assert "works on this machine, not through a server" in err
    assert "RECYCLER_SERVER" in err


def test_an_export_may_stay_on_the_server(world: World, servers: Servers) -> None:
    given = ["--store", world.store, "export", "toy", "pick", "--on-server", "--json"]
    done = json.loads(CliRunner().invoke(cli, given, catch_exceptions=False).stdout)
    assert Path(done["path"]).is_relative_to(servers.running[world.store].root / "exports")
    assert (Path(done["path"]) / "config.json").is_file()


def test_a_study_is_scouted_run_watched_and_deleted_through_a_server(
    world: World, servers: Servers, tmp_path: Path
) -> None:
    """Paths in the file are relative to it, as they may be here."""
    table = yaml.safe_load(world.file.read_text(encoding="utf-8"))
    table |= {"study": "fresh", "search": {"sampler": "dirichlet", "evaluations": 1}}
    home = world.root / "elsewhere"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    table["pool"] = [f"../drawer/{folder.name}" for folder in world.folders]
    table["evaluator"]["tasks"] = "../tasks"
    (home / "study.yaml").write_text(yaml.safe_dump(table), encoding="utf-8")
    store = str(tmp_path / "fresh.db")

    def call(*words: str) -> Any:
        given = ["--store", store, *words, "--json"]
        done = CliRunner().invoke(cli, given, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    bill = call("run", str(home / "study.yaml"), "--plan")
    assert bill["study"] == "fresh"
    found = call("scout", str(home / "study.yaml"))
    assert found["checkpoints"] == [folder.name for folder in world.folders]
    front = call("run", str(home / "study.yaml"))
    assert (front["study"], front["status"]) == ("fresh", "complete")
    assert front == call("front", "fresh")
    kept = {row["name"]: row["complete"] for row in call("studies")}
    assert set(kept) == {"fresh", "fresh-scout"}
    assert call("rm", "fresh", "--yes") == {"study": "fresh", "trials": kept["fresh"]}
    assert [row["name"] for row in call("studies")] == ["fresh-scout"]

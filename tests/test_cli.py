"""The command line: what a user types, what it prints, how it fails."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import safetensors.torch
import torch
import toy
import yaml
from click.testing import CliRunner
from studies import World, finished

from recycler.checkpoints.folder import Checkpoint
from recycler.cli.main import cli, main
from recycler.errors import Conflict, InvalidConfig

COMMANDS = [
    "demo",
    "init",
    "pool check",
    "pool add",
    "pool list",
    "pool show",
    "pool rm",
    "merge",
    "run",
    "scout",
    "sample",
    "try",
    "watch",
    "stop",
    "studies",
    "rm",
    "front",
    "compare",
    "show",
    "pick",
    "predict",
    "export",
    "verify",
]


@pytest.fixture
def world(tmp_path_factory) -> World:
    return finished(tmp_path_factory.getbasetemp())


def call(*arguments, store: str = "") -> str:
    """Standard output of a command that must succeed."""
    given = [*(["--store", store] if store else []), *map(str, arguments)]
    done = CliRunner().invoke(cli, given, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def refused(monkeypatch, capsys, *arguments, store: str = "") -> tuple[int, str, str]:
    """Exit code and streams of `recycler ...` as the installed program runs it."""
    given = [*(["--store", store] if store else []), *map(str, arguments)]
    monkeypatch.setattr(sys, "argv", ["recycler", *given])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    return ended.value.code, out, err


# --- help ---


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command):
    said = call(*command.split(), "--help")
    assert f"Example: recycler {command}" in said
    assert "--json" in said


def test_no_command_is_left_out_here():
    groups = {"pool": cli.commands["pool"].commands}
    known = {name for name in cli.commands if name != "pool"}
    known |= {f"pool {name}" for name in groups["pool"]}
    assert known - {"serve", "dashboard", "token"} == set(COMMANDS)


def test_help_and_version_run_as_a_module():
    for option, said in (("--help", "recycler demo"), ("--version", "recycler, version")):
        done = subprocess.run(
            [sys.executable, "-m", "recycler", option],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert said in done.stdout
        assert done.stderr == ""


# --- JSON ---


def test_studies_as_json(world):
    (row,) = json.loads(call("studies", "--json", store=world.store))
    assert (row["name"], row["status"]) == ("toy", "complete")
    assert {"complete", "failed", "running", "created", "message"} <= set(row)


def test_front_as_json_is_the_studys_front(world):
    table = json.loads(call("front", "toy", "--json", store=world.store))
    assert table == json.loads(json.dumps(world.open().results.front_json()))
    assert {"objectives", "held_out", "reference", "hypervolume", "members"} <= set(table)
    member = table["members"][0]
    assert {"trial", "weights", "dev", "select", "test", "p_nondominated"} <= set(member)
    assert 0 <= member["p_nondominated"] <= 1
    assert set(member["expected"]) == {o["name"] for o in table["objectives"]}


def keys(value) -> set[str]:
    """All keys of nested JSON data."""
    if isinstance(value, dict):
        return {*value} | {key for entry in value.values() for key in keys(entry)}
    return {key for entry in value for key in keys(entry)} if isinstance(value, list) else set()


@pytest.mark.parametrize(
    "command",
    [
        "front toy",
        "show toy 0",
        "pick toy",
        "compare toy 0 1 --items text",
        "predict toy --weights ckpt-0=0.5,ckpt-1=0.5 --prefer text=1",
        "watch toy",
        "studies",
        "stop toy",
    ],
)
def test_every_key_is_described_in_the_page_of_json(world, command):
    page = (Path(__file__).parent.parent / "docs" / "json.md").read_text(encoding="utf-8")
    said = keys(json.loads(call(*command.split(), "--json", store=world.store)))
    names = {"text", "choice", "word", "ckpt-0", "ckpt-1", "ckpt-2", "merge", "evaluate"}
    assert {key for key in said - names if f'"{key}"' not in page} == set()


def test_a_name_that_is_given_twice_is_refused(world):
    with pytest.raises(InvalidConfig, match="one name twice"):
        call("pick", "toy", "--prefer", "text=1,text=2", store=world.store)


def test_show_as_json_tells_recipe_scores_and_digest(world):
    table = json.loads(call("show", "toy", 0, "--json", store=world.store))
    assert table["name"] == "single:ckpt-0"
    assert table["digest"] == Checkpoint.open(world.folders[0]).fingerprint()
    assert table["recipe"]["weights"] == {"ckpt-0": 1.0}
    assert set(table["dev"]) == {"text", "choice"}


def test_pick_prints_a_number_and_as_json_the_trial(world):
    front = world.open().front
    pick = world.open().results.decision.pick
    assert int(call("pick", "toy", store=world.store)) == pick.number
    assert int(call("pick", "toy", "--knee", store=world.store)) == front.knee().number
    best = min(front.trials, key=lambda t: t.means("select")["text"])
    chosen = json.loads(call("pick", "toy", "--prefer", "text=1", "--json", store=world.store))
    assert chosen["trial"] == best.number
    assert int(call("pick", "toy", "--prefer", store=world.store)) == front.prefer().number
    floor = f"text={best.means('select')['text']}"
    assert int(call("pick", "toy", "--floor", floor, store=world.store)) == best.number


def test_pools_are_added_listed_and_shown_as_json(drawer, tmp_path):
    store = str(tmp_path / "l.db")
    added = json.loads(call("pool", "add", "mine", *drawer, "--json", store=store))
    assert [c["name"] for c in added["checkpoints"]] == [f.name for f in drawer]
    assert json.loads(call("pool", "list", "--json", store=store)) == ["mine"]
    assert json.loads(call("pool", "show", "mine", "--json", store=store)) == added
    assert added["checkpoints"][0]["fingerprint"] == Checkpoint.open(drawer[0]).fingerprint()


def test_export_and_verify_as_json(world, tmp_path):
    number = call("pick", "toy", "--knee", store=world.store).strip()
    done = json.loads(call("export", "toy", number, "out", "--json", store=world.store))
    assert set(done) == {"path", "digest", "files", "left_behind", "leftovers", "verified"}
    checked = json.loads(call("verify", "out", "--score", "--json", store=world.store))
    assert (checked["digest"], checked["trial"]) == (done["digest"], int(number))
    assert all(row["again"] == row["ledger"] for row in checked["scores"])
    assert checked["ledger"] is True
    elsewhere = json.loads(call("verify", "out", "--json", store=str(tmp_path / "other.db")))
    assert (elsewhere["verified"], elsewhere["ledger"]) == (True, False)


def test_verify_finds_weights_and_proof_that_were_changed_together(
    world, tmp_path, monkeypatch, capsys
):
    number = call("pick", "toy", "--knee", store=world.store).strip()
    call("export", "toy", number, "out", store=world.store)
    file, proof = tmp_path / "out" / "model.safetensors", tmp_path / "out" / "recycler.json"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    claimed = json.loads(proof.read_text())
    claimed["digest"] = Checkpoint.open(tmp_path / "out").fingerprint()
    proof.write_text(json.dumps(claimed))
    code, _, said = refused(monkeypatch, capsys, "verify", "out", store=world.store)
    assert code == 1
    assert "the ledger says" in said


def test_verify_scores_with_the_tokenizer_of_the_folder(world, tmp_path, monkeypatch, capsys):
    number = call("pick", "toy", "--knee", store=world.store).strip()
    call("export", "toy", number, "out", store=world.store)
    file = tmp_path / "out" / "tokenizer.json"
    table = json.loads(file.read_text())
    ids = table["model"]["vocab"]
    for one, two in zip("abcdefgh", "qrstuvwx", strict=True):
        ids[one], ids[two] = ids[two], ids[one]
    file.write_text(json.dumps(table))
    code, _, said = refused(monkeypatch, capsys, "verify", "out", "--score", store=world.store)
    assert code == 1
    assert "in the ledger" in said
    assert "'tokenizer' of objective" in said
    file.unlink()
    code, _, said = refused(monkeypatch, capsys, "verify", "out", "--score", store=world.store)
    assert code == 1
    assert "no tokenizer can be loaded from" in said


def test_merge_as_json(drawer, tmp_path):
    recipe = {"checkpoints": [{"path": str(f), "weight": 0.5} for f in drawer[:2]]}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    done = json.loads(call("merge", "recipe.yaml", "out", "--json"))
    assert done["digest"] == Checkpoint.open(tmp_path / "out").fingerprint()
    again = json.loads(call("merge", "recipe.yaml", "out", "--force", "--json"))
    assert again == done


def test_run_as_json_resumes_what_is_finished_and_prints_its_front(world):
    before = json.loads(call("front", "toy", "--json", store=world.store))
    assert json.loads(call("run", world.file, "--json", store=world.store)) == before


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["studies"], "complete"),
        (["front", "toy"], "p(front)"),
        (["show", "toy", "3"], "digest sha256:"),
        (["pool", "list"], "study:toy"),
        (["pool", "show", "study:toy"], "ckpt-2"),
    ],
)
def test_what_people_read(world, command, said):
    assert said in call(*command, store=world.store)


# --- pool check ---


def test_pool_check_exits_0_when_fine_1_with_warnings_2_with_errors(drawer, tmp_path):
    def check(*folders):
        done = CliRunner().invoke(cli, ["pool", "check", *map(str, folders), "--json"])
        return done.exit_code, {f["code"] for f in json.loads(done.stdout)["findings"]}

    half = toy.checkpoint(tmp_path / "bf16", dtype="bfloat16")
    other = toy.checkpoint(tmp_path / "qwen", kind="qwen2")
    assert check(*drawer) == (0, set())
    assert check(drawer[0], half) == (1, {"dtype"})
    code, found = check(drawer[0], other)
    assert code == 2
    assert "tensor-extra" in found
    assert check(drawer[0], tmp_path / "nowhere") == (2, {"not-found"})


def test_pool_check_says_what_to_do(drawer, monkeypatch, capsys, tmp_path):
    half = toy.checkpoint(tmp_path / "bf16", dtype="bfloat16")
    code, out, err = refused(monkeypatch, capsys, "pool", "check", drawer[0], half)
    assert (code, err) == (1, "")
    assert "warning dtype bf16" in out
    assert "hint:" in out


# --- files ---


def test_front_writes_page_picture_and_table(world, tmp_path):
    call(
        *("front", "toy", "--html", "f.html", "--png", "f.png", "--csv", "f.csv"),
        store=world.store,
    )
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    table = pd.read_csv(tmp_path / "f.csv")
    assert set(table["name"]) >= {"uniform", "single:ckpt-0"}
    assert table.filter(like="weight.").sum(axis=1).to_numpy() == pytest.approx(1.0)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["f.csv", "f.html", "f.png"]


@pytest.mark.parametrize("kind", ["html", "png", "csv"])
def test_a_report_replaces_an_older_one_and_nothing_else(world, tmp_path, kind):
    arguments = ("front", "toy", f"--{kind}", f"f.{kind}")
    for _ in range(2):
        call(*arguments, store=world.store)
    (tmp_path / f"f.{kind}").write_text("Chapter 1, of a thesis")
    with pytest.raises(Conflict, match=f"f.{kind} exists"):
        call(*arguments, store=world.store)
    assert [f.read_text() for f in tmp_path.iterdir()] == ["Chapter 1, of a thesis"]


def test_the_page_loads_nothing_from_elsewhere(world, tmp_path):
    call("front", "toy", "--html", "f.html", store=world.store)
    page = (tmp_path / "f.html").read_text(encoding="utf-8")
    # tags of the page itself: what lies inside its scripts is text
    tags = re.sub(r"(<script[^>]*>).*?</script>", r"\1", page, flags=re.DOTALL)
    assert not re.findall(r"""(?:src|href)\s*=\s*["']?(?:https?:)?//""", tags)
    assert "<link" not in tags
    assert "@import" not in tags


# --- mistakes ---


def broken_study(world: World, **changes) -> dict:
    return {**yaml.safe_load(world.file.read_text()), "study": "other", **changes}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "nowhere.yaml"], "nowhere.yaml can't be read"),
        (["front", "nothing"], "no study 'nothing'"),
        (["show", "toy", "99"], "no trial 99"),
        (["pick", "toy", "--floor", "text"], "'text' is not of the form"),
        (["pick", "toy", "--floor", "text=low"], "'text=low' is not of the form"),
        (["pick", "toy", "--floor", "speed=1"], "'speed' is not an objective"),
        (["pick", "toy", "--floor", "choice=2"], "no member of the front meets"),
        (["pick", "toy", "--prefer", "speed=1"], "'speed' is not an objective"),
        (["export", "toy", "99", "out"], "no trial 99"),
        (["export", "toy", "0", "taken"], "taken exists"),
        (["verify", "taken"], "has no recycler.json"),
        (["merge", "nowhere.yaml", "out"], "nowhere.yaml can't be read"),
        (["pool", "add", "p", "nowhere"], "is not a folder"),
        (["pool", "add", "p", "taken"], "config.json is missing"),
        (["pool", "add", "p", "half"], "is not a whole safetensors file"),
        (["pool", "show", "nothing"], "no pool 'nothing'"),
        (["front", "toy", "--html", "no/such/f.html"], "no/such is not a folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_two_lines_and_no_traceback(
    world, tmp_path, monkeypatch, capsys, arguments, message
):
    (tmp_path / "taken").mkdir()
    half = shutil.copytree(world.folders[0], tmp_path / "half") / "model.safetensors"
    half.write_bytes(half.read_bytes()[:900])
    code, out, err = refused(monkeypatch, capsys, *arguments, store=world.store)
    assert (code, out) == (1, "")
    first, second = err.splitlines()
    assert first.startswith("Error: ")
    assert message in first
    assert second.startswith("  hint: ")
    assert len(second) > len("  hint: ...")


def test_a_mistake_with_json_is_json(world, monkeypatch, capsys):
    code, out, err = refused(monkeypatch, capsys, "front", "nothing", "--json", store=world.store)
    assert (code, out) == (1, "")
    told = json.loads(err)
    assert "no study 'nothing'" in told["error"]
    assert told["code"] == "not-found"
    assert told["hint"]


def test_a_missing_ledger_is_told_and_not_made(monkeypatch, capsys, tmp_path):
    code, _, err = refused(monkeypatch, capsys, "studies", store=str(tmp_path / "none.db"))
    assert code == 1
    assert "there is no ledger at" in err
    assert not (tmp_path / "none.db").exists()


def test_a_study_that_nobody_runs_is_not_asked_to_stop(world, monkeypatch, capsys):
    told = json.loads(call("stop", "toy", "--json", store=world.store))
    assert (told["study"], told["asked"], told["status"]) == ("toy", False, "complete")
    said = call("stop", "toy", store=world.store)
    assert re.match(r"study 'toy' does not run: complete since \d{4}-\d\d-\d\d ", said)
    code, _, err = refused(monkeypatch, capsys, "stop", "nothing", store=world.store)
    assert code == 1
    assert "no study 'nothing'" in err


def test_two_ways_to_pick_at_once_are_refused(world, monkeypatch, capsys):
    given = ("pick", "toy", "--knee", "--prefer", "text=1")
    code, _, err = refused(monkeypatch, capsys, *given, store=world.store)
    assert code == 2
    assert "give one of --knee, --prefer and --floor." in err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"objectives": [{"name": "text", "metric": "bits_per_bite"}]},
            "has no metric 'bits_per_bite'",
        ),
        ({"search": {"sampler": "nehvy"}}, "'nehvy' is not a sampler"),
        ({"search": {"evaluation": 3}}, "search.evaluation: "),
        ({"items": {"dev": 0}}, "items.dev: "),
        ({"study": "a/b"}, "study: "),
        ({"pool": []}, "is empty"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_wrong_study_file_names_the_field(
    world, tmp_path, monkeypatch, capsys, changes, message
):
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(broken_study(world, **changes)))
    code, _, err = refused(monkeypatch, capsys, "run", "study.yaml", store=str(tmp_path / "l.db"))
    assert code == 1, err
    assert message in err
    assert "Traceback" not in err
    assert "  hint: " in err


def test_a_study_of_one_checkpoint_has_a_front_of_one(world, tmp_path):
    table = broken_study(world, pool=[str(world.folders[0])])
    table["evaluator"]["tasks"] = str(world.root / "tasks")
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(table))
    told = json.loads(call("run", "study.yaml", "--json", store=str(tmp_path / "l.db")))
    assert [member["weights"] for member in told["members"]] == [{"ckpt-0": 1.0}]
    assert told["evaluations"] == 0


def test_a_checkpoint_with_nan_is_a_failed_trial_and_the_study_goes_on(world, tmp_path):
    bad = shutil.copytree(world.folders[2], tmp_path / "bad")
    state = safetensors.torch.load_file(bad / "model.safetensors")
    state["model.norm.weight"] = torch.full_like(state["model.norm.weight"], float("nan"))
    safetensors.torch.save_file(state, bad / "model.safetensors", {"format": "pt"})
    table = broken_study(world, pool=[*map(str, world.folders[:2]), str(bad)])
    table["evaluator"]["tasks"] = str(world.root / "tasks")
    table["search"] = {"sampler": "dirichlet", "evaluations": 0, "failed_share": 0.9}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(table))
    store = str(tmp_path / "l.db")
    told = json.loads(call("run", "study.yaml", "--json", store=store))
    failed = json.loads(call("show", "other", 2, "--json", store=store))
    assert failed["state"] == "failed"
    assert failed["failure"]["kind"] == "not-finite"
    assert all("bad" not in member["weights"] for member in told["members"])


def test_a_mistake_of_the_installed_program_has_no_traceback(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "recycler", "verify", "nowhere"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 2
    assert "Traceback" not in done.stderr

"""The workspace: which ledger, which pool, and when a study is the same one."""

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import toy
import yaml

from recycler import Objective, Pool, Workspace
from recycler.errors import Conflict, InvalidConfig, Mismatch, NotFound
from recycler.execute.inline import Inline
from recycler.nouns.evaluation import Evaluation, Failure, Score
from recycler.nouns.plan import Plan
from recycler.nouns.trial import Proposal
from recycler.study import Study
from recycler.submit.config import ExecutionSection
from recycler.submit.submission import submit


@pytest.fixture
def file(drawer: list[Path], tmp_path: Path) -> Path:
    return toy.study_file(tmp_path, drawer)


def begun(workspace: Workspace, file: Path) -> Plan:
    """Submit a study and score its first single, so that it is worth keeping."""
    plan = submit(workspace, file)
    recipe = plan.recipe([1.0] + [0.0] * (plan.n - 1))
    trial = workspace.store.start(plan.name, Proposal(kind="single", name="one", recipe=recipe))
    scores = {"text": Score(1.0, 0.1, 4), "choice": Score(0.5, 0.1, 4)}
    workspace.store.record(
        plan.name, trial.number, Evaluation(split="dev", scores=scores, digest="d")
    )
    return plan


def changed(file: Path, section: str, **values: object) -> Path:
    """The same study file with other settings in one section."""
    table = yaml.safe_load(file.read_text(encoding="utf-8"))
    table[section] = {**table[section], **values}
    other = file.with_name("changed.yaml")
    other.write_text(yaml.safe_dump(table), encoding="utf-8")
    return other


# --- which ledger ---


def test_a_ledger_is_found_in_the_nearest_parent_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Workspace()
    assert (tmp_path / ".recycler" / "ledger.db").exists()
    inside = tmp_path / "a" / "b"
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    assert Workspace(create=False).url == made.url
    assert not (inside / ".recycler").exists()


def test_a_ledger_that_is_not_there_is_refused_unless_it_may_be_made(tmp_path: Path) -> None:
    for url in ("", str(tmp_path / "my.db"), f"sqlite:///{tmp_path}/my.db"):
        with pytest.raises(NotFound, match="no ledger at"):
            Workspace(url, create=False)
    assert list(tmp_path.iterdir()) == []


def test_the_argument_comes_before_the_environment_before_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Workspace()
    monkeypatch.setenv("RECYCLER_STORE", str(tmp_path / "environment.db"))
    assert Workspace().url == f"sqlite:///{tmp_path}/environment.db"
    assert Workspace("argument.db").url == f"sqlite:///{tmp_path}/argument.db"
    assert Workspace("sqlite://").url == "sqlite://"


NOBODY = 65534
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")


@pytest.fixture
def nested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study's folder three levels below one that has a ledger: `outer/middle/inner`."""
    Workspace(str(tmp_path / "outer/.recycler/ledger.db"))
    inner = tmp_path / "outer/middle/inner"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    return inner


def found_from(folder: Path) -> Path:
    """The ledger that a workspace opened in a folder uses, relative to `outer`'s parent."""
    file = Path(Workspace().url.removeprefix("sqlite:///"))
    return file.relative_to(folder.parents[2])


def test_without_a_border_the_outer_ledger_is_found(nested: Path) -> None:
    assert found_from(nested) == Path("outer/.recycler/ledger.db")


@pytest.mark.parametrize(
    "border", ["home", "ceiling", "temporary", "world-writable", "owner", "linked home"]
)
def test_the_search_for_a_ledger_stops_at_a_border(
    nested: Path, monkeypatch: pytest.MonkeyPatch, border: str
) -> None:
    middle, outer = nested.parent, nested.parents[1]
    if border == "home":
        monkeypatch.setenv("HOME", str(middle))
    elif border == "linked home":
        (outer.parent / "home").symlink_to(middle)
        monkeypatch.setenv("HOME", str(outer.parent / "home"))
    elif border == "ceiling":
        monkeypatch.setenv("RECYCLER_CEILING", f"/elsewhere{os.pathsep}{outer}")
    elif border == "temporary":
        monkeypatch.setattr("tempfile.tempdir", str(outer))
    elif border == "world-writable":
        outer.chmod(0o1777)
    elif os.geteuid() != 0:
        pytest.skip("gives files to another user")
    else:
        os.chown(outer, NOBODY, NOBODY)
    with pytest.raises(NotFound, match="no ledger at"):
        Workspace(create=False)
    assert found_from(nested) == Path("outer/middle/inner/.recycler/ledger.db")


def test_the_home_folder_itself_is_searched(nested: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(nested.parents[1]))
    assert found_from(nested) == Path("outer/.recycler/ledger.db")


def test_a_user_without_a_home_has_a_ledger_all_the_same(
    nested: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container that is run under any number: no HOME, no entry in the user database."""

    def unknown(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    assert found_from(nested) == Path("outer/.recycler/ledger.db")


@root_only
def test_the_search_for_a_ledger_stops_at_the_border_of_a_file_system(
    nested: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "t", nested], check=False)
    if mounted.returncode:
        pytest.skip("no right to mount")
    try:
        monkeypatch.chdir(nested)  # the mounted one
        assert found_from(nested) == Path("outer/middle/inner/.recycler/ledger.db")
    finally:
        monkeypatch.chdir("/")
        subprocess.run(["umount", "-l", nested], check=True)


@root_only
@pytest.mark.parametrize("given", ["file", "folder", "link"])
def test_a_ledger_of_another_user_is_used_only_if_it_is_named(
    nested: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    theirs = nested.parents[1] / ".recycler"
    if given == "link":
        theirs.rename(nested.parents[2] / "planted")
        theirs.symlink_to(nested.parents[2] / "planted")
        os.chown(theirs, NOBODY, NOBODY, follow_symlinks=False)
    else:
        os.chown(theirs / "ledger.db" if given == "file" else theirs, NOBODY, NOBODY)
    with pytest.raises(NotFound, match=rf"{theirs}/ledger.db belongs to another user"):
        Workspace(create=False)
    named = Workspace(str(theirs / "ledger.db"), create=False)
    assert found_from(nested) == Path("outer/middle/inner/.recycler/ledger.db")
    monkeypatch.setenv("RECYCLER_STORE", str(theirs / "ledger.db"))
    assert Workspace().url == named.url
    monkeypatch.delenv("RECYCLER_STORE")
    monkeypatch.chdir(theirs.parent)
    with pytest.raises(Conflict, match=rf"{theirs}/ledger.db belongs to another user") as told:
        Workspace()
    assert "--store" in told.value.hint


def test_the_ledger_of_a_study_with_other_settings_is_named(file: Path, tmp_path: Path) -> None:
    workspace = Workspace()
    begun(workspace, file)
    with pytest.raises(Conflict, match=rf"in the ledger {tmp_path}/\.recycler/ledger\.db"):
        submit(workspace, changed(file, "search", seed=1))


# --- when a study is the same ---


def test_the_same_file_submitted_again_is_the_same_study(file: Path) -> None:
    workspace = Workspace()
    plan = submit(workspace, file)
    assert submit(workspace, file) == plan
    assert workspace.store.plan("toy") == plan
    assert len(workspace.store.studies()) == 1


def test_a_larger_budget_extends_and_a_smaller_one_is_refused(file: Path) -> None:
    workspace = Workspace()
    plan = begun(workspace, file)
    submit(workspace, changed(file, "search", evaluations=9))
    assert workspace.store.plan("toy") == replace(plan, evaluations=9)
    with pytest.raises(Conflict, match=r"evaluations is 9 in the ledger .*, 4 now"):
        submit(workspace, file)


@pytest.mark.parametrize(
    ("section", "values", "key"),
    [
        ("search", {"seed": 1}, r"seed is 0 in the ledger .*, 1 now"),
        ("search", {"sampler": "nsga2"}, r"sampler is 'dirichlet' in the ledger .*, 'nsga2' now"),
        ("search", {"greedy": False}, "greedy is True"),
        ("items", {"dev": 11}, "items is"),
        ("evaluator", {"max_length": 64}, "longest sequence is"),
    ],
)
def test_another_setting_is_refused_by_its_name_and_changes_nothing(
    file: Path, section: str, values: dict, key: str
) -> None:
    workspace = Workspace()
    plan = begun(workspace, file)
    with pytest.raises(Conflict, match=key):
        submit(workspace, changed(file, section, **values))
    assert workspace.store.plan("toy") == plan


def test_a_study_that_waits_is_replaced_only_on_request(file: Path) -> None:
    workspace = Workspace()
    plan = submit(workspace, file)
    recipe = plan.recipe([1.0] + [0.0] * (plan.n - 1))
    workspace.store.start("toy", Proposal(kind="single", name="one", recipe=recipe))
    workspace.store.fail("toy", 0, Failure("exception", "the task has a typo"))
    with pytest.raises(Conflict, match="seed is 0") as refused:
        submit(workspace, changed(file, "search", seed=5))
    assert "--replace" in refused.value.hint
    assert workspace.store.plan("toy") == plan
    assert len(workspace.store.trials("toy")) == 1
    mended = submit(workspace, changed(file, "search", seed=5), replace=True)
    assert mended.seed == workspace.store.plan("toy").seed == 5
    assert workspace.store.trials("toy") == []


def test_a_study_that_is_being_run_is_not_replaced(file: Path) -> None:
    workspace = Workspace()
    plan = submit(workspace, file)
    with (
        workspace.store.hold("toy"),
        pytest.raises(Conflict, match="being run, so it can't be replaced"),
    ):
        submit(workspace, file, replace=True)
    assert submit(workspace, file, replace=True) == plan


def test_a_handle_from_before_a_replacement_does_not_run_its_old_plan(file: Path) -> None:
    workspace = Workspace()
    old = Study(submit(workspace, file).name, workspace)
    submit(workspace, changed(file, "search", seed=5), replace=True)
    with pytest.raises(Conflict, match="was replaced or extended since"):
        old.run()
    assert workspace.store.trials("toy") == []
    assert workspace.store.status("toy")["status"] == "new"


def test_a_plan_of_a_newer_recycler_is_told_as_such(file: Path) -> None:
    workspace = Workspace()
    table = submit(workspace, file).to_json()
    with pytest.raises(Conflict, match="has 'entropy', which this recycler does not know") as c:
        Plan.from_json({**table, "entropy": 1})
    assert "upgrade" in c.value.hint
    table["objectives"][0]["temper"] = 2
    with pytest.raises(Conflict, match="'temper'"):
        Plan.from_json(table)


@pytest.mark.parametrize(("section", "word"), [("merge", "method"), ("search", "sampler")])
def test_a_wrong_name_is_told_before_anything_is_written(
    file: Path, section: str, word: str
) -> None:
    table = yaml.safe_load(file.read_text(encoding="utf-8"))
    table.setdefault(section, {})[word] = "linaer"
    file.write_text(yaml.safe_dump(table), encoding="utf-8")
    workspace = Workspace()
    with pytest.raises(InvalidConfig, match="'linaer' is not a"):
        submit(workspace, file)
    assert workspace.store.studies() == []


def test_execution_may_change_from_run_to_run(file: Path, drawer: list[Path]) -> None:
    workspace = Workspace()
    plan = submit(workspace, file)
    table = yaml.safe_load(file.read_text(encoding="utf-8"))
    table["execution"] = {"workers": 3, "timeout": 10}
    file.write_text(yaml.safe_dump(table), encoding="utf-8")
    assert submit(workspace, file) == plan


def test_another_checkpoint_under_the_same_name_is_refused(tmp_path: Path) -> None:
    folders = toy.drawer(tmp_path / "pool", 2)
    workspace = Workspace()
    file = toy.study_file(tmp_path, folders)
    begun(workspace, file)
    toy.checkpoint(folders[1], seed=77)
    with pytest.raises(Conflict, match="ingredients is"):
        submit(workspace, file)
    with pytest.raises(Mismatch, match=r"'ckpt-1' at .*ckpt-1 is not the one"):
        workspace.study_pool("toy")


def test_a_pool_that_moved_is_followed(tmp_path: Path) -> None:
    folders = toy.drawer(tmp_path / "pool", 2)
    workspace = Workspace()
    plan = submit(workspace, toy.study_file(tmp_path, folders))
    moved = [folder.rename(tmp_path / folder.name) for folder in folders]
    assert submit(workspace, toy.study_file(tmp_path, moved)) == plan
    assert [c.path for c in workspace.study_pool("toy").checkpoints] == moved


# --- pools and fingerprints ---


def test_a_registered_pool_comes_back_with_what_is_known_of_it(drawer: list[Path]) -> None:
    workspace = Workspace()
    entries = [{"name": f"c{i}", "path": str(f), "lr": 0.1} for i, f in enumerate(drawer[:2])]
    workspace.add_pool(Pool.from_entries("mine", entries, None))
    again = workspace.pool("mine")
    assert [c.name for c in again.checkpoints] == ["c0", "c1"]
    assert [dict(c.about)["lr"] for c in again.checkpoints] == [0.1, 0.1]
    assert workspace.store.catalog.pool("mine")["checkpoints"][0]["fingerprint"] == (
        again.checkpoints[0].fingerprint()
    )


def test_bytes_are_hashed_once_and_again_after_a_change(tmp_path: Path) -> None:
    (folder,) = toy.drawer(tmp_path / "pool", 1)
    workspace, read = Workspace(), []

    def note(name: str, count: int, total: int) -> None:
        read.append((name, count, total))

    checkpoint = Pool.open([folder]).checkpoints[0]
    first = workspace.fingerprint(checkpoint, note)
    assert read[-1][0] == "ckpt-0"
    assert sum(count for _, count, _ in read) == read[-1][2]
    read.clear()
    assert Workspace().fingerprint(Pool.open([folder]).checkpoints[0], note) == first
    assert read == []
    toy.checkpoint(folder, seed=5)
    assert workspace.fingerprint(Pool.open([folder]).checkpoints[0], note) != first
    assert read


# --- who runs it ---


def test_an_unknown_executor_lists_the_known_ones() -> None:
    workspace = Workspace("sqlite://")
    with pytest.raises(InvalidConfig, match=r"'rai' is not an? executor") as c:
        workspace.executor(lambda: None, ExecutionSection(executor="rai"))
    assert "inline, ray" in c.value.hint
    assert isinstance(workspace.executor(lambda: None, ExecutionSection()), Inline)


def test_a_larger_budget_defers_the_stop_rule_and_another_threshold_is_taken(
    drawer, tmp_path
) -> None:
    file = toy.study_file(tmp_path, drawer[:2], evaluations=3, stop_gain=0.5)
    workspace = Workspace()
    Study(submit(workspace, file).name, workspace).run()
    assert workspace.store.plan("toy").stop_after == 0
    text = file.read_text()
    file.write_text(text.replace("evaluations: 3", "evaluations: 5"))
    submit(workspace, file)
    longer = workspace.store.plan("toy")
    searched = sum(t.kind == "search" for t in workspace.store.trials("toy"))
    assert (longer.evaluations, longer.stop_after) == (5, searched + 10)
    file.write_text(file.read_text().replace("stop_gain: 0.5", "stop_gain: 0.1"))
    submit(workspace, file)
    again = workspace.store.plan("toy")
    assert (again.stop_gain, again.evaluations, again.stop_after) == (0.1, 5, searched + 10)


@pytest.mark.parametrize(
    ("merge", "message"),
    [
        ({"method": "ties"}, "ties needs a base checkpoint"),
        ({"method": "linear", "settings": {"densty": 0.5}}, "key 'densty' is not supported"),
        ({"method": "linear", "settings": {"normalize": "half"}}, "normalize is 'half'"),
        ({"method": "linear", "dtype": "bf16"}, "dtype is 'bf16', expected one of float32"),
    ],
)
def test_a_studys_merge_settings_are_refused_before_any_candidate(
    drawer, tmp_path, merge, message
):
    workspace = Workspace(f"sqlite:///{tmp_path / 'ledger.db'}")
    with pytest.raises(InvalidConfig, match=message):
        Study.create(
            "wrong",
            Pool.open(drawer),
            [Objective("a", "acc")],
            workspace=workspace,
            merge=merge,
        )
    assert workspace.store.studies() == []

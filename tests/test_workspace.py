"""The workspace: which ledger, which pool, and when a study is the same one."""

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


@pytest.fixture
def file(drawer: list[Path], tmp_path: Path) -> Path:
    return toy.study_file(tmp_path, drawer)


def begun(workspace: Workspace, file: Path) -> Plan:
    """Submit a study and score its first single, so that it is worth keeping."""
    plan = workspace.submit(file)
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


# --- when a study is the same ---


def test_the_same_file_submitted_again_is_the_same_study(file: Path) -> None:
    workspace = Workspace()
    plan = workspace.submit(file)
    assert workspace.submit(file) == plan
    assert workspace.store.plan("toy") == plan
    assert len(workspace.store.studies()) == 1


def test_a_larger_budget_extends_and_a_smaller_one_is_refused(file: Path) -> None:
    workspace = Workspace()
    plan = begun(workspace, file)
    workspace.submit(changed(file, "search", evaluations=9))
    assert workspace.store.plan("toy") == replace(plan, evaluations=9)
    with pytest.raises(Conflict, match="evaluations is 9 in the ledger, 4 now"):
        workspace.submit(file)


@pytest.mark.parametrize(
    ("section", "values", "key"),
    [
        ("search", {"seed": 1}, "seed is 0 in the ledger, 1 now"),
        ("search", {"sampler": "nsga2"}, "sampler is 'dirichlet' in the ledger, 'nsga2' now"),
        ("search", {"greedy": False}, "greedy is True"),
        ("items", {"dev": 11}, "items is"),
        ("evaluator", {"max_length": 64}, "evaluator is"),
    ],
)
def test_another_setting_is_refused_by_its_name_and_changes_nothing(
    file: Path, section: str, values: dict, key: str
) -> None:
    workspace = Workspace()
    plan = begun(workspace, file)
    with pytest.raises(Conflict, match=key):
        workspace.submit(changed(file, section, **values))
    assert workspace.store.plan("toy") == plan


def test_a_study_without_a_score_is_begun_anew_so_that_a_mistake_can_be_mended(file: Path) -> None:
    workspace = Workspace()
    plan = workspace.submit(file)
    recipe = plan.recipe([1.0] + [0.0] * (plan.n - 1))
    workspace.store.start("toy", Proposal(kind="single", name="one", recipe=recipe))
    workspace.store.fail("toy", 0, Failure("exception", "the task has a typo"))
    mended = workspace.submit(changed(file, "search", seed=5))
    assert mended.seed == workspace.store.plan("toy").seed == 5
    assert workspace.store.trials("toy") == []


@pytest.mark.parametrize(("section", "word"), [("merge", "method"), ("search", "sampler")])
def test_a_wrong_name_is_told_before_anything_is_written(
    file: Path, section: str, word: str
) -> None:
    table = yaml.safe_load(file.read_text(encoding="utf-8"))
    table.setdefault(section, {})[word] = "linaer"
    file.write_text(yaml.safe_dump(table), encoding="utf-8")
    workspace = Workspace()
    with pytest.raises(InvalidConfig, match="'linaer' is not a"):
        workspace.submit(file)
    assert workspace.store.studies() == []


def test_execution_may_change_from_run_to_run(file: Path, drawer: list[Path]) -> None:
    workspace = Workspace()
    plan = workspace.submit(file)
    table = yaml.safe_load(file.read_text(encoding="utf-8"))
    table["execution"] = {"workers": 3, "timeout": 10}
    file.write_text(yaml.safe_dump(table), encoding="utf-8")
    assert workspace.submit(file) == plan


def test_another_checkpoint_under_the_same_name_is_refused(tmp_path: Path) -> None:
    folders = toy.drawer(tmp_path / "pool", 2)
    workspace = Workspace()
    file = toy.study_file(tmp_path, folders)
    begun(workspace, file)
    toy.checkpoint(folders[1], seed=77)
    with pytest.raises(Conflict, match="ingredients is"):
        workspace.submit(file)
    with pytest.raises(Mismatch, match=r"'ckpt-1' at .*ckpt-1 is not the one"):
        workspace.study_pool("toy")


def test_a_pool_that_moved_is_followed(tmp_path: Path) -> None:
    folders = toy.drawer(tmp_path / "pool", 2)
    workspace = Workspace()
    plan = workspace.submit(toy.study_file(tmp_path, folders))
    moved = [folder.rename(tmp_path / folder.name) for folder in folders]
    assert workspace.submit(toy.study_file(tmp_path, moved)) == plan
    assert [c.path for c in workspace.study_pool("toy").checkpoints] == moved


# --- pools and fingerprints ---


def test_a_registered_pool_comes_back_with_what_is_known_of_it(drawer: list[Path]) -> None:
    workspace = Workspace()
    entries = [{"name": f"c{i}", "path": str(f), "lr": 0.1} for i, f in enumerate(drawer[:2])]
    workspace.add_pool(Pool.from_entries("mine", entries, None))
    again = workspace.pool("mine")
    assert [c.name for c in again.checkpoints] == ["c0", "c1"]
    assert [dict(c.about)["lr"] for c in again.checkpoints] == [0.1, 0.1]
    assert workspace.store.pool("mine")["checkpoints"][0]["fingerprint"] == (
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
    Study(workspace.submit(file).name, workspace).run()
    assert workspace.store.plan("toy").stop_after == 0
    text = file.read_text()
    file.write_text(text.replace("evaluations: 3", "evaluations: 5"))
    workspace.submit(file)
    longer = workspace.store.plan("toy")
    searched = sum(t.kind == "search" for t in workspace.store.trials("toy"))
    assert (longer.evaluations, longer.stop_after) == (5, searched + 10)
    file.write_text(file.read_text().replace("stop_gain: 0.5", "stop_gain: 0.1"))
    workspace.submit(file)
    again = workspace.store.plan("toy")
    assert (again.stop_gain, again.evaluations, again.stop_after) == (0.1, 5, searched + 10)


@pytest.mark.parametrize(
    ("merge", "message"),
    [
        ({"method": "ties"}, "ties needs a base checkpoint"),
        ({"method": "linear", "settings": {"densty": 0.5}}, "key 'densty' is not supported"),
        ({"method": "linear", "settings": {"normalize": "half"}}, "normalize is 'half'"),
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

"""`recycler init`: from folders and tasks to a study file that runs as it is."""

import json
import os
from pathlib import Path

import lmtasks
import pytest
import toy
import yaml
from click.testing import CliRunner

from recycler.checkpoints.lineage import names_of
from recycler.checkpoints.pool import Pool
from recycler.cli.main import cli
from recycler.demo import walkthrough
from recycler.errors import Conflict, InvalidConfig, NotFound
from recycler.execute.machine import Load, Machine, sized
from recycler.submit.config import read_study
from recycler.submit.draft import shorter
from recycler.submit.drafting import Wanted, asked, drafted, init, open_drawer

CHAT = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}<assistant>"


def call(*arguments, code=0):
    """The output of a command; a user's error is raised."""
    done = CliRunner().invoke(cli, list(map(str, arguments)))
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == code, done.output
    return done.output


def said_in(folder: Path, step: int, parent: str = "") -> None:
    """Add what a trainer leaves beside a checkpoint."""
    state = {"global_step": step, "epoch": step / 10, "best_metric": None, "log_history": []}
    (folder / "trainer_state.json").write_text(json.dumps(state))
    if parent:
        head = yaml.safe_dump({"base_model": parent, "datasets": ["a", "b"], "tags": ["sft"]})
        (folder / "README.md").write_text(f"---\n{head}---\n# a card\n")


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """A trainer's folders: a base, and two runs with two checkpoints each that name it."""
    root = tmp_path_factory.mktemp("runs")
    toy.checkpoint(root / "start", "gpt2", seed=9)
    for seed, (run, step) in enumerate((r, s) for r in ("sft", "dpo") for s in (30, 60)):
        folder = toy.checkpoint(root / run / f"checkpoint-{step}", "gpt2", seed)
        said_in(folder, step, "someone/start" if run == "sft" else "/elsewhere/start")
    toy.tasks(root / "tasks")
    return root


def test_a_trainers_folders_become_a_study_that_runs_from_any_folder(runs, tmp_path):
    out = runs / "mine.yaml"
    drawer = [*sorted(runs.glob("*/checkpoint-*")), runs / "start"]
    options = ("--tasks", "text,choice", "--held-out", "word", "--include-path", runs / "tasks")
    said = call("init", *drawer, *options, "--evaluations", 1, "-o", out)
    assert "recycler run" in said
    written = yaml.safe_load(out.read_text())
    assert [entry["name"] for entry in written["pool"]] == ["dpo-30", "dpo-60", "sft-30", "sft-60"]
    assert written["pool"][2] == {
        "name": "sft-30", "path": "sft/checkpoint-30", "run": "sft", "step": 30, "epoch": 3.0,
        "datasets": ["a", "b"], "tags": ["sft"], "parent": "start",
    }  # fmt: skip
    assert written["base"] == {"name": "start", "path": "start"}
    assert "4 of 4 checkpoints say so in README.md" in out.read_text()
    assert written["objectives"] == [
        {"name": "text", "metric": "bits_per_byte"}, {"name": "choice", "metric": "acc"},
    ]  # fmt: skip
    assert written["held_out"] == [{"name": "word", "metric": "exact_match"}]
    assert written["evaluator"]["tasks"] == "tasks"
    assert not written["evaluator"]["apply_chat_template"]
    os.chdir(tmp_path)
    table = json.loads(
        call("--store", "l.db", "run", out, "--executor", "inline", "--workers", 1, "--json")
    )
    assert (table["study"], table["status"], table["evaluations"]) == ("mine", "complete", 1)
    with pytest.raises(Conflict, match="never overwritten"):
        call("init", *drawer, *options, "-o", out)


def test_bfloat16_qwen_with_a_chat_template(tmp_path):
    folders = toy.drawer(tmp_path / "drawer", 2, "qwen2", dtype="bfloat16")
    for folder in folders:
        (folder / "chat_template.jinja").write_text(CHAT)
    many = {"doc_to_text": "{{q}}", "doc_to_target": "{{a}}", "test_split": "test"}
    many |= {
        "output_type": "generate_until",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 3},
    }
    metrics = [{"metric": "f_of_mine", "aggregation": "mean", "higher_is_better": False}]
    metrics = [{"metric": "exact_match"}, {"metric": "bleu", "aggregation": "bypass"}]
    filters = [{"name": name, "filter": [{"function": "take_first"}]} for name in ("one", "two")]
    rows = {"test": [{"q": w, "a": "a"} for w in lmtasks.words(40)]}
    config = {**many, "metric_list": metrics, "filter_list": filters}
    tasks = lmtasks.write_task(tmp_path / "tasks", "2.fold", rows, config)
    done = json.loads(
        call("init", *folders, "--tasks", "2.fold", "--include-path", tasks, "--json")
    )["study"]
    found = read_study("study.yaml")
    assert found.evaluator.settings["apply_chat_template"] is True
    assert "all checkpoints have one" in done["why"]["chat"]
    assert found.merge.dtype == ("" if "bfloat16" in Machine.here().quick else "float32")
    (goal,) = done["goals"]
    assert (goal["name"], goal["metric"], goal["others"]) == (
        "task-2.fold", "exact_match,one", ["exact_match,two"],
    )  # fmt: skip
    assert found.objectives[0].task == "2.fold"
    by_hand = Wanted.of(folders, objectives="2.fold:exact_match,two", include_path=tasks)
    assert drafted(by_hand, open_drawer(folders, None)).goals[0].metric == "exact_match,two"


def test_bad_input_is_told_and_writes_nothing(runs, tmp_path):
    two, tasks = sorted(runs.glob("sft/checkpoint-*")), runs / "tasks"

    def wanted(tasks_named: str, folders=two, **more):
        return init(Wanted.of(folders, tasks=tasks_named, include_path=tasks, **more))

    for named, error, said in (
        ("text:acc", InvalidConfig, "it has: bits_per_byte"),
        ("", InvalidConfig, "--tasks A,B,C"),
        ("text:bits_per_byte:max", InvalidConfig, "leave the direction out"),
        ("text:bits_per_byte:up", InvalidConfig, "write task"),
    ):
        with pytest.raises(error) as told:
            wanted(named)
        assert said in str(told.value)
    with pytest.raises(InvalidConfig, match="nothing to be merged with"):
        wanted("text", two[:1])
    other = toy.checkpoint(tmp_path / "other", "llama")
    arguments = ("init", *two, other, "--tasks", "text", "--include-path", tasks)
    assert "architecture" in call(*arguments, code=2)
    found = json.loads(call(*arguments, "--json", code=2))
    assert found["study"] is None
    assert {f["severity"] for f in found["findings"]} >= {"error"}
    assert call(
        "init", *two, tmp_path / "gone", "--tasks", "text", "--include-path", tasks, code=2
    )
    assert list(tmp_path.glob("*.yaml")) == []


def test_a_dataset_that_is_not_here_is_named_with_the_line_that_fetches_it(runs, tmp_path):
    config = {
        "task": "far", "dataset_path": "nobody/far", "dataset_name": "main", "test_split": "test",
        "output_type": "multiple_choice", "doc_to_text": "q", "doc_to_target": "a",
        "doc_to_choice": ["a", "b"], "metric_list": [{"metric": "acc"}],
    }  # fmt: skip
    (tmp_path / "far.yaml").write_text(yaml.safe_dump(config))
    two = sorted(runs.glob("sft/checkpoint-*"))
    with pytest.raises(
        NotFound, match="dataset 'nobody/far', 'main' is not on this machine"
    ) as told:
        init(Wanted.of(two, tasks="far", include_path=tmp_path))
    assert "load_dataset('nobody/far', 'main')" in told.value.hint


def test_names_are_plain_and_unique():
    paths = (
        "/r/run a/checkpoint-30", "/r/b/final", "/x/b/final", "/c/models--org--Tiny/snapshots/0ab",
        "/r/b/checkpoints/checkpoint-5", "/r/sft-1", "/x/sft-1",
    )  # fmt: skip
    assert names_of([Path(path) for path in paths]) == [
        "run-a-30", "r-b-final", "x-b-final", "Tiny", "b-5", "r-sft-1", "x-sft-1",
    ]  # fmt: skip
    forty = [Path(f"/r/run/checkpoint-{step}") for step in range(40)]
    assert names_of(forty) == [f"run-{step}" for step in range(40)]


def test_lists_of_objectives_keep_filters_with_their_metrics():
    assert asked(" a, b ,", "b:acc,c:exact_match,strict-match,d:acc:max") == [
        "a", "b:acc", "c:exact_match,strict-match", "d:acc:max",
    ]  # fmt: skip


def test_batch_and_workers_fit_the_memory():
    load = Load(weights=2_000_000_000, token=1_000_000, longest=1000)
    small = sized(Machine(cores=64, memory=16_000_000_000), load, 50)
    assert (small.workers, small.batch) == (3, 1)  # 3 x (2 + 1.2 + 1) of 12.8 GB
    assert "16.0 GB" in small.why_batch
    many = sized(Machine(cores=64, memory=10**12), load, 50)
    assert many.workers == 12  # a quarter of the budget
    cards = sized(Machine(cores=8, memory=10**11, accelerators=(80 * 10**9,) * 2), load, 50)
    assert (cards.workers, cards.device, cards.batch) == (2, "cuda", 16)  # (64 - 2) / 2 / 1 GB
    none = sized(Machine(cores=2, memory=10**9), load, 50)
    assert (none.workers, none.batch) == (1, 1)
    assert "too little" in none.why_batch


def test_paths_are_relative_only_where_that_leads_to_the_same_folder(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "runs").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "deep" / "er")
    assert shorter(tmp_path / "runs", tmp_path) == "runs"
    assert shorter(tmp_path / "runs", tmp_path / "deep") == "../runs"
    assert shorter(tmp_path / "runs", tmp_path / "link") == str(tmp_path / "runs")


def test_the_demos_file_is_what_was_written_by_hand(tmp_path):
    written = read_study(walkthrough.study_file(tmp_path / "demo"))
    by_hand, pool = read_study(walkthrough.STUDY), Pool.from_yaml(walkthrough.HERE / "pool.yaml")
    for section in ("study", "objectives", "held_out", "items", "search"):
        assert getattr(written, section) == getattr(by_hand, section), section
    assert written.merge.dtype == by_hand.merge.dtype
    assert {entry["name"] for entry in written.pool_entries()} == set(pool.names)
    assert Path(written.base_entry()["path"]).name == pool.base.name == "base"

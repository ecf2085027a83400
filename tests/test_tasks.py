"""Task folders as `lm_eval --include_path` reads them, data relative to the YAML."""

import json
from pathlib import Path

import pytest

from recycler.errors import InvalidConfig, NotFound
from recycler.evaluate.tasks import aggregation_of, higher_is_better, load_tasks

ROWS = [json.dumps({"q": f"{i}?", "c": ["a", "b"], "gold": i % 2}) + "\n" for i in range(30)]
BASE = {
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": ["../data/test-0.jsonl", "../data/test-1.jsonl"]}},
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "{{q}}",
    "doc_to_choice": "{{c}}",
    "doc_to_target": "gold",
    "metric_list": [{"metric": "acc"}],
}
FUNCTION = "\n".join(f"{k}: {json.dumps(v)}" for k, v in {**BASE, "task": "t"}.items())
SHAPES = {
    "an include": ({"_template_yaml": BASE, "t.yaml": {"include": "_template_yaml", "task": "t"}}, 30),
    "an include from another folder": (
        {"deep/er/_yaml": BASE, "t.yaml": {"include": "deep/er/_yaml", "task": "t"}},
        30,
    ),
    "a helper": (
        {
            "utils.py": "def process_docs(docs):\n    return docs.select(range(24))\n",
            "t.yaml": "process_docs: !function utils.process_docs\n" + FUNCTION,
        },
        24,
    ),
    "a group and a tag beside it": (
        {
            "t.yaml": {**BASE, "task": "t", "tag": "some_tag"},
            "_g.yaml": {"group": "g", "task": ["t"]},
        },
        30,
    ),
    "a glob": (
        {"t.yaml": {**BASE, "task": "t", "dataset_kwargs": {"data_files": {"test": "../data/*-?.jsonl"}}}},
        30,
    ),
    "a folder of data": (
        {"t.yaml": {**BASE, "task": "t", "dataset_path": "../data", "dataset_kwargs": {}}},
        30,
    ),
    "a folder of data beside it": (
        {"t.yaml": {**BASE, "task": "t", "dataset_path": "rows", "dataset_kwargs": {}},
         "rows/test.jsonl": "".join(ROWS)},
        30,
    ),
    "a folder that has a builder's name": (
        {"t.yaml": {**BASE, "task": "t"}, "json/test.jsonl": "".join(ROWS[:5])},
        30,
    ),
    "a name that others hold": (
        {"t.yaml": {**BASE, "task": "t"}, "o.yaml": {**BASE, "task": "tt"},
         "g.yaml": {"group": "g", "task": ["t"]}},
        30,
    ),
    "a data_dir": (
        {"t.yaml": {**BASE, "task": "t", "dataset_kwargs": {"data_dir": "../data"}}},
        30,
    ),
    "files that are no tasks": (
        {"t.yaml": {**BASE, "task": "t"}, "notes.yaml": [1, 2], "broken.yaml": "task: [", "x.txt": "y"},
        30,
    ),
    "a subfolder": ({"sub/t.yaml": {**BASE, "task": "t", "dataset_path": "../../data", "dataset_kwargs": {}}}, 30),
}  # fmt: skip


def written(where: Path, files) -> Path:
    (where / "data").mkdir(parents=True)
    (where / "data" / "test-0.jsonl").write_text("".join(ROWS[:15]))
    (where / "data" / "test-1.jsonl").write_text("".join(ROWS[15:]))
    for name, content in files.items():
        file = where / "t" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content if isinstance(content, str) else json.dumps(content))
    return where / "t"


@pytest.mark.parametrize("shape", SHAPES)
def test_a_folder_of_any_shape_gives_its_task(tmp_path, shape):
    files, count = SHAPES[shape]
    folder = written(tmp_path, files)
    if shape == "an include from another folder":  # relative to the file that says it
        for k in (0, 1):
            (tmp_path / "t" / "deep" / "data").mkdir(exist_ok=True)
            moved = tmp_path / "t" / "deep" / "data" / f"test-{k}.jsonl"
            (tmp_path / "data" / f"test-{k}.jsonl").rename(moved)
    task = load_tasks(["t"], folder, tmp_path, False)["t"].task
    assert len(task.eval_docs) == count
    assert aggregation_of(task, "acc")[0] == "mean"
    assert higher_is_better(task, "acc") is True


@pytest.mark.parametrize(
    ("files", "name", "error", "said", "hint"),
    [
        ({"t.yaml": {**BASE, "task": "t"}, "g.yaml": {"group": "g", "task": ["t"]}}, "g",
         InvalidConfig, "'g' is a group of 1 tasks", "t"),
        ({"t.yaml": {**BASE, "task": "t", "tag": "mine"}}, "mine",
         InvalidConfig, "'mine' is a tag of 1 tasks", "t"),
        ({"t.yaml": {**BASE, "task": "t", "dataset_path": "./gone"}}, "t",
         NotFound, "there is no data at ./gone", "relative to the task's YAML"),
        ({"t.yaml": {**BASE, "task": "t", "dataset_kwargs": {"data_files": "gone.jsonl"}}}, "t",
         NotFound, r"data file .*gone\.jsonl is not there", "data_files"),
        ({"t.yaml": {**BASE, "task": "t", "unsafe_code": True}}, "t",
         InvalidConfig, "'t' is marked `unsafe_code: true`", "allow_unsafe_code: true"),
        ({"t.yaml": {**BASE, "task": "t"}, "deep/u.yaml": {"task": "t", "include": "../t.yaml"}}, "t",
         InvalidConfig, "2 files in .* define a task 't': deep/u.yaml, t.yaml", "a name of its own"),
        ({"t.yaml": {**BASE, "task": "t", "doc_to_image": "q"}}, "t",
         InvalidConfig, "'t' has images or sound", "text"),
        ({"t.yaml": "process_docs: !function gone.by\n" + FUNCTION}, "t",
         InvalidConfig, "'t' can't be loaded: .*gone", "lm_eval validate"),
    ],
)  # fmt: skip
def test_what_can_not_be_loaded_is_told_with_the_next_step(
    tmp_path, files, name, error, said, hint
):
    with pytest.raises(error, match=said) as told:
        load_tasks([name], written(tmp_path, files), tmp_path, False)
    assert hint in told.value.hint


def test_unsafe_code_runs_with_a_named_consent_and_no_helper_is_read_without(tmp_path):
    helper = "raise RuntimeError('read')\n"
    text = "unsafe_code: true\nprocess_docs: !function utils.by\n" + FUNCTION
    folder = written(tmp_path, {"utils.py": helper, "t.yaml": text})
    with pytest.raises(InvalidConfig, match="unsafe_code"):
        load_tasks(["t"], folder, tmp_path, False)
    (folder / "utils.py").write_text("def by(docs):\n    return docs\n")
    assert load_tasks(["t"], folder, tmp_path, True)["t"].task.UNSAFE_CODE

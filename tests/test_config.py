"""Study files: those we ship load, those with a mistake are refused by the field's name."""

from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

import recycler
from recycler.errors import InvalidConfig, NotFound
from recycler.evaluate.items import DEFAULT_ITEMS
from recycler.evaluate.settings import LmEvalSettings
from recycler.execute.ray_workers import RaySettings
from recycler.search.samplers import SAMPLERS
from recycler.submit import config
from recycler.submit.config import parse_study, read_study

PACKAGE = Path(recycler.__file__).parent
CONFIGS = PACKAGE.parent / "configs"
OTHERS = (
    "compose.yaml",
    "kuberay.yaml",
    "service.yaml",
)  # tests/test_service_config.py reads them
STUDIES = [file for file in sorted(CONFIGS.glob("*.yaml")) if file.name not in OTHERS]
SHIPPED = [*STUDIES, PACKAGE / "demo" / "study.yaml"]
LEAST = {"study": "s", "pool": ["runs/a"], "objectives": [{"name": "code"}]}


def with_(path, value):
    """The least study with one setting more; `path` is dotted."""
    *sections, key = path.split(".")
    table = {**LEAST}
    inner = table
    for section in sections:
        inner[section] = dict(inner.get(section, {}))
        inner = inner[section]
    inner[key] = value
    return table


def models():
    """Every pydantic model that users write into."""
    return [
        found
        for found in vars(config).values()
        if isinstance(found, type)
        and issubclass(found, BaseModel)
        and found.__module__ == config.__name__
        and not found.__name__.startswith("_")
    ]


# --- what we ship ---


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_a_shipped_study_file_loads_with_a_sampler_that_exists(file):
    study = read_study(file)
    assert study.search.sampler in SAMPLERS
    assert study.all_objectives().m == len(study.objectives)


def test_the_three_study_files_are_shipped():
    assert {file.name for file in SHIPPED} >= {"demo.yaml", "recycle.yaml", "template.yaml"}


def test_the_template_shows_every_key_in_its_place_and_no_other():
    template = yaml.safe_load((CONFIGS / "template.yaml").read_text())
    places = {
        config.StudyFile: template,
        config.ObjectiveEntry: template["objectives"][0],
        config.ItemsSection: template["items"],
        config.EvaluatorSection: template["evaluator"],
        config.MergeSection: template["merge"],
        config.SearchSection: template["search"],
        config.ExecutionSection: template["execution"],
    }
    assert {*places, config.CheckpointEntry, config.ReferenceEntry} == set(models())
    for model, shown in places.items():
        more = LmEvalSettings.model_fields if model is config.EvaluatorSection else ()
        assert set(shown) == {*model.model_fields, *more}, model.__name__
    assert set(template["pool"][0]) > set(config.CheckpointEntry.model_fields)


def test_the_template_shows_a_reference_of_every_kind():
    lines = (CONFIGS / "template.yaml").read_text().split("\nreferences:")[1].splitlines()
    shown = yaml.safe_load("\n".join(line.replace("# ", "", 1) for line in lines[1:4]))
    read = parse_study({**LEAST, "references": shown}).references
    assert [entry.name for entry in read] == ["production", "my-mix", "mk"]
    assert {key for entry in shown for key in entry} == set(config.ReferenceEntry.model_fields)


def test_the_template_shows_the_settings_of_ray_with_their_defaults():
    lines = (
        (CONFIGS / "template.yaml")
        .read_text()
        .split("# settings of ray; each executor")[1]
        .splitlines()
    )
    shown = yaml.safe_load("\n".join(line.replace("# ", "", 1) for line in lines[1:]))
    assert {"workers": 2, **shown} == RaySettings().model_dump()


def test_the_template_states_the_defaults():
    written = read_study(CONFIGS / "template.yaml")
    for name in ("items", "merge", "search", "execution"):
        assert getattr(written, name) == getattr(parse_study(LEAST), name)


# --- what a file becomes ---


def test_the_least_study_has_the_documented_defaults():
    study = parse_study(LEAST)
    assert study.items.model_dump() == DEFAULT_ITEMS
    assert (study.search.sampler, study.search.evaluations, study.search.seed) == ("auto", 50, 0)
    assert (study.merge.method, study.execution.workers) == ("linear", 1)
    assert study.pool_entries() == [{"path": "runs/a"}]
    assert study.base_entry() is None


def test_objectives_keep_their_order_and_held_out_ones_come_after():
    table = {
        **LEAST,
        "objectives": [{"name": "b"}, {"name": "a", "metric": "bits_per_byte", "scale": 2}],
        "held_out": [{"name": "c", "metric": "odd", "direction": "min"}],
    }
    objectives = parse_study(table).all_objectives()
    assert [o.name for o in objectives] == ["b", "a", "c"]
    assert [o.name for o in objectives.searched] == ["b", "a"]
    assert (objectives["a"].direction, objectives["a"].scale) == ("min", 2.0)
    assert (objectives["c"].held_out, objectives["c"].direction) == (True, "min")


def test_other_keys_of_a_checkpoint_are_kept_as_metadata():
    table = {
        **LEAST,
        "pool": [{"path": "runs/a", "name": "a", "stage": 2, "tags": ["x"]}, "runs/b"],
        "base": {"path": "runs/base", "run": "r"},
    }
    study = parse_study(table)
    assert study.pool_entries()[0] == {"path": "runs/a", "name": "a", "stage": 2, "tags": ["x"]}
    assert study.pool_entries()[1] == {"path": "runs/b"}
    assert study.base_entry() == {"name": "", "path": "runs/base", "run": "r"}
    assert parse_study({**LEAST, "pool": "registered"}).pool_entries() == []


def test_settings_of_the_evaluator_are_passed_through_with_the_files_folder(tmp_path):
    settings = parse_study(with_("evaluator", {"tasks": "t", "batch_size": 64}))
    assert settings.evaluator_settings(tmp_path) == {
        "kind": "lm-eval",
        "root": str(tmp_path),
        "tasks": "t",
    }
    python = parse_study(with_("evaluator", {"kind": "python", "function": "mine:score"}))
    assert python.evaluator_settings(tmp_path) == {
        "kind": "python",
        "root": str(tmp_path),
        "function": "mine:score",
    }


@pytest.mark.parametrize(
    ("evaluator", "said", "hint"),
    [
        ({"kind": "python"}, "evaluator.function: Field required", "function"),
        ({"kind": "python", "batch_size": 4}, "there is no setting 'batch_size'", "function"),
        ({"kind": "lmeval"}, "'lmeval' is not an evaluator.", "did you mean 'lm-eval'"),
        ({"batch_size": "many"}, "evaluator.batch_size: Input should be", "allow_unsafe_code"),
        ({"function": "mine:score"}, "evaluator: there is no setting 'function'", "num_fewshot"),
    ],
)
def test_settings_of_an_evaluator_are_checked_by_its_own_model(evaluator, said, hint):
    with pytest.raises(InvalidConfig) as refused:
        parse_study(with_("evaluator", evaluator), "my.yaml")
    assert said in refused.value.message
    assert hint in refused.value.hint


@pytest.mark.parametrize(
    ("items", "said"),
    [
        ({"dev": 2.5}, "items.dev: Value error, expected a whole number of items"),
        ({"dev": 0.6, "select": 0.3, "test": 0.2}, "the shares of a task's items sum to 1.1"),
    ],
)
def test_items_are_counts_or_shares(items, said):
    with pytest.raises(InvalidConfig, match=said):
        parse_study(with_("items", items))
    assert parse_study(with_("items", {"dev": 0.2, "test": 9})).items.dev == 0.2


# --- mistakes ---


OPEN = (config.CheckpointEntry, config.ExecutionSection)  # what they don't know is another's


@pytest.mark.parametrize("model", [m for m in models() if m not in OPEN])
def test_an_unknown_key_is_named_with_its_place(model):
    paths = {
        "StudyFile": "sampler",
        "ObjectiveEntry": "objectives.0.sampler",
        "ReferenceEntry": "references.0.sampler",
        "ItemsSection": "items.sampler",
        "EvaluatorSection": "evaluator.sampler",
        "MergeSection": "merge.sampler",
        "SearchSection": "search.samplr",
    }
    path = paths[model.__name__]
    if model is config.ObjectiveEntry:
        table = {**LEAST, "objectives": [{"name": "code", "sampler": "x"}]}
    elif model is config.ReferenceEntry:
        table = {**LEAST, "references": [{"name": "r", "path": "prod", "sampler": "x"}]}
    else:
        table = with_(path, "x")
    with pytest.raises(InvalidConfig) as refused:
        parse_study(table, "my.yaml")
    if model is config.EvaluatorSection:  # each kind has settings of its own
        assert refused.value.message == "my.yaml: evaluator: there is no setting 'sampler' here."
        assert "batch_size" in refused.value.hint
        return
    assert refused.value.message == (
        f"my.yaml: {path}: Extra inputs are not permitted, found 'x'."
    )
    assert "template.yaml" in refused.value.hint


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("search.evaluations", "many"),
        ("search.evaluations", -1),
        ("search.evaluations", 2.5),
        ("search.failed_share", 1.5),
        ("search.failed_share", float("nan")),
        ("search.finalists", 0),
        ("search.greedy", "perhaps"),
        ("search.settings", [1]),
        ("items.dev", 0),
        ("evaluator.batch_size", 0),
        ("evaluator.tasks", ["a"]),
        ("merge.dtype", 32),
        ("execution.workers", 0),
        ("execution.device", 0),
        ("search", "nehvi"),
        ("items", [5]),
        ("pool", 5),
        ("objectives", {"name": "code"}),
        ("objectives", []),
        ("study", "../escape"),
        ("study", ""),
        ("study", "two words"),
        ("study", "x" * 101),
    ],
)
def test_a_wrong_value_is_named_with_its_place_and_shown(path, value):
    with pytest.raises(InvalidConfig) as refused:
        parse_study(with_(path, value), "my.yaml")
    assert refused.value.message.startswith(f"my.yaml: {path}: ")
    assert refused.value.message.endswith(f", found {value!r}.")


@pytest.mark.parametrize("field", LEAST)
def test_a_missing_key_is_named(field):
    with pytest.raises(InvalidConfig) as refused:
        parse_study({key: value for key, value in LEAST.items() if key != field}, "my.yaml")
    assert refused.value.message == f"my.yaml: {field}: Field required."


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"objectives": [{"metric": "acc"}]}, "objectives.0.name: Field required."),
        ({"pool": ["a", {"name": "b"}]}, "pool.1.path: Field required."),
        ({"pool": [{"path": 3}]}, "pool.0.path: Input should be a valid string, found 3."),
        ({"base": {"name": "b"}}, "base.path: Field required."),
        ({"objectives": [{"name": "a", "direction": "up"}]}, "objectives.0.direction: Input"),
    ],
)
def test_a_mistake_inside_a_list_or_a_choice_of_forms_is_named_alone(change, complaint):
    with pytest.raises(InvalidConfig) as refused:
        parse_study({**LEAST, **change}, "my.yaml")
    assert refused.value.message.startswith(f"my.yaml: {complaint}")
    assert "more" not in refused.value.message


def test_further_mistakes_are_counted():
    table = {**LEAST, "serach": {}, "items": {"dev": 0, "tset": 1}}
    with pytest.raises(InvalidConfig) as refused:
        parse_study(table)
    assert refused.value.message.endswith("found 0 (2 more).")


@pytest.mark.parametrize(
    ("content", "error", "complaint"),
    [
        (b"study: [", InvalidConfig, "is not valid YAML"),
        (b"study: !!python/object/apply:os.getcwd []", InvalidConfig, "is not valid YAML"),
        (b"- a\n", InvalidConfig, "holds list, expected a table"),
        (b"", InvalidConfig, "holds NoneType, expected a table"),
        (b"study: \xff\n", NotFound, "can't be read"),
    ],
)
def test_a_file_that_is_no_table_of_settings_is_refused(tmp_path, content, error, complaint):
    (tmp_path / "my.yaml").write_bytes(content)
    with pytest.raises(error, match=complaint) as refused:
        read_study(tmp_path / "my.yaml")
    assert "my.yaml" in refused.value.message


def test_a_missing_file_is_not_found(tmp_path):
    with pytest.raises(NotFound, match=r"none\.yaml can't be read: No such file"):
        read_study(tmp_path / "none.yaml")

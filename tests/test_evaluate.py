"""Evaluators: lm-eval's own numbers item by item, splits, and any Python callable."""

import json
import random
import shutil
import socket
import sys
from pathlib import Path

import lm_eval
import numpy as np
import pytest
import torch
import toy
import yaml
from contracts.evaluator import EvaluatorContract
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from recycler.errors import InvalidConfig, NotFinite, NotFound
from recycler.evaluate.harness import LmEval
from recycler.evaluate.items import dependent, split_items, split_sizes
from recycler.evaluate.kinds import make_evaluator
from recycler.evaluate.python import PythonEvaluator
from recycler.evaluate.results import evaluation_of, read_values
from recycler.nouns.evaluation import SPLITS, Outcomes, Score
from recycler.nouns.objectives import Objective, Objectives
from recycler.nouns.recipe import Ingredient, Recipe
from recycler.nouns.trial import Job
from recycler.protocols import Context

ITEMS = {"dev": 10, "select": 8, "test": 12}
OBJECTIVES = (
    Objective("choice", "acc", cluster="group"),
    Objective("text", "bits_per_byte"),
    Objective("word", "exact_match"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return toy.tasks(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> str:
    toy.tokenizer().save_pretrained(tmp_path_factory.mktemp("tokenizer"))
    return str(tmp_path_factory.getbasetemp() / "tokenizer0")


def lm_eval_evaluator(folder, tokenizer, objectives=OBJECTIVES, items=ITEMS, **settings) -> LmEval:
    context = Context(objectives=tuple(objectives), items=items, tokenizer=str(tokenizer))
    given = {"tasks": str(folder), "batch_size": 8, "max_length": 128, **settings}
    return LmEval(context, LmEval.Settings(**given))


def python(function, tokenizer, root="", objectives=()) -> PythonEvaluator:
    context = Context(objectives=objectives, items={}, tokenizer=tokenizer, root=str(root))
    return PythonEvaluator(context, PythonEvaluator.Settings(function=function))


class TestLmEvalContract(EvaluatorContract):
    @pytest.fixture(scope="class")
    @classmethod
    def make(cls, folder, tokenizer):
        return lambda: lm_eval_evaluator(folder, tokenizer)

    @pytest.fixture(scope="class")
    @classmethod
    def objectives(cls):
        return OBJECTIVES

    @pytest.fixture(scope="class")
    @classmethod
    def models(cls):
        return [toy.model(seed=seed) for seed in (0, 1)]


class TestPythonContract(EvaluatorContract):
    @pytest.fixture(scope="class")
    @classmethod
    def make(cls, tmp_path_factory, tokenizer, objectives):
        root = tmp_path_factory.mktemp("python")
        (root / "norms_of_weights.py").write_text(
            "from recycler.nouns.evaluation import Outcomes\n"
            "SPLITS = ('dev', 'select', 'test')\n"
            "def score(model, tokenizer, split):\n"
            "    weight = model.get_output_embeddings().weight\n"
            "    ids = tuple(range(SPLITS.index(split), len(weight), 3))\n"
            "    rows = weight[list(ids)]\n"
            "    found = {'norm': rows.norm(dim=1), 'mean': rows.mean(dim=1)}\n"
            "    return {k: Outcomes(ids, tuple(v.tolist())) for k, v in found.items()}\n"
        )
        return lambda: python("norms_of_weights:score", tokenizer, root, objectives)

    @pytest.fixture(scope="class")
    @classmethod
    def objectives(cls):
        return (Objective("norm", "norm", "max"), Objective("mean", "mean", "min"))

    @pytest.fixture(scope="class")
    @classmethod
    def models(cls):
        return [toy.model(seed=seed) for seed in (0, 1)]


# --- against lm-eval itself ---


@pytest.fixture(scope="module")
def theirs(folder, tokenizer):
    """`lm_eval.simple_evaluate` on one model, for the documents of our dev split."""
    evaluator = lm_eval_evaluator(folder, tokenizer)
    lm = HFLM(
        pretrained=toy.model(seed=3),
        tokenizer=toy.tokenizer(),
        backend="causal",
        batch_size=8,
        max_length=128,
        device="cpu",
    )
    return lm_eval.simple_evaluate(
        model=lm,
        tasks=[evaluator._tasks[name] for name in ("choice", "text", "word")],
        samples={name: sorted(split["dev"]) for name, split in evaluator._splits.items()},
        task_manager=TaskManager(include_defaults=False),
        bootstrap_iters=0,
    )


@pytest.mark.parametrize(
    ("name", "metric"), [("choice", "acc"), ("text", "bits_per_byte"), ("word", "exact_match")]
)
def test_items_and_means_are_lm_evals_own(folder, tokenizer, theirs, name, metric):
    """All three output types, the same documents, one forward implementation each."""
    ours = lm_eval_evaluator(folder, tokenizer).evaluate(toy.model(seed=3), OBJECTIVES, "dev")
    rows = {row["doc"]["id"]: row for row in theirs["samples"][name]}
    assert sorted(rows) == sorted(ours[name].ids)  # the toy's ids are its positions
    values, weights, _ = ours[name].arrays()
    for number, value, weight in zip(ours[name].ids, values, weights, strict=True):
        told = rows[number][metric]
        if metric == "bits_per_byte":
            loglikelihood, size = told
            assert weight == size == len(rows[number]["doc"]["text"].encode())
            told = -loglikelihood / size / np.log(2)
        assert value == pytest.approx(float(told), rel=1e-12)
    aggregate = next(
        value for key, value in theirs["results"][name].items() if key.partition(",")[0] == metric
    )
    assert ours[name].score().mean == pytest.approx(aggregate, rel=1e-12)


def test_the_toy_scores_are_not_trivial(theirs):
    assert 0 < theirs["results"]["choice"]["acc,none"] < 1
    assert theirs["results"]["text"]["bits_per_byte,none"] > 1


def test_prompts_are_built_once_and_kept(folder, tokenizer):
    evaluator = lm_eval_evaluator(folder, tokenizer)
    evaluator.evaluate(toy.model(seed=0), OBJECTIVES, "dev")
    first = {key: [id(r) for r in found] for key, found in evaluator._requests.items()}
    evaluator.evaluate(toy.model(seed=1), OBJECTIVES, "dev")
    assert {key: [id(r) for r in found] for key, found in evaluator._requests.items()} == first
    assert set(first) == {(name, "dev") for name in ("choice", "text", "word")}


def test_clusters_follow_the_documents_field(folder, tokenizer):
    evaluator = lm_eval_evaluator(folder, tokenizer)
    found = evaluator.evaluate(toy.model(), OBJECTIVES, "dev")["choice"]
    groups = [i // 4 for i in found.ids]  # as toy.tasks numbers them
    assert len(found.clusters) == len(found.ids)
    for i in range(len(groups)):
        for j in range(i):
            assert (groups[i] == groups[j]) == (found.clusters[i] == found.clusters[j])


def test_few_shot_examples_do_not_depend_on_the_global_generator(folder, tokenizer, tmp_path):
    shots = tmp_path / "shots"
    for file in [*folder.glob("*.yaml"), *folder.glob("*.jsonl")]:
        shots.mkdir(exist_ok=True)
        (shots / file.name).write_bytes(file.read_bytes())
    config = yaml.safe_load((shots / "choice.yaml").read_text())
    config |= {"num_fewshot": 2, "fewshot_split": "test"}
    (shots / "choice.yaml").write_text(yaml.safe_dump(config))
    prompts = []
    for seed in (1, 2):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        evaluator = lm_eval_evaluator(shots, tokenizer, OBJECTIVES[:1])
        evaluator.evaluate(toy.model(), OBJECTIVES[:1], "dev")
        prompts.append([r.args[0] for r in evaluator._requests["choice", "dev"]])
    assert prompts[0] == prompts[1]
    assert prompts[0][0].count(":") == 3  # two examples and the question


def test_evaluation_asks_no_network(folder, tokenizer, monkeypatch):
    def refuse(*_):
        raise AssertionError("the evaluation opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    evaluator = lm_eval_evaluator(folder, tokenizer)
    for split in SPLITS:
        assert evaluator.evaluate(toy.model(), OBJECTIVES, split)


# --- splits ---


def documents(count: int) -> list[dict]:
    return [{"q": f"question {i}", "a": i % 3} for i in range(count)]


def test_splits_are_disjoint_and_of_the_sizes_asked():
    found = split_items("t", documents(100), {"dev": 20, "select": 30, "test": 40})
    assert [len(found[split]) for split in SPLITS] == [20, 30, 40]
    assert len({i for split in SPLITS for i in found[split]}) == 90


@pytest.mark.parametrize(
    ("count", "wanted", "sizes"),
    [
        (164, {}, [27, 27, 110]),  # HumanEval with the defaults: 1/6, 1/6, 2/3
        (198, {}, [33, 33, 132]),  # GPQA
        (30, {}, [5, 5, 20]),  # AIME
        (3, {}, [1, 1, 1]),
        (45, {"dev": 20, "select": 20, "test": 100}, [7, 6, 32]),  # 6.4, 6.4, 32.1
        (1500, {}, [250, 250, 1000]),
        (5000, {}, [250, 250, 1000]),
        (100, {"dev": 0.2, "select": 0.2, "test": 0.5}, [20, 20, 50]),
        (100, {"dev": 0.1, "select": 10, "test": 1000}, [1, 1, 98]),
        (11, {"dev": 1, "select": 1, "test": 1}, [1, 1, 1]),
    ],
)
def test_where_a_task_has_fewer_items_every_split_shrinks_in_proportion(count, wanted, sizes):
    assert list(split_sizes(count, wanted).values()) == sizes
    found = split_items("t", documents(count), wanted)
    assert [len(found[split]) for split in SPLITS] == sizes


def test_no_cluster_and_no_content_lies_in_two_splits():
    passages = [{"page": i // 7, "q": i} for i in range(126)]  # 18 passages of 7 questions
    sizes = {"dev": 30, "select": 30, "test": 40}
    found = split_items("t", passages, sizes, ["page"])
    pages = [{passages[i]["page"] for i in found[split]} for split in SPLITS]
    assert sum(map(len, pages)) == len(set.union(*pages))
    assert [len(found[split]) for split in SPLITS] == [28, 28, 35]  # whole passages only
    copies = [{"q": i % 20} for i in range(100)]
    found = split_items("t", copies, sizes)
    contents = [{copies[i]["q"] for i in found[split]} for split in SPLITS]
    assert sum(map(len, contents)) == len(set.union(*contents))
    assert [len(found[split]) for split in SPLITS] == [30, 30, 40]


def test_a_cluster_larger_than_a_split_leaves_items_for_the_others():
    one = [{"page": 0, "q": i} for i in range(50)] + [{"page": i, "q": 0} for i in (1, 2)]
    found = split_items("t", one, {"dev": 5, "select": 5, "test": 5}, ["page"])
    assert sorted(len(found[split]) for split in SPLITS) == [1, 1, 50]


def test_clusters_are_joined_over_copies_and_over_fields():
    linked = [{"a": 0, "b": 0}, {"a": 0, "b": 1}, {"a": 1, "b": 1}, {"a": 2, "b": 2}]
    assert dependent(linked, ["a", "b"]) == [0, 0, 0, 3]
    assert dependent(linked, ["a"]) == [0, 0, 2, 3]
    assert dependent([*linked, {"b": 2, "a": 2}]) == [0, 1, 2, 3, 3]


def test_splits_follow_the_content_not_the_order_of_the_file():
    items = documents(60)
    shuffled = items.copy()
    random.Random(3).shuffle(shuffled)
    sizes = {"dev": 10, "select": 10, "test": 20}
    first, second = split_items("t", items, sizes), split_items("t", shuffled, sizes)
    for split in SPLITS:
        assert [items[i] for i in first[split]] == [shuffled[i] for i in second[split]]


def test_a_larger_dev_split_keeps_its_first_items():
    small = split_items("t", documents(60), {"dev": 5, "select": 5, "test": 5})
    large = split_items("t", documents(60), {"dev": 10, "select": 5, "test": 5})
    assert large["dev"][:5] == small["dev"]


def test_another_seed_or_task_splits_differently():
    sizes = {"dev": 10, "select": 10, "test": 10}
    found = split_items("t", documents(60), sizes)
    assert found != split_items("t", documents(60), {**sizes, "seed": 1})
    assert found != split_items("u", documents(60), sizes)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_items_are_told_with_the_numbers(count):
    with pytest.raises(InvalidConfig, match=rf"task 't' has {count} items") as caught:
        split_items("t", documents(count), {"dev": 20, "select": 20, "test": 5})
    assert "items:" in caught.value.hint
    with pytest.raises(InvalidConfig, match="has 9 items, 2 of them independent"):
        split_items("t", [{"q": i % 2} for i in range(9)], {})


# --- what the user got wrong ---


@pytest.mark.parametrize(
    ("objective", "error", "said", "hint"),
    [
        (Objective("chioce", "acc"), NotFound, "no task 'chioce'", "choice, text, word"),
        (Objective("choice", "f1", "max"), InvalidConfig, "no metric 'f1'", "acc"),
        (Objective("word", "exact_match,strict"), InvalidConfig, "no filter 'strict'", "none"),
        (Objective("choice", "acc", cluster="page"), InvalidConfig, "no field 'page'", "group"),
    ],
)
def test_a_wrong_objective_is_refused_before_any_evaluation(
    folder, tokenizer, objective, error, said, hint
):
    with pytest.raises(error, match=said) as caught:
        lm_eval_evaluator(folder, tokenizer, [objective])
    assert hint in caught.value.hint


def test_a_named_filter_is_taken(folder, tokenizer):
    named = lm_eval_evaluator(folder, tokenizer, [Objective("word", "exact_match,none")])
    plain = lm_eval_evaluator(folder, tokenizer, [Objective("word", "exact_match")])
    model = toy.model()
    first = named.evaluate(model, [Objective("word", "exact_match,none")], "dev")
    assert first == plain.evaluate(model, [Objective("word", "exact_match")], "dev")


REPEATED = """
def process(doc, results):
    (answers,) = results
    return {"answers": len(answers), "different": len(set(answers))}
"""


@pytest.mark.parametrize("repeats", [1, 4])
@pytest.mark.parametrize("sampled", [False, True])
def test_a_task_is_answered_as_often_as_it_repeats(tokenizer, tmp_path, repeats, sampled):
    """Greedy answers are all the same, sampled ones are not: 4 of 259² possible ones."""
    toy.tasks(tmp_path)
    task = yaml.safe_load((tmp_path / "word.yaml").read_text())
    sampling = {"do_sample": True, "temperature": 1.0} if sampled else {}
    each = {"aggregation": "mean", "higher_is_better": True}
    task |= {
        "repeats": repeats,
        "generation_kwargs": {**task["generation_kwargs"], **sampling},
        "filter_list": [
            {"name": "all", "filter": [{"function": "take_first_k", "k": repeats}]},
        ],
        "metric_list": [{"metric": "answers", **each}, {"metric": "different", **each}],
    }
    (tmp_path / "helper.py").write_text(REPEATED)
    text = yaml.safe_dump(task) + "process_results: !function helper.process\n"
    (tmp_path / "word.yaml").write_text(text)
    objectives = [
        Objective("answers", "answers", "max", task="word"),
        Objective("different", "different", "max", task="word"),
    ]
    evaluator = lm_eval_evaluator(tmp_path, tokenizer, objectives)
    found = evaluator.evaluate(toy.model(), objectives, "dev")
    assert set(found["answers"].values) == {float(repeats)}
    different = np.mean(found["different"].values)
    assert different > 0.7 * repeats if sampled else different == 1


@pytest.mark.parametrize("content", [None, "{", '{"model": 1}'])
@pytest.mark.parametrize("kind", ["lm-eval", "python"])
def test_a_tokenizer_that_can_not_be_loaded_is_told_with_its_folder(tmp_path, kind, content):
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    settings = {"kind": kind, **({"function": "json:dumps"} if kind == "python" else {})}
    with pytest.raises(InvalidConfig, match=f"no tokenizer can be loaded from {tmp_path}") as told:
        make_evaluator(settings, Objectives((Objective("o", "acc"),)), {}, str(tmp_path))
    assert "first checkpoint" in told.value.hint


def test_two_objectives_may_read_one_task(folder, tokenizer):
    both = (Objective("text", "bits_per_byte"), Objective("bpb", "byte_perplexity", task="text"))
    config = yaml.safe_load((folder / "text.yaml").read_text())
    assert config["metric_list"] == [{"metric": "bits_per_byte"}]
    with pytest.raises(InvalidConfig, match="task 'text' has no metric 'byte_perplexity'"):
        lm_eval_evaluator(folder, tokenizer, both)
    again = (both[0], Objective("same", "bits_per_byte", task="text"))
    found = lm_eval_evaluator(folder, tokenizer, again).evaluate(toy.model(), again, "dev")
    assert found["text"] == found["same"]


@pytest.mark.slow  # lm-eval reads all its task files to answer
def test_an_unknown_task_is_named_with_its_neighbours(folder, tokenizer):
    for tasks, where in (("", "lm-eval"), (folder, str(folder))):
        with pytest.raises(NotFound, match=f"{where} has no task 'gsm9k'") as told:
            lm_eval_evaluator(tasks, tokenizer, [Objective("gsm9k", "acc")])
        assert "'gsm8k'" in told.value.hint
    with pytest.raises(InvalidConfig, match=r"'mmlu' is a group of \d+ tasks") as told:
        lm_eval_evaluator("", tokenizer, [Objective("mmlu", "acc")])
    assert "mmlu_stem" in told.value.hint


def test_a_task_folder_that_is_not_there_is_named(tmp_path, tokenizer):
    with pytest.raises(NotFound, match=r"task folder .*nowhere is not there"):
        lm_eval_evaluator(tmp_path / "nowhere", tokenizer)


# --- Python callables ---


def python_evaluator(tmp_path, monkeypatch, tokenizer, body: str) -> PythonEvaluator:
    name = f"user_{abs(hash(body))}"
    (tmp_path / f"{name}.py").write_text(f"def score(model, tokenizer, split):\n    {body}\n")
    monkeypatch.setattr(sys, "path", [*sys.path])
    return python(f"{name}:score", tokenizer, tmp_path)


MINE = (Objective("a", "a", "max"), Objective("b", "b", "max"))


def test_item_lists_pairs_and_means_become_scores(tmp_path, monkeypatch, tokenizer):
    body = "return {'a': [0, 1, 1.0], 'b': (0.5, 0.1), 'unasked': 3}"
    found = python_evaluator(tmp_path, monkeypatch, tokenizer, body).evaluate(None, MINE, "dev")
    assert found == {"a": Outcomes((0, 1, 2), (0.0, 1.0, 1.0)), "b": Score(0.5, 0.1, 0)}
    assert found["a"].score() == Score(
        pytest.approx(2 / 3), pytest.approx(np.std([0, 1, 1], ddof=1) / np.sqrt(3)), 3
    )


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.25, Score(0.25, 0.0, 0)),
        (np.float32(0.5), Score(0.5, 0.0, 0)),
        (np.array(2.0), Score(2.0, 0.0, 0)),
        (np.array([1.0, 2.0]), Outcomes((0, 1), (1.0, 2.0))),
        ([True, False], Outcomes((0, 1), (1.0, 0.0))),
        (torch.tensor([0.5]), Outcomes((0,), (0.5,))),
    ],
)
def test_numbers_of_any_kind_are_read(value, expected):
    assert read_values(value) == expected


@pytest.mark.parametrize(
    "value", ["0.5", None, [], ["a", "b"], [[1, 2], [3, 4]], {"mean": 1}, object]
)
def test_what_is_no_number_is_refused_with_the_forms_that_are(value):
    with pytest.raises(InvalidConfig, match="expected") as caught:
        read_values(value)
    assert "item values" in caught.value.hint


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return [1, 2]", "returned list, expected a mapping"),
        ("return {'a': 1}", "returned no value for 'b'"),
        ("return {}", "returned no value for 'a'"),
        ("return None", "returned NoneType"),
    ],
)
def test_a_wrong_return_is_told(tmp_path, monkeypatch, tokenizer, body, said):
    evaluator = python_evaluator(tmp_path, monkeypatch, tokenizer, body)
    with pytest.raises(InvalidConfig, match=said) as caught:
        evaluator.evaluate(None, MINE, "dev")
    assert caught.value.hint


@pytest.mark.parametrize("function", ["nowhere:score", "json:nothing", "json", ":x"])
def test_a_function_that_can_not_be_imported_is_named(tokenizer, function):
    with pytest.raises(InvalidConfig, match="can't be imported"):
        python(function, tokenizer)


# --- scores and failures ---

JOB = Job(0, Recipe("linear", (Ingredient("f", "a", 1.0),), "float32"), "dev", ("a",))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_scores_that_are_not_finite_are_refused(bad):
    with pytest.raises(NotFinite, match="objective 'a' is"):
        evaluation_of(JOB, {"a": Outcomes((0, 1), (0.5, bad))}, "", {})
    with pytest.raises(NotFinite):
        evaluation_of(JOB, {"a": Score(0.5, bad, 0)}, "", {})


def test_an_evaluation_keeps_items_digest_and_costs():
    outcomes = Outcomes((3, 5), (0.0, 1.0))
    made = evaluation_of(JOB, {"a": outcomes}, "sha256:x", {"merge": 0.1})
    assert made.outcomes == {"a": outcomes}
    assert made.scores == {"a": outcomes.score()}
    assert (made.split, made.digest, made.seconds) == ("dev", "sha256:x", {"merge": 0.1})


# --- what a score is a score of ---


def measured(folder, tokenizer, **settings):
    return lm_eval_evaluator(folder, tokenizer, **settings).measures()


def differing(first, second):
    """Objective -> names of the parts that differ, of two measures."""
    return {
        name: sorted(
            k for k in {*first[name], *second[name]} if first[name].get(k) != second[name].get(k)
        )
        for name in first
    }


def moved(folder, where):
    shutil.copytree(folder, where)
    return where


def test_a_measure_is_plain_json_and_the_same_wherever_the_folder_lies(
    folder, tokenizer, tmp_path
):
    here = measured(folder, tokenizer)
    assert json.loads(json.dumps(here)) == here
    there = measured(moved(folder, tmp_path / "else" / "where"), tokenizer)
    assert there == here
    assert str(folder) not in json.dumps(here)
    assert here["choice"]["items of task 'choice'"] == {
        "dev": 8, "select": 8, "test": 12, "of": 40, "seed": 0,
    }  # fmt: skip
    assert {"version of lm-eval", "version of torch", "version of transformers"} <= set(
        here["text"]
    )


def test_what_was_edited_is_named_and_only_where_it_counts(folder, tokenizer, tmp_path):
    here, other = measured(folder, tokenizer), moved(folder, tmp_path / "t")
    lines = (other / "word.jsonl").read_text().splitlines()
    lines[3] = lines[3].replace('"q": "', '"q": "x')
    (other / "word.jsonl").write_text("\n".join(lines))
    found = differing(here, measured(other, tokenizer))
    assert found == {"choice": [], "text": [], "word": ["data of task 'word'"]}
    config = (other / "choice.yaml").read_text()
    (other / "choice.yaml").write_text(config.replace("{{q}}", "Q {{q}}"))
    assert differing(here, measured(other, tokenizer))["choice"] == ["config of task 'choice'"]


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"batch_size": 4}, ["batch size"]),
        ({"max_length": 64}, ["longest sequence"]),
        (
            {"num_fewshot": 1},
            ["config of task 'choice'", "few-shot examples of task 'choice'"],
        ),
        ({"items": {**ITEMS, "seed": 1}}, ["data of task 'choice'", "items of task 'choice'"]),
    ],
)
def test_settings_that_decide_scores_are_parts_of_the_measure(folder, tokenizer, settings, parts):
    here = measured(folder, tokenizer)
    assert differing(here, measured(folder, tokenizer, **settings))["choice"] == parts


def test_helpers_and_what_they_import_are_parts_of_the_measure(folder, tokenizer, tmp_path):
    tasks = moved(folder, tmp_path / "t")
    (tasks / "helpers.py").write_text(
        "import sys\nfrom pathlib import Path\n"
        "sys.path.insert(0, str(Path(__file__).parent))\n"
        "from wording_of_prompts import ask\ndef text(doc):\n    return ask(doc)\n"
    )
    (tasks / "wording_of_prompts.py").write_text("def ask(doc):\n    return doc['q']\n")
    config = yaml.safe_load((tasks / "choice.yaml").read_text())
    del config["doc_to_text"]
    text = yaml.safe_dump(config) + "doc_to_text: !function helpers.text\n"
    (tasks / "choice.yaml").write_text(text)
    before = measured(tasks, tokenizer)
    assert {"helper helpers.py", "helper wording_of_prompts.py"} <= set(before["choice"])
    assert not any(part.startswith("helper") for part in before["text"])
    (tasks / "wording_of_prompts.py").write_text("def ask(doc):\n    return doc['q'] + ' '\n")
    found = differing(before, measured(tasks, tokenizer))
    assert found["choice"] == ["helper wording_of_prompts.py"]


def test_the_users_module_and_its_local_imports_are_parts_of_the_measure(tokenizer, tmp_path):
    (tmp_path / "scoring_of_mine.py").write_text(
        "import json\nimport parts_of_mine.sums\ndef score(model, tokenizer, split):\n    return {}\n"
    )
    (tmp_path / "parts_of_mine").mkdir()
    (tmp_path / "parts_of_mine" / "__init__.py").write_text("")
    (tmp_path / "parts_of_mine" / "sums.py").write_text("X = 1\n")
    made = python("scoring_of_mine:score", tokenizer, tmp_path, MINE)
    before = made.measures()
    assert {part for part in before["a"] if part.startswith("helper")} == {
        "helper scoring_of_mine.py",
        "helper parts_of_mine/__init__.py",
        "helper parts_of_mine/sums.py",
    }
    (tmp_path / "parts_of_mine" / "sums.py").write_text("X = 2\n")
    assert differing(before, made.measures()) == {
        name: ["helper parts_of_mine/sums.py"] for name in "ab"
    }

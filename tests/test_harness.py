"""lm-eval's own configs, aggregations, chat templates and answers, against `simple_evaluate`."""

from pathlib import Path

import pytest
import toy
from lmtasks import LETTERS, OWN, TEMPLATE, evaluator, language_model, theirs, words, write_task

from recycler.errors import InvalidConfig
from recycler.nouns.objectives import Objective


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A folder with a tokenizer that has a chat template, and the config of a long-sighted model."""
    where = tmp_path_factory.mktemp("checkpoint")
    tokenizer = toy.tokenizer()
    tokenizer.model_max_length = 2048
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(where)
    return where


@pytest.fixture(scope="module")
def model():
    return language_model(3)


# --- six of lm-eval's own configs, on documents of the same columns ---

SHORT = {"max_gen_toks": 6, "do_sample": False}


def gsm8k(folder):
    rows = [
        {"question": f"{w} has {i}?", "answer": f"so #### {i}"} for i, w in enumerate(words(30))
    ]
    config = {
        "include": str(OWN / "gsm8k/gsm8k.yaml"),
        "generation_kwargs": {**SHORT, "until": ["Question:", "</s>"]},
    }
    write_task(folder, "gsm8k", {"train": rows[:6], "test": rows[6:]}, config)
    return ["exact_match,strict-match", "exact_match,flexible-extract"]


def lambada_openai(folder):
    rows = [{"text": " ".join(words(4, i))} for i in range(24)]
    config = {"include": str(OWN / "lambada/lambada_openai.yaml")}
    write_task(folder, "lambada_openai", {"test": rows}, config)
    return ["perplexity", "acc"]


def mmlu_anatomy(folder):
    rows = [
        {"question": f"{w} ", "choices": words(4, i), "answer": i % 4}
        for i, w in enumerate(words(30))
    ]
    config = {"include": str(OWN / "mmlu/default/mmlu_anatomy.yaml")}
    write_task(folder, "mmlu_anatomy", {"dev": rows[:6], "test": rows[6:]}, config)
    return ["acc"]


def ifeval(folder):
    """Its checks need a download (nltk, langdetect): the same shape with checks of our own."""
    helper = """
def process_results(doc, results):
    text = results[0]
    kept = [letter in text for letter in doc['instruction_id_list']]
    loose = [letter in text.lower() for letter in doc['instruction_id_list']]
    return {'prompt_level_strict_acc': all(kept), 'inst_level_strict_acc': kept,
            'prompt_level_loose_acc': all(loose), 'inst_level_loose_acc': loose}

def agg_inst_level_acc(items):
    flat_items = [item for sublist in items for item in sublist]
    return sum(flat_items) / len(flat_items)
"""
    rows = [
        {
            "key": i,
            "prompt": f"{w}>",
            "instruction_id_list": list(LETTERS[: 1 + i % 4]),
            "kwargs": [],
        }
        for i, w in enumerate(words(24))
    ]
    text = (OWN / "ifeval/ifeval.yaml").read_text()
    folder.mkdir(parents=True)
    (folder / "utils.py").write_text(helper)
    (folder / "_ifeval_yaml").write_text(text.replace("max_gen_toks: 1280", "max_gen_toks: 40"))
    write_task(folder, "ifeval", {"train": rows}, {"include": "_ifeval_yaml"})
    return ["prompt_level_strict_acc", "inst_level_strict_acc", "inst_level_loose_acc"]


def squadv2(folder):
    """lm-eval's class; its metric needs a download, so exact match and F1 stand in for it."""
    helper = """
from functools import partial
from pathlib import Path
from lm_eval.tasks.squadv2.task import SQuAD2

def agg(key, items):
    found = []
    for prediction, reference in items:
        golds = reference['answers']['text'] or ['']
        said = prediction['prediction_text']
        found.append(max(float(said == g) if key == 'exact' else
                         len(set(said) & set(g)) / max(1, len(set(said) | set(g))) for g in golds))
    return 100.0 * sum(found) / len(found)

class Local(SQuAD2):
    DATASET_PATH = 'json'

    def download(self, dataset_kwargs=None, **kwargs):
        here = Path(__file__).parent
        files = {s: str(here / f'squadv2-{s}.jsonl') for s in ('train', 'validation')}
        super().download({'data_files': files})

    def aggregation(self):
        return {key: partial(agg, key) for key in super().aggregation()}
"""
    rows = [
        {"id": str(i), "title": w, "context": w * 2, "question": f"{w}?",
         "answers": {"text": [w] if i % 3 else [], "answer_start": [0] if i % 3 else []}}
        for i, w in enumerate(words(30))
    ]  # fmt: skip
    write_task(folder, "squadv2", {"train": rows[:6], "validation": rows[6:]}, {}, task=helper)
    (folder / "squadv2.yaml").write_text("task: squadv2\nclass: !function task.Local\n")
    return ["exact", "f1"]


def humaneval(folder):
    """Its metric needs a download (code_eval): the same shape with a check that runs nothing."""
    helper = """
def pass_at_k(references, predictions, k=None):
    return {f'pass@{n}': float(any(len(p) % 2 == 0 for p in predictions[0][:n])) for n in k}

def build_predictions(resps, docs):
    return [[doc['prompt'] + r for r in resp] for resp, doc in zip(resps, docs)]
"""
    rows = [
        {"task_id": str(i), "prompt": f"def {w}():\n", "test": "def check(f): pass", "entry_point": w,
         "canonical_solution": ""}
        for i, w in enumerate(words(24))
    ]  # fmt: skip
    folder.mkdir(parents=True)
    (folder / "utils.py").write_text(helper)
    text = (OWN / "humaneval/humaneval.yaml").read_text()
    (folder / "_humaneval_yaml").write_text(text.replace("max_gen_toks: 1024", "max_gen_toks: 6"))
    write_task(folder, "humaneval", {"test": rows}, {"include": "_humaneval_yaml"})
    return ["pass@1"]


@pytest.mark.parametrize(("shots", "chat"), [(None, False), (2, False), (None, True), (2, True)])
@pytest.mark.parametrize(
    "write",
    [gsm8k, ifeval, lambada_openai, squadv2, mmlu_anatomy, humaneval],
    ids=lambda w: w.__name__,
)
def test_lm_evals_own_configs_score_as_simple_evaluate(
    checkpoint, model, tmp_path, write, shots, chat
):
    name = write.__name__
    metrics = write(tmp_path / "tasks")
    if shots and name == "lambada_openai":
        pytest.skip("its config names no documents for examples")
    objectives = [Objective(f"o{i}", m, "task", task=name) for i, m in enumerate(metrics)]
    chosen = {"num_fewshot": shots, "apply_chat_template": chat}
    settings = {**chosen, "allow_unsafe_code": True}
    if shots and name == "squadv2":  # its class takes no examples, in lm-eval neither
        with pytest.raises(InvalidConfig, match="no prompt can be made of its items") as refused:
            evaluator(checkpoint, tmp_path / "tasks", objectives, **settings)
        assert "num_fewshot: 0" in refused.value.hint
        return
    ours = evaluator(checkpoint, tmp_path / "tasks", objectives, **settings)
    found = ours.evaluate(model, objectives, "dev")
    ids = ours._splits[name]["dev"]
    assert len(ids) == 12
    told = theirs(checkpoint, tmp_path / "tasks", name, model, ids, **chosen)
    for objective in objectives:
        metric, _, wanted = objective.metric.partition(",")
        key = next(k for k in told["results"][name] if k.startswith(f"{metric},{wanted}"))
        outcomes = found[objective.name]
        assert outcomes.score().mean == pytest.approx(told["results"][name][key], rel=1e-9)
        rows = [r for r in told["samples"][name] if r["filter"] == key.partition(",")[2]]
        raw = {r["doc_id"]: r[metric] for r in rows}
        assert set(raw) == set(outcomes.ids)
        for number, value in zip(outcomes.ids, outcomes.values, strict=True):
            if isinstance(raw[number], bool | int | float):
                sign = -1 if metric == "perplexity" else 1
                assert value == pytest.approx(sign * raw[number], rel=1e-6)
        if name in ("gsm8k", "ifeval", "mmlu_anatomy"):
            logged = {row["doc_id"]: row for row in rows}
            same_answers(outcomes, [logged[i] for i in outcomes.ids])
    prompts = {r.doc_id: r.args[0] for r in ours._requests[name, "dev"]}
    asked = {row["doc_id"]: row["arguments"] for row in told["samples"][name]}
    first = {
        i: a["gen_args_0"]["arg_0"] if isinstance(a, dict) else a[0][0] for i, a in asked.items()
    }
    assert [prompts[k] for k in sorted(prompts)] == [first[i] for i in sorted(ids)]


def same_answers(outcomes, logged):
    """Prompts and answers are those that lm-eval logs, in the order of the outcomes."""
    answers, options = outcomes.answers, list("ABCD")
    for k, row in enumerate(logged):
        first = row["arguments"]
        first = first["gen_args_0"]["arg_0"] if isinstance(first, dict) else first[0][0]
        assert answers.prompts[k] == first
        if answers.margins:
            likelihoods = [likelihood for likelihood, _ in row["filtered_resps"]]
            best, second = sorted(likelihoods)[:-3:-1]
            assert answers.texts[k] == options[likelihoods.index(best)]
            assert answers.margins[k] == pytest.approx(best - second, abs=1e-6)
            assert answers.targets[k] == options[row["target"]]
            assert outcomes.values[k] == (answers.texts[k] == answers.targets[k])
        else:
            assert answers.texts[k] == row["filtered_resps"][0]
            assert (answers.raw or answers.texts)[k] == row["resps"][0][0]
            assert answers.targets[k] == str(row["target"])


# --- chat templates ---


def test_examples_are_turns_of_their_own_as_lm_eval_has_it_by_default(checkpoint, model, tmp_path):
    gsm8k(tmp_path / "t")
    objectives = [Objective("o", "exact_match,strict-match", task="gsm8k")]
    prompts = []
    for several in (True, False):
        settings = {"apply_chat_template": True, "num_fewshot": 2, "fewshot_as_multiturn": several}
        made = evaluator(checkpoint, tmp_path / "t", objectives, **settings)
        made.evaluate(model, objectives, "dev")
        prompts.append(made._requests["gsm8k", "dev"][0].args[0])
    assert [p.count("<user>") for p in prompts] == [3, 1]
    assert [p.count("<assistant>") for p in prompts] == [3, 1]


def test_a_tokenizer_without_a_template_is_told_before_anything_runs(tmp_path):
    toy.tokenizer().save_pretrained(tmp_path / "plain")
    gsm8k(tmp_path / "t")
    objectives = [Objective("o", "exact_match", task="gsm8k")]
    with pytest.raises(InvalidConfig, match="the tokenizer has no chat template") as told:
        evaluator(tmp_path / "plain", tmp_path / "t", objectives, apply_chat_template=True)
    assert "chat_template" in told.value.hint

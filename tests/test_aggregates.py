"""Aggregations, sampled answers and encoder-decoder models, against lm-eval and brute force."""

import json
import math
from dataclasses import replace
from pathlib import Path

import lm_eval.api.registry
import numpy as np
import pytest
import torch
import toy
from lmtasks import evaluator, language_model, theirs, words, write_task
from transformers import T5Config, T5ForConditionalGeneration

from recycler.errors import InvalidConfig
from recycler.evaluate.aggregates import BLOCKS, Rule, blocks_of
from recycler.nouns.objectives import Objective
from recycler.submit.submission import submit
from recycler.submit.workspace import Workspace

ROLLING = {
    "output_type": "loglikelihood_rolling",
    "doc_to_text": "",
    "doc_to_target": "{{x}}",
    "metric_list": [
        {"metric": m} for m in ("word_perplexity", "byte_perplexity", "bits_per_byte")
    ],
}
CHOICE = {
    "output_type": "multiple_choice",
    "doc_to_text": "{{q}}",
    "doc_to_choice": ["a", "b"],
    "doc_to_target": "g",
    "metric_list": [{"metric": m} for m in ("acc", "mcc", "f1", "brier_score")],
}
TRANSLATE = {
    "output_type": "generate_until",
    "doc_to_text": "{{q}}",
    "doc_to_target": "{{x}}",
    "generation_kwargs": {"until": ["\n"], "max_gen_toks": 16},
    "metric_list": [{"metric": m} for m in ("bleu", "chrf", "ter")],
}
CUSTOM = {
    "output_type": "multiple_choice",
    "doc_to_text": "{{q}}",
    "doc_to_choice": ["a", "b"],
    "doc_to_target": "g",
}
OWN_METRICS = {
    "custom": [
        ("lists", "!function mine.flat", "true"),
        ("spread", "!function mine.spread", "false"),
    ],
    "odd": [
        ("text", "mean", "true"),
        ("names", "mean", "true"),
        ("table", "!function mine.table", "true"),
        ("picky", "!function mine.picky", "true"),
        ("rare", "mean", "true"),
    ],
}
MINE = """
def custom(doc, results):
    right = float(max(range(2), key=lambda i: results[i][0]) == doc['g'])
    return {'lists': [right, float(doc['g'])][: 1 + doc['g']], 'spread': results[0][0]}

def odd(doc, results):
    rare = {'rare': float(doc['g'])} if doc['q'][0] == 'a' else {}
    return {'names': {'x': 1.0}, 'text': 'good', 'table': 1.0, 'picky': 1.0, **rare}

def flat(items):
    flat = [x for xs in items for x in xs]
    return sum(flat) / len(flat)

def spread(items):
    mean = sum(items) / len(items)
    return (sum((x - mean) ** 2 for x in items) / len(items)) ** 0.5

def picky(items):
    assert min(items) > 1, 'all are small'

def table(items):
    return {'mean': 1.0}
"""
MANY = {"dev": 120, "select": 20, "test": 20}
FEW = {"dev": 12, "select": 4, "test": 8}
AGGREGATES = [
    *(("prose", metric) for metric in ("word_perplexity", "byte_perplexity", "bits_per_byte")),
    *(("choice", metric) for metric in ("acc", "mcc", "f1", "brier_score")),
    *(("translate", metric) for metric in ("bleu", "chrf", "ter")),
    *(("custom", metric) for metric in ("lists", "spread")),
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    where = tmp_path_factory.mktemp("checkpoint")
    tokenizer = toy.tokenizer()
    tokenizer.model_max_length = 2048
    tokenizer.save_pretrained(where)
    return where


@pytest.fixture(scope="module")
def model():
    return language_model(3)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    where = tmp_path_factory.mktemp("shapes") / "t"
    rng = np.random.default_rng(1)
    rows = [
        {"q": f"{w}?", "x": " ".join(words(3, i)), "g": int(rng.integers(2))}
        for i, w in enumerate(words(160))
    ]
    for name, config in {"prose": ROLLING, "choice": CHOICE, "translate": TRANSLATE}.items():
        write_task(where, name, {"test": rows}, {**config, "test_split": "test"})
    for name, metrics in OWN_METRICS.items():
        write_task(where, name, {"test": rows}, {**CUSTOM, "test_split": "test"}, mine=MINE)
        listed = "".join(
            f"  - metric: {metric}\n    aggregation: {agg}\n    higher_is_better: {better}\n"
            for metric, agg, better in metrics
        )
        with (where / f"{name}.yaml").open("a") as file:
            file.write(f"metric_list:\n{listed}process_results: !function mine.{name}\n")
    return where


@pytest.fixture(scope="module")
def told(checkpoint, model, shapes):
    """Outcomes of ours, what simple_evaluate says of the same items, and our measures."""
    found, tables, measures = {}, {}, {}
    for task in dict(AGGREGATES):
        objectives = [Objective(f"{t}.{m}", m, "task", task=t) for t, m in AGGREGATES if t == task]
        items = {**MANY, "dev": 40} if task == "translate" else MANY
        ours = evaluator(checkpoint, shapes, objectives, items)
        found |= ours.evaluate(model, objectives, "dev")
        tables[task] = theirs(checkpoint, shapes, task, model, ours._splits[task]["dev"])
        measures |= ours.measures()
    return found, tables, measures


def aggregation(task, metric):
    if task != "custom":
        return lm_eval.api.registry.get_metric_aggregation(metric)
    space: dict = {}
    exec(MINE, space)
    return space["flat" if metric == "lists" else metric]


@pytest.mark.parametrize(("task", "metric"), AGGREGATES)
def test_scores_are_the_tasks_own_aggregates_with_the_error_of_a_bootstrap(told, task, metric):
    outcomes, table = told[0][f"{task}.{metric}"], told[1][task]
    score = outcomes.score()
    assert score.mean == pytest.approx(table["results"][task][f"{metric},none"], rel=1e-9)
    raw, aggregate = [row[metric] for row in table["samples"][task]], aggregation(task, metric)
    rng = np.random.default_rng(0)
    draws = 100 if task == "translate" else 500
    drawn = [
        aggregate([raw[i] for i in rng.integers(len(raw), size=len(raw))]) for _ in range(draws)
    ]
    least = outcomes.least_error() if np.std(drawn) == 0 else 0.0  # bleu of random letters is 0
    assert score.stderr == pytest.approx(max(np.std(drawn), least), rel=0.25)
    assert score.stderr > 0


def test_directions_are_the_tasks_where_the_user_gives_none(told):
    lower = {"prose.word_perplexity", "prose.byte_perplexity", "prose.bits_per_byte"}
    lower |= {"choice.brier_score", "translate.ter", "custom.spread"}
    found = {name: parts["direction"] for name, parts in told[2].items()}
    assert found == {name: "min" if name in lower else "max" for name in found}


def test_rolling_perplexities_are_powers_of_the_bits(told):
    byte, bits = (told[0][f"prose.{m}"].score() for m in ("byte_perplexity", "bits_per_byte"))
    assert byte.mean == pytest.approx(2**bits.mean, rel=1e-9)
    assert byte.stderr == pytest.approx(math.log(2) * byte.mean * bits.stderr, rel=1e-9)


@pytest.mark.parametrize(
    ("objective", "said", "hint"),
    [
        (Objective("o", "text", "max", task="odd"), "is not one number per item", "one number"),
        (Objective("o", "names", "max", task="odd"), "is not one number per item", "one number"),
        (Objective("o", "table", "max", task="odd"), "no aggregate that is one", "one number"),
        (
            Objective("o", "picky", "max", task="odd"),
            "AssertionError: all are small",
            "one number",
        ),
        (Objective("o", "nothing", "max", task="odd"), "has no metric 'nothing'", "names"),
        (Objective("o", "mcc", "min", task="choice"), "says that a higher mcc is better", "leave"),
        (Objective("o", "ter", "max", task="translate"), "says that a lower ter", "leave"),
    ],
)
def test_what_can_not_be_searched_is_refused_before_there_is_a_model(
    checkpoint, shapes, objective, said, hint
):
    with pytest.raises(InvalidConfig, match=said) as caught:
        evaluator(checkpoint, shapes, [objective], MANY)
    assert hint in caught.value.hint


def test_a_declared_metric_may_be_missing_in_most_items(checkpoint, model, shapes):
    """Such as a metric of one category: the score is the mean of the items that have it."""
    rare = Objective("o", "rare", "task", task="odd")
    made = evaluator(checkpoint, shapes, [rare], {**MANY, "test": 1})
    documents = [made._documents["odd"][i] for i in made._splits["odd"]["dev"]]
    has = [d["g"] for d in documents if d["q"][0] == "a"]
    assert made._documents["odd"][made._splits["odd"]["test"][0]]["q"][0] != "a"  # the one probed
    score = made.evaluate(model, [rare], "dev")["o"].score()
    assert 1 < len(has) < 60
    assert score.mean == pytest.approx(np.mean(has))


@pytest.mark.parametrize(("task", "metric"), [("choice", "f1"), ("translate", "chrf")])
def test_aggregates_of_all_items_can_not_be_raced(checkpoint, model, shapes, task, metric):
    objective = Objective("o", metric, "task", task=task)
    made = evaluator(checkpoint, shapes, [objective], MANY)
    with pytest.raises(InvalidConfig, match="one number for all items") as caught:
        made.evaluate(model, [objective], "dev", part=(0.0, 0.5))
    assert "racing: false" in caught.value.hint


@pytest.mark.parametrize(
    ("task", "metric"), [("prose", "word_perplexity"), ("choice", "brier_score")]
)
def test_functions_of_a_mean_add_up_from_parts(checkpoint, model, shapes, task, metric):
    objective = Objective("o", metric, "task", task=task)
    made = evaluator(checkpoint, shapes, [objective], MANY)
    halves = [made.evaluate(model, [objective], "dev", part=p)["o"] for p in ((0, 0.5), (0.5, 1))]
    whole = made.evaluate(model, [objective], "dev")["o"].score()
    assert halves[0].joined(halves[1]).score().mean == pytest.approx(whole.mean, rel=1e-5)


@pytest.mark.parametrize("racing", [False, True])
def test_a_study_takes_the_tasks_directions_and_refuses_to_race_aggregates(
    tmp_path, shapes, racing
):
    pool = [str(folder) for folder in toy.drawer(tmp_path / "pool", 2)]
    table = {
        "study": "s",
        "pool": pool,
        "objectives": [{"name": "m", "task": "choice", "metric": "mcc"}],
        "held_out": [
            {"name": "t", "task": "translate", "metric": "ter"},
            {"name": "a", "task": "choice", "metric": "acc"},
        ],
        "items": FEW,
        "evaluator": {"tasks": str(shapes)},
        "search": {"racing": racing},
    }
    (tmp_path / "s.yaml").write_text(json.dumps(table))
    workspace = Workspace(str(tmp_path / "ledger.db"))
    if racing:
        with pytest.raises(InvalidConfig, match=r"'m' can't be raced: mcc is one number") as told:
            submit(workspace, tmp_path / "s.yaml")
        assert "held_out" in told.value.hint
        return
    plan = submit(workspace, tmp_path / "s.yaml")
    assert {o.name: o.direction for o in plan.objectives} == {"m": "max", "t": "min", "a": "max"}
    assert workspace.store.plan("s") == plan


# --- the jackknife alone ---


def root_of_mean(items):
    return math.sqrt(sum(items) / len(items))


@pytest.mark.parametrize("clusters", [(), [i // 4 for i in range(80)]])
def test_influences_have_the_error_of_the_delta_method_by_cluster(clusters):
    rng = np.random.default_rng(2)
    raw = (rng.gamma(3.0, size=20).repeat(4) + rng.random(80)).tolist()
    found = Rule("o", "", root_of_mean).outcomes(range(80), raw, clusters).score()
    plain = Rule("o", "mean", lambda x: None).outcomes(range(80), raw, clusters).score()
    assert found.mean == pytest.approx(math.sqrt(plain.mean), rel=1e-12)
    assert found.stderr == pytest.approx(plain.stderr / (2 * found.mean), rel=0.02)


def test_paired_differences_of_aggregates_are_as_narrow_as_the_items_make_them():
    """Two models that differ on one item in twenty: the paired error, against a bootstrap."""
    rng = np.random.default_rng(3)
    first = rng.gamma(3.0, size=200)
    second = first * np.where(rng.random(200) < 0.05, 1.5, 1.0)
    rule = Rule("o", "", root_of_mean)
    a, b = (rule.outcomes(range(200), x.tolist()) for x in (first, second))
    moved = tuple(y - x for x, y in zip(a.values, b.values, strict=True))
    paired = replace(a, values=moved).score().stderr
    picks = rng.integers(200, size=(2000, 200))
    drawn = np.sqrt(second[picks].mean(1)) - np.sqrt(first[picks].mean(1))
    assert paired == pytest.approx(drawn.std(), rel=0.1)
    alone = math.hypot(a.score().stderr, b.score().stderr)
    assert paired < alone / 5


def test_many_items_are_left_out_in_blocks_of_whole_clusters():
    labels = np.arange(1000) // 2
    blocks = blocks_of(labels)
    assert len(set(blocks.tolist())) == BLOCKS
    assert all(len({blocks[i] for i in range(1000) if labels[i] == k}) == 1 for k in range(500))
    raw = np.random.default_rng(4).gamma(3.0, size=1000).tolist()
    found = Rule("o", "", root_of_mean).outcomes(range(1000), raw)
    exact = np.std(raw, ddof=1) / math.sqrt(1000) / (2 * root_of_mean(raw))
    assert found.score().mean == pytest.approx(root_of_mean(raw), rel=1e-12)
    assert found.score().stderr == pytest.approx(exact, rel=0.2)


# --- sampled answers and repeats ---


def drawn_task(folder, **config):
    rows = [{"q": f"{w}>", "a": w[0]} for w in words(24)]
    plain = {
        "output_type": "generate_until",
        "test_split": "test",
        "doc_to_text": "{{q}}",
        "doc_to_target": "{{a}}",
        "metric_list": [{"metric": "exact_match"}],
    }
    return write_task(folder, "drawn", {"test": rows}, {**plain, **config})


SAMPLED = {"until": ["\n"], "max_gen_toks": 6, "do_sample": True, "temperature": 1.0}
MAJORITY = [{"name": "maj", "filter": [{"function": "majority_vote"}, {"function": "take_first"}]}]
DRAWN = Objective("o", "exact_match", task="drawn")


def answers(made, model, split="dev", part=(0.0, 1.0)):
    made.evaluate(model, [DRAWN], split, part=part)
    asked = made._requests["drawn", split]
    return {r.doc["q"]: list(r.resps) for r in asked if r.resps}


def test_sampled_answers_are_those_of_item_and_repeat_whatever_came_before(
    checkpoint, model, tmp_path
):
    tasks = drawn_task(tmp_path / "t", generation_kwargs=SAMPLED, repeats=3)
    made = evaluator(checkpoint, tasks, [DRAWN])
    first = answers(made, model)
    torch.manual_seed(7)
    assert answers(made, language_model(4)) != first
    assert answers(made, model) == first
    assert all(len(found) == 3 for found in first.values())
    assert len({answer for found in first.values() for answer in found}) > 20  # they are drawn
    other = evaluator(checkpoint, tasks, [DRAWN], batch_size=1)
    answers(other, language_model(4), "select")
    half = answers(other, model, part=(0.5, 1.0))
    assert len(half) == 6
    assert half == {q: first[q] for q in half}


def test_sampling_leaves_the_process_own_generator_alone(checkpoint, model, tmp_path):
    tasks = drawn_task(tmp_path / "t", generation_kwargs=SAMPLED)
    made = evaluator(checkpoint, tasks, [DRAWN])
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    answers(made, model)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_repeats_are_answered_as_often_and_voted_on(checkpoint, model, tmp_path):
    greedy = {"until": ["\n"], "max_gen_toks": 3, "do_sample": False}
    tasks = drawn_task(tmp_path / "t", generation_kwargs=greedy, repeats=3, filter_list=MAJORITY)
    objective = Objective("o", "exact_match,maj", task="drawn")
    made = evaluator(checkpoint, tasks, [objective])
    found = made.evaluate(model, [objective], "dev")["o"]
    assert all(len(r.resps) == 3 for r in made._requests["drawn", "dev"])
    table = theirs(checkpoint, tasks, "drawn", model, made._splits["drawn"]["dev"])
    assert found.score().mean == table["results"]["drawn"]["exact_match,maj"]
    assert all(len(row["resps"][0]) == 3 for row in table["samples"]["drawn"])


# --- encoder-decoder models ---


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    where = tmp_path_factory.mktemp("t5")
    torch.manual_seed(0)
    shape = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_heads": 4}
    special = {"pad_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 0}
    made = T5ForConditionalGeneration(T5Config(vocab_size=toy.VOCABULARY, **shape, **special))
    made.save_pretrained(where)
    tokenizer = toy.tokenizer()
    tokenizer.model_max_length = 2048
    tokenizer.save_pretrained(where)
    return where, made.eval()


@pytest.mark.parametrize(
    ("task", "metric"), [("choice", "acc"), ("translate", "chrf"), ("prose", "bits_per_byte")]
)
def test_encoder_decoder_models_score_as_lm_evals_seq2seq_backend(t5, shapes, task, metric):
    where, model = t5
    objective = Objective("o", metric, "task", task=task)
    made = evaluator(where, shapes, [objective], FEW)
    found = made.evaluate(model, [objective], "dev")["o"].score()
    ids = made._splits[task]["dev"]
    table = theirs(where, shapes, task, model, ids, backend="seq2seq")
    assert found.mean == pytest.approx(table["results"][task][f"{metric},none"], rel=1e-6)
    assert made.measures()["o"]["model class"] == "seq2seq"

"""Comparisons: differences and changed items against brute force, answers against transformers."""

import json
import math
import sqlite3

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from studies import NAME, finished
from transformers import AutoModelForCausalLM, AutoTokenizer

from recycler import keeping
from recycler.cli.main import cli
from recycler.errors import InvalidConfig, NotFound
from recycler.front.compare import compare, items_of
from recycler.front.naming import named
from recycler.keeping import Keeping
from recycler.nouns.answers import Answers
from recycler.nouns.evaluation import Evaluation, Outcomes
from recycler.nouns.trial import Job
from recycler.study import Study
from recycler.submit.config import parse_study
from recycler.submit.workspace import Workspace


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return finished(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def results(world):
    return world.open().results


def averaged(world, trial):
    """The trial's weights by plain torch: the mean of the checkpoints' tensors."""
    models = [AutoModelForCausalLM.from_pretrained(f, dtype=torch.float32) for f in world.folders]
    weights = trial.recipe.vector([f"ckpt-{i}" for i in range(len(models))])
    states = [m.state_dict() for m in models]
    mixed = {
        name: sum(w * state[name].double() for w, state in zip(weights, states, strict=True))
        for name in states[0]
    }
    models[0].load_state_dict({name: tensor.float() for name, tensor in mixed.items()})
    return models[0].eval()


# --- answers ---


@torch.no_grad()
def test_kept_answers_are_those_of_the_averaged_weights(world, results):
    trial = named(results, "uniform")
    model, tokenizer = averaged(world, trial), AutoTokenizer.from_pretrained(world.folders[0])

    def likelihood(prompt, rest):
        ids = tokenizer(prompt + rest, return_tensors="pt").input_ids
        start = len(tokenizer(prompt).input_ids)
        logits = model(ids).logits[0, start - 1 : -1].log_softmax(-1)
        return float(logits.gather(1, ids[0, start:, None]).sum())

    choice = results.answers(trial, "test", "choice")
    values = results.outcomes(trial, "test")["choice"].values
    for k, prompt in enumerate(choice.prompts):
        row = {option: likelihood(prompt, option) for option in "abcd"}
        best, second = sorted(row, key=row.__getitem__)[:-3:-1]
        assert choice.texts[k] == best
        assert choice.margins[k] == pytest.approx(row[best] - row[second], abs=1e-4)
        assert values[k] == (choice.texts[k] == choice.targets[k])
    word = results.answers(trial, "test", "word")
    for k, prompt in enumerate(word.prompts):
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        made = model.generate(ids, max_new_tokens=2, do_sample=False)[0, ids.shape[1] :]
        assert word.texts[k] == tokenizer.decode(made, skip_special_tokens=True).split("\n")[0]
    text = results.answers(trial, "test", "text")
    outcomes = results.outcomes(trial, "test")["text"]
    assert text.texts == tuple(f"{value:.4f} bits per byte" for value in outcomes.values)
    assert text.margins[0] == pytest.approx(
        -outcomes.values[0] * outcomes.weights[0] * math.log(2)
    )


def test_dev_answers_are_not_kept_and_finalists_have_select_answers(results):
    for trial in results.trials:
        assert results.answers(trial, "dev", "choice") is None
        scored = "select" in trial.evaluations
        assert (results.answers(trial, "select", "choice") is not None) == scored


def answered(size):
    rng = np.random.default_rng(0)
    texts = tuple(rng.bytes(size).hex() for _ in range(10))
    answers = Answers(texts, ("",) * 10, texts)
    outcomes = Outcomes(tuple(range(10)), (0.0,) * 10, answers=answers)
    return Evaluation(split="test", scores={"f": outcomes.score()}, outcomes={"f": outcomes})


def test_answers_are_kept_up_to_a_size_that_is_told_once(results, monkeypatch):
    found = answered(10000)
    answers = found.outcomes["f"].answers
    job = Job(0, results.trial(0).recipe, "test", ("f",), answers=True)
    total = len(answers.pack_asked()) + 40 * len(answers.pack_given())
    monkeypatch.setattr(keeping, "LIMIT", total)
    auto = Keeping()
    assert auto.asks("test")
    assert not auto.asks("dev")
    kept, said = auto.weigh(job, found, 40, {"f": "m"})
    assert kept.outcomes["f"].answers == answers
    assert f"40 merges to test items: about {total / 1e6:.1f} MB are kept" in said
    assert "keep_answers: false" in said
    assert auto.weigh(job, found, 40, {"f": "m"})[1] == ""
    full = Keeping()
    dropped, said = full.weigh(job, found, 41, {"f": "m"})
    assert dropped.outcomes["f"].answers is None
    assert dropped.scores == found.scores
    assert "not kept" in said
    assert not full.asks("test")
    assert full.asks("select")
    assert Keeping(True).weigh(job, found, 41, {"f": "m"})[0] is found
    assert not Keeping(False).asks("test")


@pytest.mark.parametrize(
    ("written", "meant"), [("auto", None), (True, True), (False, False), ("yes", "refused")]
)
def test_the_setting_is_none_of_the_plan(written, meant):
    table = {"study": "s", "pool": ["a"], "objectives": [{"name": "f"}]}
    table["execution"] = {"keep_answers": written}
    if meant == "refused":
        with pytest.raises(InvalidConfig, match="keep_answers"):
            parse_study(table)
        return
    execution = parse_study(table).execution
    assert execution.keeps_answers is meant
    assert execution.own() == {"workers": 1}


# --- differences ---


def test_differences_are_those_of_a_brute_force_bootstrap(results):
    found = compare(results, ["0", "uniform"])
    assert found.split == "test"
    assert [c.difference.objective.name for c in found.changes] == ["text", "choice", "word"]
    a, b = (results.outcomes(t, "test")["text"] for t in found.trials)
    weights, rng = np.array(a.weights), np.random.default_rng(7)
    values = np.array([a.values, b.values])
    means = (values * weights).sum(axis=1) / weights.sum()
    draws = []
    for _ in range(5000):
        i = rng.integers(0, len(weights), len(weights))
        row = (values[:, i] * weights[i]).sum(axis=1) / weights[i].sum()
        draws.append(row[1] - row[0])  # fewer bits are better
    change = found.changes[0]
    assert change.difference.difference == pytest.approx(means[1] - means[0])
    low, high = np.quantile(draws, [0.025, 0.975])
    assert change.difference.interval == pytest.approx((low, high), abs=0.1 * (high - low))
    assert change.gained == sum(x < y for x, y in zip(a.values, b.values, strict=True))
    assert change.lost == sum(x > y for x, y in zip(a.values, b.values, strict=True))
    assert change.items == 16


def test_a_study_compares_numbers_names_and_trials(world, results):
    study = world.open()
    found = study.compare("pick", 0, study.trial(1), split="select")
    expected = compare(results, ["pick", "0", "1"], "select")
    assert found.changes == expected.changes
    assert found.items("text").to_json() == items_of(expected, "text").to_json()
    with pytest.raises(InvalidConfig, match="fewer than two"):
        study.compare("pick")


def test_items_that_differ_come_first_and_the_others_on_request(results):
    found = compare(results, ["0", "1", "uniform"], "select")
    chosen, every = items_of(found, "choice"), items_of(found, "choice", every=True)
    rows = [results.outcomes(t, "select")["choice"].values for t in found.trials]
    assert chosen.common == len(every.found) == 12
    assert (
        chosen.differing
        == len(chosen.found)
        == sum(len({*c}) > 1 for c in zip(*rows, strict=True))
    )
    assert every.found[: len(chosen.found)] == chosen.found
    for item in chosen.found:
        for value, answer in zip(item.outcomes, item.answers, strict=True):
            assert value == (answer["text"] == item.target)
        assert item.difference == item.outcomes[0] - max(item.outcomes[1:])


def test_trials_go_by_number_name_and_role(results):
    assert named(results, "1").name == named(results, "ckpt-1").name == "single:ckpt-1"
    assert named(results, "single:ckpt-1").number == 1
    assert named(results, "knee") == results.front.knee()
    assert named(results, "pick") == results.picked()
    assert named(results, "greedy").kind == "greedy"
    with pytest.raises(NotFound, match="no trial called 'unifrom'") as wrong:
        named(results, "unifrom")
    assert "did you mean uniform?" in wrong.value.hint
    with pytest.raises(InvalidConfig, match="0 and ckpt-0 are the same trial"):
        compare(results, ["0", "ckpt-0"])


def test_trials_without_common_items_are_told_with_what_they_have(results):
    left = next(t for t in results.trials if "test" not in t.evaluations)
    with pytest.raises(NotFound, match=rf"trial {left.number} .* is not scored on test") as wrong:
        compare(results, ["0", str(left.number)], "test")
    shared = "select" if "select" in left.evaluations else "dev"
    assert f"--split {shared}" in wrong.value.hint
    found = compare(results, ["0", str(left.number)])
    assert found.split == shared
    assert found.optimistic
    assert found.missing == ["word"]
    with pytest.raises(NotFound, match="'word'"):
        items_of(found, "word")


def test_answers_that_were_not_kept_are_made_again(world, results, tmp_path):
    copy = tmp_path / "ledger.db"
    with sqlite3.connect(world.store) as old, sqlite3.connect(copy) as new:
        old.backup(new)
        new.execute(
            "DELETE FROM recycler_answers WHERE recipe_id = ?", (results.trial(0).recipe.id,)
        )
    old.close()
    new.close()
    arguments = ["--store", str(copy), "compare", NAME, "0", "uniform", "--items", "choice"]
    before = CliRunner().invoke(cli, arguments).output
    assert "trial 0 (single:ckpt-0): scored without answers" in before
    assert "(not kept)" in before
    done = CliRunner().invoke(cli, [*arguments, "--again"])
    assert done.exception is None
    assert "(not kept)" not in done.output
    study = Study(NAME, Workspace(str(copy)))
    again = study.results.answers(study.trial(0), "test", "choice")
    assert again == results.answers(results.trial(0), "test", "choice")


# --- command ---


def run(world, *arguments):
    done = CliRunner().invoke(cli, ["--store", world.store, "compare", NAME, *arguments])
    return done.output if done.exception is None else done.exception


def test_the_command_prints_every_difference_and_pages_the_items(world, tmp_path):
    text = run(world, "uniform", "0", "--csv", str(tmp_path / "d.csv"))
    shown = run(world, "uniform", "0")
    assert "better" in shown
    assert "can't tell" in shown
    assert "held out" in shown
    assert "Optimistic" not in shown
    assert "d.csv" in text
    table = json.loads(run(world, "uniform", "0", "--json"))
    assert table["differences"][0]["word"] == "better"
    lines = (tmp_path / "d.csv").read_text().splitlines()
    assert len(lines) == 1 + len(table["differences"])
    first = run(world, "uniform", "0", "--items", "text", "--limit", "3")
    assert first.count("bits per byte") == 6
    assert "13 more items: --skip 3" in first
    last = run(world, "uniform", "0", "--items", "text", "--limit", "3", "--skip", "15")
    assert last.count("bits per byte") == 2
    assert "Answers to dev items are not kept" in run(
        world, "uniform", "0", "--items", "choice", "--split", "dev"
    )

"""Scores that came without errors, and names that hold markup: nothing is claimed, nothing breaks."""

import json
from pathlib import Path

import pytest
import toy
import yaml

from recycler.errors import InvalidConfig
from recycler.front.front import require_preference
from recycler.report.scouting import to_json
from recycler.report.text import front
from recycler.scout import scout
from recycler.study import Study
from recycler.submit.submission import submit
from recycler.submit.workspace import Workspace

NAMES = ("[red]a", "b|c", "<script>d</script>", "é")
SCORES = """
def score(model, tokenizer, split):
    v = next(p for n, p in model.named_parameters() if "mlp" in n).detach().float().flatten()
    return {"up": float(v[:500].mean()), "down": float(v[:500].abs().mean())}
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("unsure")
    (root / "plain_numbers.py").write_text(SCORES)
    pool = zip(NAMES, toy.drawer(root, len(NAMES)), strict=True)
    config = {
        "study": "plain",
        "pool": [{"name": name, "path": str(path)} for name, path in pool],
        "objectives": [
            {"name": name, "metric": "score", "direction": "max"} for name in ("up", "down")
        ],
        "evaluator": {"kind": "python", "function": "plain_numbers:score"},
        "search": {"sampler": "dirichlet", "evaluations": 3},
    }
    (root / "study.yaml").write_text(yaml.safe_dump(config, allow_unicode=True))
    return root / "study.yaml"


@pytest.fixture(scope="module")
def study(file) -> Study:
    workspace = Workspace(str(file.with_name("ledger.db")))
    study = Study(submit(workspace, file).name, workspace)
    study.run()
    return study


def test_plain_numbers_claim_no_certainty(study, capsys):
    table = study.results.front_json()
    assert [member["p_nondominated"] for member in table["members"]] == [None] * len(
        table["members"]
    )
    verdict = study.results.verdict()
    assert verdict.comparisons
    for found in verdict.comparisons:
        assert (found.interval, found.p_better, found.word) == (None, None, "can't tell")
    assert "error unknown" in verdict.sentence
    assert "probability" not in verdict.sentence
    front(study.results)
    printed = capsys.readouterr().out
    assert "± 0" not in printed
    assert "plain numbers for up, down" in printed
    json.dumps(table, allow_nan=False)


def test_scouting_plain_numbers_finds_nothing_certain(file):
    found = to_json(scout(Workspace(str(file.with_name("scout.db"))), file))
    assert (found["tradeoffs"], found["dominated"], found["proposal"]) == ([], {}, None)
    assert not any(task["tells_apart"] for task in found["tasks"])


def test_names_in_a_card_are_no_markup(study, tmp_path):
    number = next(t.number for t in study.results.trials if t.name == "uniform")
    study.export(number, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "<script" not in card
    rows = [line.replace("\\|", "") for line in card.splitlines() if line.startswith("| ")]
    assert {row.count("|") for row in rows} <= {3, 4, 5}
    assert "| bc | 0.2500 |" in rows


@pytest.mark.parametrize("weights", [{"up": -1.0}, {"up": 0.0}, {"up": float("nan")}])
def test_a_preference_is_finite_and_positive(study, weights):
    with pytest.raises(InvalidConfig):
        require_preference(weights)
    with pytest.raises(InvalidConfig):
        study.results.front.prefer(weights)

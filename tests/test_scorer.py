"""Scorers: merges as folders, and evaluators of third parties with settings of their own."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import toy
from pools import recipe_of
from test_execute import OBJECTIVES, jobs_of

from recycler.checkpoints.pool import Pool
from recycler.errors import InvalidConfig
from recycler.evaluate.measure import model_digests
from recycler.execute.scorer import MergeScorerFactory
from recycler.nouns.evaluation import Score
from recycler.nouns.objectives import Objective, Objectives
from recycler.nouns.recipe import Recipe
from recycler.nouns.trial import Job
from recycler.submit.config import parse_study


@pytest.fixture(scope="module")
def factory(drawer, tmp_path_factory) -> MergeScorerFactory:
    tasks = toy.tasks(tmp_path_factory.mktemp("tasks"))
    evaluator = {"kind": "lm-eval", "tasks": str(tasks), "batch_size": 8, "max_length": 128}
    items = {"dev": 10, "select": 10, "test": 10}
    return MergeScorerFactory(Pool.open(drawer), OBJECTIVES, evaluator, items, "float32")


@pytest.fixture
def third_party(tmp_path, monkeypatch):
    """A package of somebody else, installed: it registers an evaluator by an entry point."""
    package = tmp_path / "site"
    (package / "theirs-1.0.dist-info").mkdir(parents=True)
    (package / "theirs-1.0.dist-info" / "METADATA").write_text("Name: theirs\nVersion: 1.0\n")
    (package / "theirs-1.0.dist-info" / "entry_points.txt").write_text(
        "[recycler.evaluators]\nsizes = theirs_of_sizes:Sizes\n"
    )
    (package / "theirs_of_sizes.py").write_text(
        "from pathlib import Path\n"
        "from pydantic import BaseModel, ConfigDict, Field\n"
        "from safetensors.torch import load_file\n"
        "from recycler.nouns.evaluation import Outcomes\n"
        "class Sizes:\n"
        "    class Settings(BaseModel):\n"
        "        model_config = ConfigDict(extra='forbid')\n"
        "        power: float = Field(gt=0)\n"
        "    takes = 'folder'\n"
        "    def __init__(self, context, settings):\n"
        "        self.context, self.settings, self.seen = context, settings, []\n"
        "    def measures(self):\n"
        "        parts = {'power': self.settings.power, 'items': dict(self.context.items)}\n"
        "        return {o.name: parts for o in self.context.objectives}\n"
        "    def evaluate(self, folder, objectives, split, part=(0.0, 1.0)):\n"
        "        assert (folder / 'tokenizer.json').is_file()\n"
        "        self.seen.append(folder)\n"
        "        held = load_file(folder / 'model.safetensors')\n"
        "        values = [float(t.abs().pow(self.settings.power).mean()) for t in held.values()]\n"
        "        return {o.name: Outcomes(tuple(range(len(values))), tuple(values))\n"
        "                for o in objectives}\n"
    )
    monkeypatch.syspath_prepend(str(package))
    yield package
    sys.modules.pop("theirs_of_sizes", None)


def test_an_evaluator_of_a_third_party_gets_its_settings_and_a_folder(factory, third_party):
    evaluator = {"kind": "sizes", "root": "", "power": 2.0}
    own = replace(factory, evaluator=evaluator)
    scorer, job = own(), jobs_of(factory.pool)[1]
    found = scorer(job)
    resident = factory()
    assert found.digest == resident(job).digest
    weights = resident._resident.model.state_dict().values()
    expected = sorted(float(w.square().mean()) for w in weights)
    assert sorted(found.outcomes["text"].values) == pytest.approx(expected, rel=1e-5)
    assert found.seconds["merge"] > 0
    assert not any(folder.exists() for folder in scorer._evaluator.seen)
    assert scorer._resident is None  # the folder is all it needs
    parts = {"power": 2.0, "items": dict(factory.items)}
    assert scorer._evaluator.measures() == {"text": parts, "choice": parts}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "evaluator.power: Field required"),
        ({"power": 0}, "evaluator.power: Input should be greater than 0"),
        ({"power": 1.0, "pwoer": 2}, "evaluator: there is no setting 'pwoer'"),
    ],
)
def test_settings_of_a_third_party_are_checked_when_the_study_is_read(third_party, settings, said):
    table = {"study": "s", "pool": ["a"], "objectives": [{"name": "text", "direction": "max"}]}
    with pytest.raises(InvalidConfig, match=said):
        parse_study({**table, "evaluator": {"kind": "sizes", **settings}})
    study = parse_study({**table, "evaluator": {"kind": "sizes", "power": 2.0}})
    described = study.evaluator_settings(Path("/somewhere"))
    assert described == {"kind": "sizes", "root": "/somewhere", "power": 2.0}


def test_properties_of_a_merge_are_known_beside_an_evaluator_of_folders(drawer, third_party):
    objectives = Objectives((Objective("text", "size", "max"), Objective("few", "merge.nonzero")))
    pool = Pool.open(drawer)
    evaluator = {"kind": "sizes", "power": 1.0}
    job = jobs_of(pool)[2]
    made = MergeScorerFactory(pool, objectives, evaluator, {}, "float32")()
    found = made(Job(0, job.recipe, "dev", ("text", "few")))
    assert found.scores["few"] == Score(4.0, 0.0, 0)
    assert set(made(Job(0, job.recipe, "dev", ("few",))).scores) == {"few"}


def test_a_model_that_is_no_merge_is_given_to_an_evaluator_of_folders_as_it_is(
    factory, third_party
):
    other = replace(factory.pool.checkpoints[1], name="other")
    recipe = Recipe.of_model("other", other.fingerprint(), model_digests(other.path))
    evaluator = {"kind": "sizes", "root": "", "power": 2.0}
    own = replace(factory, evaluator=evaluator, models={recipe.id: other}, dtype="")
    scorer, weights = own(), [float(i == 1) for i in range(factory.pool.n)]
    found = scorer(Job(0, recipe, "dev", ("text",)))
    single = scorer(Job(1, recipe_of(factory.pool, weights, dtype=""), "dev", ("text",)))
    assert (found.outcomes, found.digest) == (single.outcomes, single.digest)
    assert other.path.is_dir()

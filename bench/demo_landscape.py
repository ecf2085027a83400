"""The demo's pool of small Llamas as a landscape for `search_bench.py`, scored by lm-eval.

Outcomes are stored in the cache folder, so each merge is evaluated once for all methods and seeds.
All objectives are gains (bits are negated).
"""

from pathlib import Path

import numpy as np
from landscapes import PoolSpec

from recycler.checkpoints.pool import Pool
from recycler.execute.scorer import MergeScorerFactory
from recycler.nouns.recipe import Ingredient, Recipe
from recycler.nouns.trial import Job
from recycler.submit.config import read_study

DEMO = Path(__file__).resolve().parent.parent / "recycler" / "demo"
SPEC = PoolSpec("demo", "demo", 13, 3, 250, 0, 0.0)


class DemoLandscape:
    """Scores of the demo's merges by weights; see `landscapes.Landscape`."""

    def __init__(self, cache: Path) -> None:
        config = read_study(DEMO / "study.yaml")
        pool = Pool.from_yaml(DEMO / "pool.yaml")
        self.spec = SPEC
        self._objectives = config.all_objectives()
        self._names = tuple(objective.name for objective in self._objectives.searched)
        self._ingredients = [(c.fingerprint(), c.name) for c in pool.checkpoints]
        self._records = cache / "demo"
        self._records.mkdir(parents=True, exist_ok=True)
        self._score = MergeScorerFactory(
            pool=pool,
            objectives=self._objectives,
            evaluator=config.evaluator_settings(DEMO),
            items=config.items.model_dump(),
            dtype="float32",
        )()

    def outcomes(self, weights: np.ndarray, split: str) -> list[np.ndarray]:
        """(items,) gains of all items, for each of m objectives; their mean is the score."""
        items = tuple(
            Ingredient(fingerprint, name, float(weight))
            for (fingerprint, name), weight in zip(self._ingredients, weights, strict=True)
        )
        recipe = Recipe("linear", items, "float32")
        file = self._records / f"{split}-{recipe.id}.npz"
        if not file.exists():
            found = self._score(Job(0, recipe, split, self._names))
            rows = {}
            for objective in self._objectives.searched:
                values, weight, _ = found.outcomes[objective.name].arrays()
                rows[objective.name] = objective.sign * values * weight / weight.mean()
            np.savez(file, **rows)
        with np.load(file) as record:
            return [record[name] for name in self._names]

    def score(self, weights: np.ndarray, split: str) -> np.ndarray:
        """(m,) gains on a split."""
        return np.array([row.mean() for row in self.outcomes(weights, split)])

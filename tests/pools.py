"""Pools of any tensors, for tests of merging: folders that no transformers class needs to know."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from recycler.checkpoints.pool import Pool
from recycler.merge.folder import write_weights
from recycler.merge.sources import Sources
from recycler.merge.stream import merged
from recycler.nouns.recipe import Ingredient, Recipe

Tensors = dict[str, torch.Tensor]


def folder_of(root: Path, tensors: Tensors, config: Mapping[str, Any] | None = None) -> Path:
    """A checkpoint folder of any tensors; not a model that transformers knows."""
    root.mkdir(parents=True)
    safetensors.torch.save_file(tensors, root / "model.safetensors")
    (root / "config.json").write_text(json.dumps(config or {"model_type": "toy"}))
    return root


def pool_of(root: Path, contents: Sequence[Tensors], base: Tensors | None = None) -> Pool:
    """Folders `c0`, `c1`, … and `base` under `root`, opened."""
    folders = [folder_of(root / f"c{i}", content) for i, content in enumerate(contents)]
    return Pool.open(folders, folder_of(root / "base", base) if base is not None else None)


def recipe_of(
    pool: Pool,
    weights: Sequence[float],
    dtype: str = "float32",
    method: str = "linear",
    each: Sequence[Mapping[str, Any]] = (),
    **settings: Any,
) -> Recipe:
    """A recipe over the whole pool; `each` holds the settings that one checkpoint has alone."""
    own = each or [{}] * pool.n
    return Recipe(
        method=method,
        ingredients=tuple(
            Ingredient(c.fingerprint(), c.name, float(w), s)
            for c, w, s in zip(pool.checkpoints, weights, own, strict=True)
        ),
        dtype=dtype,
        base=Ingredient(pool.base.fingerprint(), pool.base.name, 1.0) if pool.base else None,
        settings=settings,
    )


def merge_to(folder: Path, pool: Pool, recipe: Recipe, **options: Any) -> str:
    folder.mkdir()
    with Sources(pool) as sources:
        return write_weights(recipe, sources, folder, **options)[0]


def merged_tensors(pool: Pool, recipe: Recipe, **options: Any) -> Tensors:
    with Sources(pool) as sources:
        return {spec.name: tensor.clone() for spec, tensor in merged(recipe, sources, **options)}

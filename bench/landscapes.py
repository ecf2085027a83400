"""Landscapes of real merges: pools of small networks, trained here and scored at any weights.

A pool has a multitask base and n checkpoints fine-tuned from it, with random mixtures of tasks, learning
rates and lengths, each on its own part of the training data. A third of them continue from an earlier
checkpoint; the last one is an outlier trained on one task.
Networks: `mlp`, `conv` and `transformer` on scikit-learn's digits (clean, rotated by ±45°, noisy,
inverted, …); `bytes` predicts the next byte of texts from Python's standard library. A merge is the
network with linearly combined weights; nothing is simulated.

Letters: n checkpoints, m tasks (objectives). In `close` pools, whose base was trained long, the uniform
soup is about as good as the best single; in `far` pools it is some points below.
"""

import math
import pydoc_data.topics
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional

CONTEXT, WINDOW = 6, 16  # bytes of context per prediction; predictions per item
SYMBOLS = 97  # printable ASCII, newline, and one for all others
TEST_COPIES = 6  # augmented copies of each test digit
TEXT_ITEMS = 2000  # test items of a text task


@dataclass(frozen=True, slots=True)
class PoolSpec:
    """One pool: a kind of network, n checkpoints, m tasks, and `items` dev items per task.

    Attributes:
        base: training steps of the base.
        heat: factor of the learning rates of fine-tuning.
        score: `acc` (share of correct items, larger is better) or `bits` (mean bits per item, smaller
            is better).
    """

    name: str
    net: str
    n: int
    m: int
    items: int
    base: int
    heat: float
    score: str = "acc"
    seed: int = 0

    @property
    def direction(self) -> str:
        return "max" if self.score == "acc" else "min"


def shapes(net: str) -> list[tuple[int, ...]]:
    """Shapes of a network's parameters, in the order that `forward` takes them."""
    return {
        "mlp": [(64, 64), (64,), (64, 64), (64,), (10, 64), (10,)],
        "conv": [(12, 1, 3, 3), (12,), (24, 12, 3, 3), (24,), (10, 24 * 16), (10,)],
        "transformer": [
            (32, 8),
            (8, 32),
            (96, 32),
            (32, 32),
            (64, 32),
            (64,),
            (32, 64),
            (32,),
            (10, 32),
            (10,),
        ],
        "bytes": [(SYMBOLS, 16), (80, CONTEXT * 16), (80,), (SYMBOLS, 80), (SYMBOLS,)],
    }[net]


def unpack(net: str, flat: Tensor) -> list[Tensor]:
    """A flat parameter vector as the network's tensors (views)."""
    sizes = [math.prod(shape) for shape in shapes(net)]
    parts = flat.split(sizes)
    return [part.view(shape) for part, shape in zip(parts, shapes(net), strict=True)]


def _attend(h: Tensor, qkv: Tensor, out: Tensor) -> Tensor:
    k, length, width = h.shape
    q, key, v = (
        (functional.layer_norm(h, (width,)) @ qkv.T).view(k, length, 3, 4, width // 4).unbind(2)
    )
    mixed = functional.scaled_dot_product_attention(
        q.transpose(1, 2), key.transpose(1, 2), v.transpose(1, 2)
    )
    return mixed.transpose(1, 2).reshape(k, length, width) @ out.T


def forward(net: str, p: list[Tensor], x: Tensor) -> Tensor:
    """Logits: (items, 10) of (items, 64) images, or (positions, SYMBOLS) of (positions, CONTEXT)."""
    if net == "mlp":
        h = functional.relu(functional.linear(x, p[0], p[1]))
        return functional.linear(functional.relu(functional.linear(h, p[2], p[3])), p[4], p[5])
    if net == "conv":
        h = functional.relu(functional.conv2d(x.view(-1, 1, 8, 8), p[0], p[1], padding=1))
        h = functional.relu(functional.conv2d(h, p[2], p[3], stride=2, padding=1))
        return functional.linear(h.flatten(1), p[4], p[5])
    if net == "transformer":  # a row of the image is a token
        h = x.view(-1, 8, 8) @ p[0].T + p[1]
        h = h + _attend(h, p[2], p[3])
        inner = functional.linear(functional.layer_norm(h, (32,)), p[4], p[5])
        h = h + functional.linear(functional.gelu(inner), p[6], p[7])
        return functional.linear(functional.layer_norm(h.mean(1), (32,)), p[8], p[9])
    h = functional.relu(functional.linear(p[0][x].flatten(1), p[1], p[2]))
    return functional.linear(h, p[3], p[4])


# --- data ---


def _turned(images: Tensor, degrees: Tensor, shift: Tensor) -> Tensor:
    """(k, 64) images turned by (k,) degrees and moved by (k, 2) pixels."""
    angle = torch.deg2rad(degrees)
    c, s = angle.cos(), angle.sin()
    matrix = torch.stack(
        [torch.stack([c, -s, shift[:, 0] / 4], 1), torch.stack([s, c, shift[:, 1] / 4], 1)], 1
    )
    grid = functional.affine_grid(matrix, [len(images), 1, 8, 8], align_corners=False)
    turned = functional.grid_sample(images.view(-1, 1, 8, 8), grid, align_corners=False)
    return turned.flatten(1)


def _as_task(images: Tensor, task: int, rng: torch.Generator) -> Tensor:
    """Images as one of the tasks transforms them, each slightly turned and moved."""
    k = len(images)
    fixed = {1: 45.0, 2: -45.0, 5: 90.0}.get(task, 0.0)
    degrees = fixed + 12 * (2 * torch.rand(k, generator=rng) - 1)
    out = _turned(images, degrees, 1.0 * (torch.rand(k, 2, generator=rng) - 0.5))
    if task == 3:
        out = out + 0.35 * torch.randn(out.shape, generator=rng)
    if task == 4:
        out = 1 - out
    return out


@dataclass(frozen=True, slots=True)
class Data:
    """One task: inputs and truths by split; `draw` gives a batch from a (start, share) of the data."""

    x: dict[str, Tensor]
    y: dict[str, Tensor]
    draw: Callable[[int, torch.Generator, tuple[float, float]], tuple[Tensor, Tensor]]


def _rows(total: int, size: int, rng: torch.Generator, part: tuple[float, float]) -> Tensor:
    """(size,) random row numbers below `total`, from the part that begins at a share of it."""
    start, share = part
    return (int(start * total) + torch.randint(int(share * total), (size,), generator=rng)) % total


def _digits(task: int, items: int, rng: torch.Generator) -> Data:
    raw, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(raw))
    images = torch.tensor(raw[order] / 16, dtype=torch.float32)
    truth = torch.tensor(labels[order])
    train, dev, test = slice(0, 900), slice(900, 900 + items), slice(1300, None)
    copies = images[test].repeat(TEST_COPIES, 1)

    def draw(
        size: int, generator: torch.Generator, part: tuple[float, float]
    ) -> tuple[Tensor, Tensor]:
        rows = _rows(900, size, generator, part)
        return _as_task(images[train][rows], task, generator), truth[train][rows]

    return Data(
        {"dev": _as_task(images[dev], task, rng), "test": _as_task(copies, task, rng)},
        {"dev": truth[dev], "test": truth[test].repeat(TEST_COPIES)},
        draw,
    )


def _symbols(text: str) -> Tensor:
    codes = torch.tensor(list(text.encode("ascii", "replace")))
    return torch.where((codes >= 32) & (codes < 127), codes - 32, 95 + (codes != 10).long())


def _text(task: int) -> Tensor:
    """Symbols of a kind of text: code, prose, tables, upper-case prose, reversed code."""
    home = Path(sysconfig.get_path("stdlib"))
    if task in (0, 4):
        files = ["argparse", "ast", "configparser", "difflib", "inspect", "tarfile", "typing"]
        text = "\n".join((home / f"{f}.py").read_text("utf-8") for f in files)
        return _symbols(text if task == 0 else text[::-1])
    if task == 2:
        files = sorted((home / "encodings").glob("cp12*.py")) + sorted(
            (home / "encodings").glob("iso8859_*.py")
        )
        return _symbols("\n".join(f.read_text("utf-8")[-9000:] for f in files))
    prose = "\n".join(pydoc_data.topics.topics[key] for key in sorted(pydoc_data.topics.topics))
    return _symbols(prose if task == 1 else prose.swapcase())


def _bytes(task: int, items: int, rng: torch.Generator) -> Data:
    text = _text(task)
    cut, end = int(0.6 * len(text)), len(text) - WINDOW
    reach = torch.arange(-CONTEXT, 0)

    def read(starts: Tensor, length: int) -> tuple[Tensor, Tensor]:
        positions = (starts[:, None] + torch.arange(length)).flatten()
        return text[positions[:, None] + reach], text[positions]

    def draw(
        size: int, generator: torch.Generator, part: tuple[float, float]
    ) -> tuple[Tensor, Tensor]:
        return read(CONTEXT + _rows(cut - CONTEXT, size, generator, part), 1)

    starts = (
        cut + CONTEXT + torch.randint(end - cut - CONTEXT, (items + TEXT_ITEMS,), generator=rng)
    )
    dev, test = read(starts[:items], WINDOW), read(starts[items:], WINDOW)
    return Data({"dev": dev[0], "test": test[0]}, {"dev": dev[1], "test": test[1]}, draw)


# --- training ---


def _train(
    net: str,
    start: Tensor,
    data: list[Data],
    mix: Tensor,
    rate: float,
    steps: int,
    seed: int,
    part: tuple[float, float] = (0.0, 1.0),
) -> Tensor:
    """Train by Adam on batches of 128, tasks drawn from `mix`; the learning rate falls to 0."""
    rng = torch.Generator().manual_seed(seed)
    flat = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([flat], lr=rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 1 - t / steps)
    for _ in range(steps):
        counts = torch.bincount(torch.multinomial(mix, 8, True, generator=rng), minlength=len(mix))
        batches = [data[j].draw(16 * int(c), rng, part) for j, c in enumerate(counts) if c]
        logits = forward(net, unpack(net, flat), torch.cat([b[0] for b in batches]))
        loss = functional.cross_entropy(logits, torch.cat([b[1] for b in batches]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return flat.detach()


def _start(net: str, rng: torch.Generator) -> Tensor:
    """Random parameters, scaled by fan-in; biases 0."""
    parts = [
        torch.zeros(math.prod(s))
        if len(s) == 1
        else (torch.randn(s, generator=rng) / math.sqrt(math.prod(s[1:]))).flatten()
        for s in shapes(net)
    ]
    return torch.cat(parts)


def train_pool(spec: PoolSpec, data: list[Data]) -> Tensor:
    """Train a pool; returns (n, parameters) checkpoints."""
    rng = torch.Generator().manual_seed(spec.seed)
    draws = np.random.default_rng(spec.seed)
    even = torch.full((spec.m,), 1 / spec.m)
    base = _train(spec.net, _start(spec.net, rng), data, even, 3e-3, spec.base, spec.seed)
    pool: list[Tensor] = []
    for i in range(spec.n):
        mix = torch.tensor(draws.dirichlet(np.full(spec.m, 0.3)) + 1e-3, dtype=torch.float32)
        rate, steps = 10 ** draws.uniform(-3.3, -2.3), int(draws.integers(80, 300))
        part = (draws.random(), 0.2)
        chained = bool(pool) and draws.random() < 1 / 3
        start = pool[int(draws.integers(len(pool)))] if chained else base
        if i == spec.n - 1:  # the outlier: one task, hot and long
            mix, rate, steps, start = torch.eye(spec.m)[0], 5e-3, 400, base
        rate *= spec.heat
        pool.append(_train(spec.net, start, data, mix, rate, steps, 1000 * spec.seed + i, part))
    return torch.stack(pool)


class Landscape:
    """A trained pool that can be scored at any weights."""

    def __init__(self, spec: PoolSpec, cache: Path | None = None) -> None:
        """Make the data; train the pool, or read it from the cache folder.

        Args:
            spec: which pool.
            cache: folder of trained pools, or None to train anew.
        """
        self.spec = spec
        rng = torch.Generator().manual_seed(7 + spec.seed)
        make = _bytes if spec.net == "bytes" else _digits
        self._data = [make(task, spec.items, rng) for task in range(spec.m)]
        key = f"{spec.net}-{spec.n}-{spec.m}-{spec.base}-{spec.heat}-{spec.seed}.pt"
        file = cache / key if cache else None
        if file and file.exists():
            self._pool = torch.load(file, weights_only=True)
        else:
            self._pool = train_pool(spec, self._data)
            if file:
                file.parent.mkdir(parents=True, exist_ok=True)
                torch.save(self._pool, file)

    def outcomes(self, weights: np.ndarray, split: str) -> np.ndarray:
        """(m, items) outcome of each item: 0 or 1, or bits."""
        merged = torch.as_tensor(weights, dtype=torch.float32) @ self._pool
        parameters = unpack(self.spec.net, merged)
        rows = []
        with torch.inference_mode():
            for data in self._data:
                logits = forward(self.spec.net, parameters, data.x[split])
                truth = data.y[split]
                if self.spec.score == "acc":
                    row = (logits.argmax(1) == truth).double()
                else:
                    row = functional.cross_entropy(logits, truth, reduction="none").double()
                    row = row / math.log(2)
                if self.spec.net == "bytes":
                    row = row.view(-1, WINDOW).mean(1)
                rows.append(row.numpy())
        return np.array(rows)

    def score(self, weights: np.ndarray, split: str) -> np.ndarray:
        """(m,) means over the items of a split, in the direction of the pool's score."""
        return self.outcomes(weights, split).mean(axis=1)

"""Train the demo pool: `python -m recycler.demo.train OUT` writes checkpoints, tasks, pool.yaml.

Every run is seeded and uses one thread, so the same machine gives the same weights. A stage-2 run
starts from the saved (bfloat16) checkpoint of its parent, as it would with real leftovers.
"""

import json
import math
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch.nn import functional
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from recycler.demo import corpus

PAD, BOS, EOS, VOCAB = 256, 257, 258, 260
TEXT_LENGTH = 160
LINE_LENGTH = 40
TOKENS = 2048
IGNORED = -100
ALL = {
    "code": 0.3,
    "prose": 0.25,
    "arithmetic": 0.17,
    "recall": 0.2,
    "brackets": 0.04,
    "sorting": 0.04,
}


@dataclass(frozen=True, slots=True)
class Run:
    """One training run; `parent` is None for the ancestor, which starts from random weights."""

    name: str
    parent: str | None
    mixture: dict[str, float]
    lr: float
    steps: int
    seed: int
    notes: str
    tags: tuple[str, ...] = ()
    stage: int = 1
    floor: float = 0.05


BASE = Run(
    "base",
    None,
    ALL,
    4e-3,
    2000,
    1,
    "common ancestor, base of the task vectors",
    stage=0,
    floor=0.2,
)
EARLY = Run("early", None, ALL, 4e-3, 800, 1, "the ancestor's run, stopped early", ("early",), 0)
RUNS = (
    Run("code-a", "base", {"code": 0.85, "prose": 0.15}, 1.5e-3, 400, 11, "code"),
    Run(
        "code-b",
        "base",
        {"code": 0.6, "recall": 0.4},
        2e-3,
        350,
        12,
        "code and look-ups at a higher rate",
    ),
    Run(
        "prose-a",
        "base",
        {"prose": 0.7, "code": 0.1, "recall": 0.1, "sorting": 0.1},
        1.5e-3,
        350,
        13,
        "prose with a little of the rest",
    ),
    Run(
        "prose-b",
        "base",
        {"prose": 0.6, "arithmetic": 0.2, "sorting": 0.2},
        1.5e-3,
        350,
        14,
        "prose with exercises",
    ),
    Run(
        "math-a",
        "base",
        {"arithmetic": 0.7, "prose": 0.2, "sorting": 0.1},
        1e-3,
        350,
        15,
        "arithmetic with some prose",
    ),
    Run(
        "math-hot",
        "base",
        {"arithmetic": 0.8, "prose": 0.1, "brackets": 0.1},
        2.5e-3,
        300,
        16,
        "arithmetic at a high rate",
        tags=("hot",),
    ),
    Run(
        "recall-a",
        "base",
        {"recall": 0.6, "brackets": 0.2, "code": 0.2},
        2e-3,
        400,
        17,
        "look-ups and brackets",
    ),
    Run(
        "mixed-long",
        "base",
        {"prose": 0.4, "arithmetic": 0.3, "sorting": 0.15, "brackets": 0.15},
        5e-4,
        600,
        18,
        "everything but code and look-ups, long, at a low rate",
        tags=("generalist",),
    ),
    Run(
        "brackets-only",
        "base",
        {"brackets": 1.0},
        5e-4,
        200,
        19,
        "one skill, the rest left to fade",
        tags=("outlier",),
    ),
    Run(
        "code-then-math",
        "code-a",
        {"arithmetic": 0.7, "sorting": 0.2, "code": 0.1},
        1e-3,
        250,
        21,
        "arithmetic after code",
        stage=2,
    ),
    Run(
        "math-then-prose",
        "math-a",
        {"prose": 0.6, "recall": 0.4},
        1e-3,
        250,
        22,
        "prose and look-ups after arithmetic",
        stage=2,
    ),
    Run(
        "recall-then-code",
        "recall-a",
        {"code": 0.8, "brackets": 0.2},
        1e-3,
        250,
        23,
        "code after look-ups",
        stage=2,
    ),
)


class Batches:
    """Training batches of one run: text rows and exercise rows in the shares of its mixture."""

    def __init__(self, mixture: dict[str, float], seed: int) -> None:
        """Prepare the sources; `mixture` maps domains to shares that sum to one."""
        self._mixture = mixture
        self._generator = torch.Generator().manual_seed(seed)
        self._texts: dict[str, torch.Tensor] = {}
        self._exercises: dict[str, Iterator[corpus.Exercise]] = {}
        for name in mixture:
            if name in corpus.TEXTS:
                data = bytearray(corpus.training_text(name))
                self._texts[name] = torch.frombuffer(data, dtype=torch.uint8)
            else:
                self._exercises[name] = corpus.training_exercises(name, seed)

    def _text_rows(self, name: str, count: int) -> torch.Tensor:
        """Return `(count, TEXT_LENGTH)` tokens: the start token and a random piece of text."""
        data = self._texts[name]
        size = TEXT_LENGTH - 1
        starts = torch.randint(len(data) - size, (count, 1), generator=self._generator)
        pieces = data[starts + torch.arange(size)].long()
        return torch.cat([torch.full((count, 1), BOS), pieces], dim=1)

    def _exercise_rows(self, name: str, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return tokens and labels, `(count, LINE_LENGTH)`; only answers are labelled."""
        tokens = torch.full((count, LINE_LENGTH), PAD)
        labels = torch.full((count, LINE_LENGTH), IGNORED)
        for row in range(count):
            end = 0
            for item in self._exercises[name]:
                line = torch.tensor(list(f"{item.prompt}{item.answer}\n".encode()))
                if end + len(line) > LINE_LENGTH:
                    break
                tokens[row, end : end + len(line)] = line
                answer = end + len(item.prompt)
                end += len(line)
                labels[row, answer:end] = tokens[row, answer:end]
        return tokens, labels

    def draw(self) -> list[tuple[float, torch.Tensor, torch.Tensor]]:
        """Return (share, tokens, labels) per domain of one step, `TOKENS` tokens in all."""
        parts: list[tuple[float, torch.Tensor, torch.Tensor]] = []
        for name, share in self._mixture.items():
            if name in self._texts:
                rows = self._text_rows(name, max(1, round(share * TOKENS / TEXT_LENGTH)))
                parts.append((share, rows, rows))
            else:
                count = max(1, round(share * TOKENS / LINE_LENGTH))
                parts.append((share, *self._exercise_rows(name, count)))
        return parts


def _loss(
    model: LlamaForCausalLM, parts: Sequence[tuple[float, torch.Tensor, torch.Tensor]]
) -> torch.Tensor:
    """Return the share-weighted mean over domains of the cross-entropy [nats per token].

    Parts with equal row length go through the model together.
    """
    total = torch.zeros(())
    for length in (TEXT_LENGTH, LINE_LENGTH):
        same = [part for part in parts if part[1].shape[1] == length]
        if not same:
            continue
        tokens = torch.cat([part[1] for part in same])
        logits = model(input_ids=tokens, use_cache=False).logits
        start = 0
        for share, rows, labels in same:
            mine = logits[start : start + len(rows), :-1].reshape(-1, VOCAB)
            start += len(rows)
            total = total + share * functional.cross_entropy(mine, labels[:, 1:].reshape(-1))
    return total


def _learning_rate(run: Run, step: int) -> float:
    """Return the rate at `step`: a linear warm-up, then a cosine down to `run.floor` of it."""
    warmup = max(20, run.steps // 25)
    if step < warmup:
        return run.lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, run.steps - warmup)
    return run.lr * (run.floor + (1 - run.floor) * 0.5 * (1 + math.cos(math.pi * progress)))


def tokenizer() -> PreTrainedTokenizerFast:
    """Return the byte-level tokenizer: the token id of a byte is the byte."""
    keep = [b for b in range(256) if 33 <= b <= 126 or 161 <= b <= 172 or b >= 174]
    shifted = [b for b in range(256) if b not in keep]
    vocab = {chr(b): b for b in keep} | {chr(256 + i): b for i, b in enumerate(shifted)}
    fast = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    fast.decoder = decoders.ByteLevel()
    fast.add_special_tokens(["<|pad|>", "<|bos|>", "<|eos|>"])
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=fast,
        pad_token="<|pad|>",
        bos_token="<|bos|>",
        eos_token="<|eos|>",
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )


def _new_model(seed: int) -> LlamaForCausalLM:
    """Return the untrained ancestor, 0.33 million parameters in float32."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
    )
    return LlamaForCausalLM(config)


def _save(model: LlamaForCausalLM, folder: Path) -> None:
    """Write a bfloat16 copy of `model` with its tokenizer as a Hugging Face folder."""
    copy = LlamaForCausalLM(model.config).bfloat16()
    copy.load_state_dict(model.state_dict())
    copy.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=False, pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS
    )
    copy.save_pretrained(folder)
    tokenizer().save_pretrained(folder)


def _train(run: Run, folder: Path) -> None:
    """Train one run and save it under `folder`; the ancestor's run also saves `early`."""
    torch.manual_seed(run.seed)
    if run.parent is None:
        model = _new_model(run.seed)
    else:
        model = LlamaForCausalLM.from_pretrained(folder / run.parent, dtype=torch.float32)
    model.train()
    batches = Batches(run.mixture, run.seed)
    adam = torch.optim.AdamW(
        model.parameters(), lr=run.lr, betas=(0.9, 0.98), weight_decay=0.05, fused=True
    )
    started = time.monotonic()
    for step in range(run.steps):
        adam.param_groups[0]["lr"] = _learning_rate(run, step)
        loss = _loss(model, batches.draw())
        adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        if (step + 1) % 100 == 0 or step + 1 == run.steps:
            left = (time.monotonic() - started) / (step + 1) * (run.steps - step - 1)
            click.echo(
                f"{run.name}: step {step + 1}/{run.steps}, loss {loss:.3f}, {left:.0f} s left"
            )
        if run.parent is None and step + 1 == EARLY.steps:
            _save(model, folder / "early")
            tell(EARLY, folder / "early")
    _save(model, folder / run.name)
    tell(run, folder / run.name)


def _entry(run: Run) -> dict[str, Any]:
    """Return the entry of one checkpoint in pool.yaml."""
    return {
        "name": run.name,
        "path": f"checkpoints/{run.name}",
        "run": "base" if run is EARLY else run.name,
        "stage": run.stage,
        "parent": run.parent,
        "mixture": dict(run.mixture),
        "hyperparameters": {
            "lr": run.lr,
            "steps": run.steps,
            "batch_tokens": TOKENS,
            "seed": run.seed,
        },
        "notes": run.notes,
        "tags": list(run.tags),
    }


def tell(run: Run, folder: Path) -> None:
    """Write what a trainer leaves beside a checkpoint: the step, and a card that names the base."""
    state: dict[str, Any] = {"global_step": run.steps, "best_metric": None, "log_history": []}
    (folder / "trainer_state.json").write_text(json.dumps(state) + "\n", encoding="utf-8")
    about = {
        **({"base_model": run.parent} if run.parent else {}),
        "datasets": list(run.mixture),
        **({"tags": list(run.tags)} if run.tags else {}),
    }
    card = f"---\n{yaml.safe_dump(about, sort_keys=False)}---\n\n{run.notes.capitalize()}.\n"
    (folder / "README.md").write_text(card, encoding="utf-8")


def _write_pool(out: Path) -> None:
    """Write pool.yaml: the ancestor under `base`, every other checkpoint in a list."""
    pool = {"base": _entry(BASE), "checkpoints": [_entry(run) for run in (EARLY, *RUNS)]}
    text = yaml.safe_dump(pool, sort_keys=False, width=99, default_flow_style=None)
    (out / "pool.yaml").write_text(text, encoding="utf-8")


def _write_tasks(out: Path) -> None:
    """Write the items of the tasks, and copy the task files where `out` is another folder."""
    corpus.write_items(out / "tasks")
    for path in sorted((Path(__file__).parent / "tasks").glob("*.yaml")):
        if not (out / "tasks" / path.name).exists():
            shutil.copyfile(path, out / "tasks" / path.name)


@click.command()
@click.argument("out", type=click.Path(path_type=Path, file_okay=False))
@click.option("--only", help="Train this run alone; its parent must be there already.")
def main(out: Path, only: str | None) -> None:
    """Rebuild the demo pool in the folder OUT."""
    torch.set_num_threads(1)
    runs = [run for run in (BASE, *RUNS) if only in (None, run.name)]
    if not runs:
        names = ", ".join(run.name for run in (BASE, *RUNS))
        raise click.BadParameter(f"no run is called {only!r}; choose from {names}")
    for number, run in enumerate(runs, 1):
        click.echo(f"run {number}/{len(runs)}: {run.name}")
        _train(run, out / "checkpoints")
    if only is None:
        _write_pool(out)
        _write_tasks(out)


if __name__ == "__main__":
    main()

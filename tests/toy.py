"""A toy world that is real: tiny transformers in Hugging Face folders, and lm-eval tasks on disk."""

import json
from pathlib import Path

import numpy as np
import torch
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

VOCABULARY = 259  # 256 bytes and <pad>, <s>, </s>


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<s>", "</s>", *alphabet])}
    raw = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    raw.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        model_max_length=128,
    )


def model(kind: str = "llama", seed: int = 0, tied: bool = False, dtype: str = "float32"):
    """A causal language model of some ten thousand parameters with seeded random weights."""
    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    shape = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "tie_word_embeddings": tied,
    }
    torch.manual_seed(seed)
    if kind == "llama":
        made = LlamaForCausalLM(LlamaConfig(**shape, **special))
    elif kind == "qwen2":
        made = Qwen2ForCausalLM(Qwen2Config(**shape, **special))
    else:
        config = GPT2Config(
            vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=128, **special
        )
        made = GPT2LMHeadModel(config)
    with torch.no_grad():
        for parameter in made.parameters():  # wide enough for scores to differ
            parameter.add_(torch.randn_like(parameter) * 0.15)
    return made.to(getattr(torch, dtype)).eval()


def checkpoint(folder: Path, kind: str = "llama", seed: int = 0, **options) -> Path:
    """Save a model and its tokenizer as an ordinary Hugging Face folder."""
    model(kind, seed, **options).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def drawer(root: Path, n: int = 4, kind: str = "llama", **options) -> list[Path]:
    """Make n checkpoint folders of one architecture."""
    return [checkpoint(root / f"ckpt-{i}", kind, seed=i, **options) for i in range(n)]


def tasks(folder: Path, items: int = 40, seed: int = 0) -> Path:
    """Three lm-eval tasks, one of each output type: `choice`, `text`, `word`."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    letters = list("abcdefgh")
    words = ["".join(rng.choice(letters, 6)) for _ in range(items)]
    rows = {
        "choice": [
            {"q": f"{w}:", "label": int(rng.integers(4)), "group": i // 4}
            for i, w in enumerate(words)
        ],
        "text": [{"text": " ".join(rng.choice(words, int(rng.integers(2, 6))))} for _ in words],
        "word": [{"q": f"{w}>", "a": str(rng.choice(letters))} for w in words],
    }
    common = {"dataset_path": "json", "test_split": "test", "target_delimiter": ""}
    kinds = {
        "choice": {
            "output_type": "multiple_choice",
            "doc_to_text": "{{q}}",
            "doc_to_choice": ["a", "b", "c", "d"],
            "doc_to_target": "label",
            "metric_list": [{"metric": "acc"}],
        },
        "text": {
            "output_type": "loglikelihood_rolling",
            "doc_to_text": "",
            "doc_to_target": "{{text}}",
            "metric_list": [{"metric": "bits_per_byte"}],
        },
        "word": {
            "output_type": "generate_until",
            "doc_to_text": "{{q}}",
            "doc_to_target": "{{a}}",
            "generation_kwargs": {"until": ["\n"], "max_gen_toks": 2, "do_sample": False},
            "metric_list": [
                {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}
            ],
        },
    }
    for name, content in rows.items():
        lines = "".join(json.dumps({"id": i, **row}) + "\n" for i, row in enumerate(content))
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
        config = {
            "task": name,
            **common,
            "dataset_kwargs": {"data_files": {"test": f"{name}.jsonl"}},
            **kinds[name],
        }
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return folder


def study_file(root: Path, folders: list[Path], **search) -> Path:
    """A study file over some folders and the three tasks: text and choice searched, word held out."""
    config = {
        "study": "toy",
        "pool": [str(folder) for folder in folders],
        "objectives": [
            {"name": "text", "metric": "bits_per_byte"},
            {"name": "choice", "metric": "acc"},
        ],
        "held_out": [{"name": "word", "metric": "exact_match"}],
        "items": {"dev": 12, "select": 12, "test": 16},
        "evaluator": {
            "kind": "lm-eval",
            "tasks": str(tasks(root / "tasks")),
            "batch_size": 16,
            "max_length": 128,
        },
        "search": {"sampler": "dirichlet", "evaluations": 4, **search},
    }
    file = root / "study.yaml"
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    return file

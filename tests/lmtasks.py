"""Tasks on local documents, our evaluator and `lm_eval.simple_evaluate` on the same of them."""

import json
from pathlib import Path

import lm_eval
import lm_eval.tasks
import numpy as np
import torch
import toy
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from recycler.evaluate.harness import LmEval
from recycler.protocols import Context

OWN = Path(lm_eval.tasks.__file__).parent
ITEMS = {"dev": 12, "select": 4, "test": 8}
TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
LETTERS = "abcdefgh"


def language_model(seed: int):
    shape = {"vocab_size": toy.VOCABULARY, "hidden_size": 32, "intermediate_size": 48}
    shape |= {"num_hidden_layers": 1, "num_attention_heads": 4, "max_position_embeddings": 2048}
    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    torch.manual_seed(seed)
    made = LlamaForCausalLM(LlamaConfig(**shape, **special))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.15)
    return made.eval()


def evaluator(checkpoint, tasks, objectives, items=ITEMS, **settings) -> LmEval:
    context = Context(objectives=tuple(objectives), items=items, tokenizer=str(checkpoint))
    given = {"tasks": str(tasks), "batch_size": 8, **settings}
    return LmEval(context, LmEval.Settings(**given))


def theirs(checkpoint, tasks, name, model, ids, backend="causal", **settings):
    """What `lm_eval.simple_evaluate` says of the same items, from a task manager of its own."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    lm = HFLM(pretrained=model, tokenizer=tokenizer, backend=backend, batch_size=8, device="cpu")
    return lm_eval.simple_evaluate(
        model=lm,
        tasks=[name],
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        samples={name: sorted(ids)},
        bootstrap_iters=0,
        confirm_run_unsafe_code=True,
        **settings,
    )


def write_task(
    folder: Path, name: str, rows: dict[str, list[dict]], config: dict, **files
) -> Path:
    """A task on local documents: `<name>.yaml`, one file of documents a split, helpers."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for split, documents in rows.items():
        paths[split] = str(folder / f"{name}-{split}.jsonl")
        Path(paths[split]).write_text("".join(json.dumps(d) + "\n" for d in documents))
    data = {"dataset_path": "json", "dataset_name": None, "dataset_kwargs": {"data_files": paths}}
    functions = {k: v for k, v in config.items() if str(v).startswith("!function")}
    plain = {k: v for k, v in config.items() if k not in functions}
    lines = [f"{k}: {json.dumps(v)}" for k, v in {"task": name, **data, **plain}.items()]
    lines += [f"{k}: {v}" for k, v in functions.items()]
    for file, content in files.items():
        (folder / f"{file}.py").write_text(content)
    (folder / f"{name}.yaml").write_text("\n".join(lines) + "\n")
    return folder


def words(count: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return ["".join(rng.choice(list(LETTERS), 5)) for _ in range(count)]

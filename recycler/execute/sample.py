"""Samples: answers of trials to prompts, each trial merged in memory; no folder is written.

All merges get the same tokens and, if answers are sampled, the same random numbers, so that only
the weights make the difference. A model that is no merge has its own tokenizer and chat template.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from transformers import GenerationConfig

from recycler.beneath import pinned
from recycler.checkpoints.pool import Pool
from recycler.errors import InvalidConfig, Mismatch
from recycler.evaluate.tokenizer import load_tokenizer
from recycler.execute.prompts import Prompt
from recycler.merge.resident import Resident, load_model, quiet_transformers
from recycler.nouns.trial import Trial
from recycler.settings import Settings


class Sampling(Settings):
    """How answers are generated.

    Attributes:
        temperature: 0: greedy, the likeliest token each time; else of the sampled distribution.
        seed: seed of the samples.
        max_new_tokens: longest answer [tokens].
        chat: whether prompts are put into the tokenizer's chat template; None: if there is one.
    """

    temperature: float = Field(0.0, ge=0, allow_inf_nan=False)
    seed: int = Field(0, ge=0, lt=2**32)
    max_new_tokens: int = Field(128, ge=1)
    chat: bool | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What one trial answered to one prompt.

    Attributes:
        trial: number of the trial.
        name: its name.
        given: the text that the model was given, with the chat template where it applies.
        text: the answer, without special tokens.
        tokens: number of tokens that were generated.
        ended: whether the model ended the answer itself; if not, it was cut at the longest length.
    """

    trial: int
    name: str
    given: str
    text: str
    tokens: int
    ended: bool


@dataclass(frozen=True, slots=True)
class Samples:
    """Answers of trials to prompts.

    Attributes:
        study: name of the study.
        prompts: k prompts.
        answers: for each prompt the answer of each trial, in their order.
        sampling: how they were generated.
        template: whether a chat template was applied, and why; in words.
    """

    study: str
    prompts: tuple[Prompt, ...]
    answers: tuple[tuple[Answer, ...], ...]
    sampling: Sampling
    template: str

    def to_json(self) -> dict[str, Any]:
        """The samples as `recycler sample --json` prints them."""
        return {
            "study": self.study,
            "sampling": self.sampling.model_dump(),
            "template": self.template,
            "prompts": [
                {
                    "prompt": prompt.text,
                    "messages": [dict(m) for m in prompt.messages],
                    "answers": [asdict(answer) for answer in row],
                }
                for prompt, row in zip(self.prompts, self.answers, strict=True)
            ],
        }

    @classmethod
    def from_json(cls, table: Mapping[str, Any]) -> "Samples":
        """The samples that `to_json` wrote."""
        return cls(
            table["study"],
            tuple(Prompt(row["prompt"], tuple(row["messages"])) for row in table["prompts"]),
            tuple(
                tuple(Answer(**answer) for answer in row["answers"]) for row in table["prompts"]
            ),
            Sampling(**table["sampling"]),
            table["template"],
        )


# Called with (name of the trial, number of answers made, number of all answers).
OnAnswer = Callable[[str, int, int], object]


def sample(
    study: str,
    pool: Pool,
    trials: Sequence[Trial],
    prompts: Sequence[Prompt],
    sampling: Sampling,
    *,
    dtype: str = "",
    device: str = "cpu",
    scored_in_chat: bool = False,
    models: Mapping[str, Path] | None = None,
    on_answer: OnAnswer = lambda name, done, total: None,
) -> Samples:
    """Answer prompts with several trials, one after the other on one resident model.

    Args:
        study: name of the study, for messages.
        pool: its checkpoints.
        trials: whose merges answer.
        prompts: what they are asked.
        sampling: how answers are generated.
        dtype: torch name of the dtype of the merges; empty: that of the checkpoints.
        device: torch device.
        scored_in_chat: whether the study's tasks are scored with the chat template.
        models: recipe id -> folder of a model that is no merge of the pool.
        on_answer: called after each answer.

    Raises:
        InvalidConfig: a prompt does not fit the model or the chat template.
        Mismatch: a merge is not the one that was scored.
    """
    quiet_transformers()
    models, shared = models or {}, pool.checkpoints[0].path
    folders = [models.get(trial.recipe.id, shared) for trial in trials]
    writers = {f: _Writer(f, prompts, sampling, scored_in_chat) for f in dict.fromkeys(folders)}
    resident: Resident | None = None
    rows: list[list[Answer]] = [[] for _ in prompts]
    for trial, folder in zip(trials, folders, strict=True):
        if trial.recipe.id in models:
            model = load_model(folder).to(device).eval()
        else:
            resident = resident or Resident(pool, dtype, device)
            model = _merged(resident, trial)
        for k, row in enumerate(rows):
            row.append(Answer(trial.number, trial.name, *writers[folder].write(model, k)))
            on_answer(trial.name, sum(map(len, rows)), len(rows) * len(trials))
        del model  # a reference leaves the memory again
    said = [w.template if f == shared else f"{f.name}: {w.template}" for f, w in writers.items()]
    return Samples(
        study, tuple(prompts), tuple(map(tuple, rows)), sampling, "; ".join(dict.fromkeys(said))
    )


def _merged(resident: Resident, trial: Trial) -> Any:
    digest, _ = resident.load(trial.recipe)
    if trial.digest and trial.digest != digest:
        raise Mismatch(
            f"trial {trial.number} merges to {digest}, and {trial.digest} was scored.",
            hint="a checkpoint changed since; restore it.",
        )
    return resident.model


def _template(
    tokenizer: Any, prompts: Sequence[Prompt], wanted: bool | None, scored: bool
) -> tuple[bool, str]:
    """Whether to apply the chat template, and the reason in words."""
    has = bool(tokenizer.chat_template)
    if wanted and not has:
        raise InvalidConfig(
            f"the tokenizer in {tokenizer.name_or_path} has no chat template.",
            hint="leave out --chat, or put the model's chat_template.jinja beside that tokenizer.",
        )
    chat = has if wanted is None else wanted
    if not chat and any(prompt.messages for prompt in prompts):
        raise InvalidConfig(
            "a prompt has `messages`, and no chat template is applied to turn them into one text.",
            hint="give a text as `prompt`" + (", or leave out --no-chat." if has else "."),
        )
    if wanted is not None:
        return chat, f"chat template {'applied' if chat else 'not applied'}, as asked"
    if not has:
        return False, "no chat template: the tokenizer has none"
    as_scored = "as in" if scored else "unlike"
    return True, f"chat template applied: the tokenizer has one ({as_scored} the study's tasks)"


def _input(tokenizer: Any, prompt: Prompt, chat: bool, number: int) -> str:
    """The text that the model is given."""
    if not chat:
        return prompt.text
    try:
        return str(
            tokenizer.apply_chat_template(
                prompt.turns(), tokenize=False, add_generation_prompt=True
            )
        )
    except Exception as error:  # a template may raise anything, such as for a role it lacks
        raise InvalidConfig(
            f"prompt {number} does not fit the chat template: {type(error).__name__}: {error}.",
            hint="change its roles, or give it as plain text with --no-chat.",
        ) from error


class _Writer:
    """Generates answers, one prompt at a time: an answer depends neither on a batch nor on others."""

    def __init__(
        self, folder: Path, prompts: Sequence[Prompt], sampling: Sampling, scored_in_chat: bool
    ) -> None:
        """Load the tokenizer of a folder and make the texts that its model is given."""
        self._tokenizer, self._sampling = load_tokenizer(str(folder)), sampling
        chat, self.template = _template(self._tokenizer, prompts, sampling.chat, scored_in_chat)
        self._inputs = [_input(self._tokenizer, p, chat, k) for k, p in enumerate(prompts, 1)]
        self._special = not chat  # a chat template has its own special tokens
        try:
            with pinned(folder) as place:
                self._config: Any = GenerationConfig.from_pretrained(place)
        except OSError:  # the folder has none
            self._config = None

    @torch.no_grad()
    def write(self, model: Any, number: int) -> tuple[str, str, int, bool]:
        """The text given, the answer, its number of tokens, and whether the model ended it."""
        given = self._inputs[number]
        encoded = self._tokenizer(given, add_special_tokens=self._special, return_tensors="pt")
        tokens = encoded["input_ids"].to(model.device)
        mask = encoded["attention_mask"].to(model.device)
        config = self._settings(model, tokens.shape[1], number)
        devices = [model.device] if model.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            sha = hashlib.sha256(f"{self._sampling.seed}\0{number}\0{given}".encode())
            torch.manual_seed(int.from_bytes(sha.digest()[:8], "little") >> 1)
            made = model.generate(tokens, attention_mask=mask, generation_config=config)
        seen = 1 if model.config.is_encoder_decoder else tokens.shape[1]
        answer = made[0, seen:].tolist()
        ends = config.eos_token_id
        stops = ends if isinstance(ends, list) else [ends]
        text = self._tokenizer.decode(answer, skip_special_tokens=True)
        return given, text, len(answer), bool(answer) and answer[-1] in stops

    def _settings(self, model: Any, length: int, number: int) -> Any:
        """The settings of the folder, with ours for the length and the choice of tokens."""
        config = deepcopy(self._config or GenerationConfig.from_model_config(model.config))
        wanted = self._sampling.max_new_tokens
        limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        room = wanted if limit is None else limit - length * (not model.config.is_encoder_decoder)
        if limit is not None and (room < 1 or length > limit):
            raise InvalidConfig(
                f"prompt {number + 1} has {length} tokens; the model takes at most {limit}.",
                hint="shorten it.",
            )
        sampled = self._sampling.temperature > 0
        config.update(
            do_sample=sampled,
            temperature=self._sampling.temperature if sampled else None,
            top_k=0 if sampled else None,
            top_p=1.0 if sampled else None,
            num_beams=1,
            max_length=None,
            max_new_tokens=min(wanted, room),
        )
        if config.eos_token_id is None:
            config.eos_token_id = self._tokenizer.eos_token_id
        if config.pad_token_id is None:
            pads = (self._tokenizer.pad_token_id, config.eos_token_id, 0)
            pad = next(token for token in pads if token is not None)
            config.pad_token_id = pad[0] if isinstance(pad, list) else pad
        return config

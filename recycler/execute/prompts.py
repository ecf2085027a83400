"""Prompts for samples: texts or conversations, given one by one or in a file."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recycler.errors import InvalidConfig, NotFound

_FORMS = (
    'one JSON object a line: {"prompt": TEXT} or {"messages": [{"role": ROLE, "content": TEXT}]}'
)


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a model is asked.

    Attributes:
        text: the prompt, or what stands for a conversation in messages: its last turn.
        messages: turns of a conversation, each with `role` and `content`; empty: the text alone.
    """

    text: str
    messages: tuple[Mapping[str, str], ...] = ()

    def turns(self) -> list[dict[str, str]]:
        """The conversation; a text alone is one turn of the user."""
        return [dict(m) for m in self.messages] or [{"role": "user", "content": self.text}]


def prompts_of(texts: Sequence[str | Prompt], file: Path | None = None) -> list[Prompt]:
    """Prompts given as texts, then those of a file.

    Args:
        texts: one prompt each.
        file: one prompt a line; or, if its name ends with `.jsonl`, one JSON object a line with
            `prompt` or `messages`. Empty lines are skipped.

    Raises:
        NotFound: the file can't be read.
        InvalidConfig: there is no prompt, or a line of the file is no prompt.
    """
    found = [Prompt(text) if isinstance(text, str) else text for text in texts]
    if file is not None:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise NotFound(
                f"prompts {file} can't be read: {reason}.",
                hint="give a UTF-8 text with one prompt a line, or a .jsonl file.",
            ) from error
        told = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
        if file.suffix == ".jsonl":
            found += [_read(line, f"{file}, line {number}") for number, line in told]
        else:
            found += [Prompt(line) for _, line in told]
    if not found or not all(prompt.text.strip() for prompt in found):
        raise InvalidConfig(
            f"{'a prompt is empty' if found else 'there is no prompt'}.",
            hint="give texts with -p TEXT, or a file with --prompts FILE.",
        )
    return found


def _read(line: str, where: str) -> Prompt:
    try:
        table = json.loads(line)
    except ValueError as error:
        raise InvalidConfig(f"{where}: no JSON: {error}.", hint=f"expected {_FORMS}.") from error
    text, messages = (
        (table.get("prompt"), table.get("messages")) if isinstance(table, dict) else (None, None)
    )
    if isinstance(text, str) and messages is None:
        return Prompt(text)
    if text is None and isinstance(messages, list) and messages and all(map(_is_turn, messages)):
        turns = tuple({"role": turn["role"], "content": turn["content"]} for turn in messages)
        return Prompt(turns[-1]["content"], turns)
    raise InvalidConfig(f"{where}: found {line[:80]!r}.", hint=f"expected {_FORMS}.")


def _is_turn(turn: Any) -> bool:
    return isinstance(turn, dict) and all(
        isinstance(turn.get(k), str) for k in ("role", "content")
    )

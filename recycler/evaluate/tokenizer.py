"""The tokenizer of a checkpoint's folder, or what is wrong with it."""

from typing import Any

from transformers import AutoTokenizer

from recycler.beneath import pinned
from recycler.errors import InvalidConfig


def load_tokenizer(folder: str) -> Any:
    """The tokenizer that transformers loads from a folder.

    Raises:
        InvalidConfig: there is none, or its files can't be read.
    """
    try:
        with pinned(folder) as place:
            return AutoTokenizer.from_pretrained(place)
    except Exception as error:  # files of any content are parsed by several libraries
        lines = str(error).strip().splitlines() or [""]
        raise InvalidConfig(
            f"no tokenizer can be loaded from {folder}: {type(error).__name__}: {lines[0][:200]}.",
            hint="evaluations take the tokenizer of the pool's first checkpoint: put its files "
            "(tokenizer.json, tokenizer_config.json …) there, or list another checkpoint first.",
        ) from error

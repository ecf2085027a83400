"""The answers of a merge to the items of one objective, beside their outcomes.

They change no score: they are kept so that people can read what two merges answered differently.
"""

import json
import zlib
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Answers:
    """What a merge answered to the items of one objective, in the order of its outcomes.

    Attributes:
        prompts: (items,) the text that the model was given, with examples and chat template.
        targets: (items,) the right answer; empty text: the task has none.
        texts: (items,) the answer that was scored: the generated text after the task's filter, the
            chosen option, or the score of the text itself.
        raw: (items,) the generated text before the filter; empty: the same as `texts`.
        margins: (items,) log-likelihood [nats] of the chosen option minus that of the best other
            one, or that of the target; empty for generated text.
    """

    prompts: tuple[str, ...]
    targets: tuple[str, ...]
    texts: tuple[str, ...]
    raw: tuple[str, ...] = ()
    margins: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        assert len(self.prompts) == len(self.targets) == len(self.texts), "one entry per item"
        assert {len(self.raw), len(self.margins)} <= {0, len(self.texts)}, "one entry per item"

    def pack_asked(self) -> bytes:
        """Prompts and targets, compressed: the same for all merges."""
        return _packed({"prompts": self.prompts, "targets": self.targets})

    def pack_given(self) -> bytes:
        """What this merge answered, compressed."""
        return _packed({"texts": self.texts, "raw": self.raw, "margins": self.margins})

    @classmethod
    def unpack(cls, asked: bytes, given: bytes) -> "Answers":
        """Inverse of `pack_asked` and `pack_given`."""
        table = {**json.loads(zlib.decompress(asked)), **json.loads(zlib.decompress(given))}
        return cls(**{key: tuple(entries) for key, entries in table.items()})


def _packed(table: dict[str, tuple[str, ...] | tuple[float, ...]]) -> bytes:
    text = json.dumps(table, ensure_ascii=False, separators=(",", ":"))
    # a generated text may hold half of a surrogate pair
    return zlib.compress(text.encode("utf-8", "surrogatepass"), level=6)

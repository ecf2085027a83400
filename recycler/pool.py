"""A pool: checkpoints of one architecture that may be merged, and the check that finds why not.

Letters: n checkpoints. May import: errors, yamlfile, checkpoint.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recycler.checkpoint import Checkpoint
from recycler.errors import BrokenCheckpoint, Incompatible, InvalidConfig, NotFound, RecyclerError
from recycler.yamlfile import read_yaml

ERROR, WARNING = "error", "warning"
# Settings that change what the same tensors compute: they must agree.
_MUST_AGREE = (
    "architectures",
    "model_type",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "tie_word_embeddings",
    "vocab_size",
)
_SHOULD_AGREE = (
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "rms_norm_eps",
    "layer_norm_eps",
    "layer_norm_epsilon",
    "max_position_embeddings",
    "sliding_window",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)
_TOKENIZER = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing the check found: where, what, what was expected and what to do."""

    code: str
    severity: str
    checkpoint: str
    found: str
    expected: str
    hint: str
    file: str = ""
    tensor: str = ""

    def __str__(self) -> str:
        where = " · ".join(part for part in (self.checkpoint, self.file, self.tensor) if part)
        return f"{where}: found {self.found}, expected {self.expected}"


@dataclass(frozen=True, slots=True)
class Pool:
    """n checkpoints, in the order that every (n,) array of weights follows.

    Attributes:
        name: how the registry calls it.
        checkpoints: at least one, with unique names.
        base: common ancestor for task-vector methods, if any; not one of the n.
    """

    name: str
    checkpoints: tuple[Checkpoint, ...]
    base: Checkpoint | None = None

    def __post_init__(self) -> None:
        if not self.checkpoints:
            raise InvalidConfig(
                f"pool {self.name!r} is empty.", hint="give at least one checkpoint folder."
            )
        twice = sorted({name for name in self.names if self.names.count(name) > 1})
        if twice:
            raise InvalidConfig(
                f"pool {self.name!r} has two checkpoints called {twice[0]!r}.",
                hint="give them different names: `- {name: other, path: ...}`.",
            )
        namesakes = [c for c in self.checkpoints if self.base and c.name == self.base.name]
        if self.base and any(c.path != self.base.path for c in namesakes):
            raise InvalidConfig(
                f"pool {self.name!r}: its base is called {self.base.name!r} like a checkpoint.",
                hint="give it another name: `base: {name: other, path: ...}`.",
            )

    @classmethod
    def open(
        cls,
        folders: Sequence[str | os.PathLike[str]],
        base: str | os.PathLike[str] | None = None,
        name: str = "pool",
    ) -> "Pool":
        """Open folders from their headers; no tensor is read. Folder names become names."""
        paths = [*folders, *([base] if base else [])]
        entries = [
            {"name": label, "path": path}
            for label, path in zip(_labels(paths), paths, strict=True)
        ]
        return cls.from_entries(name, entries[: len(folders)], entries[-1] if base else None)

    @classmethod
    def from_entries(
        cls,
        name: str,
        entries: Sequence[Mapping[str, Any] | str],
        base: Mapping[str, Any] | str | None = None,
        root: Path | None = None,
    ) -> "Pool":
        """Open checkpoints given as mappings with `path`, optional `name` and anything about them.

        A plain path stands for a mapping with nothing else.

        Args:
            name: name of the pool.
            entries: one mapping or path a checkpoint.
            base: the same for the base, or None.
            root: folder that relative paths are relative to; None means the current one.
        """
        opened = [
            _open(entry, root, f"pool {name!r}: checkpoint number {number}")
            for number, entry in enumerate(entries)
        ]
        return cls(
            name, tuple(opened), _open(base, root, f"pool {name!r}: base") if base else None
        )

    @classmethod
    def from_yaml(cls, file: Path) -> "Pool":
        """Open the pool that a YAML file lists under `checkpoints:` and `base:`."""
        table = read_yaml(file, "pool file", "check the path.")
        if not isinstance(table, dict) or not isinstance(table.get("checkpoints"), list):
            raise InvalidConfig(
                f"{file} has no list `checkpoints:`.",
                hint="see `recycler/demo/pool.yaml` for an example.",
            )
        return cls.from_entries(
            table.get("name", file.stem), table["checkpoints"], table.get("base"), file.parent
        )

    @property
    def n(self) -> int:
        return len(self.checkpoints)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(checkpoint.name for checkpoint in self.checkpoints)

    @property
    def everything(self) -> tuple[Checkpoint, ...]:
        """The n checkpoints and the base, if there is one."""
        return (*self.checkpoints, *((self.base,) if self.base else ()))

    def __getitem__(self, name: str) -> Checkpoint:
        for checkpoint in self.everything:
            if checkpoint.name == name:
                return checkpoint
        raise NotFound(
            f"pool {self.name!r} has no checkpoint {name!r}.",
            hint=f"it has: {', '.join(self.names)}.",
        )

    def check(self) -> tuple[Finding, ...]:
        """Everything in the headers, configs and tokenizers that would spoil a merge."""
        first = self.checkpoints[0]
        findings: list[Finding] = []
        for other in self.everything[1:]:
            findings += [*_tensor_findings(first, other), *_config_findings(first, other)]
            findings += _tokenizer_findings(first, other)
        return tuple(findings)

    def require_mergeable(
        self, allowed: Callable[[Finding], bool] = lambda finding: False
    ) -> None:
        """Raise Incompatible with the first error the check finds that is not allowed."""
        errors = [f for f in self.check() if f.severity == ERROR and not allowed(f)]
        if errors:
            more = f" ({len(errors) - 1} more errors)" if len(errors) > 1 else ""
            raise Incompatible(
                f"pool {self.name!r} can't be merged: {errors[0]}{more}.",
                hint=f"{errors[0].hint} `recycler pool check` lists every finding.",
            )


def survey(
    folders: Sequence[str | os.PathLike[str]], base: str | os.PathLike[str] | None = None
) -> tuple[Pool | None, tuple[Finding, ...]]:
    """Open what opens and report the rest: a broken folder becomes a finding, not an error.

    Returns:
        The pool of readable folders (None if there is none) and all findings.
    """
    problems = {folder: _unreadable(folder) for folder in [*folders, *([base] if base else [])]}
    findings = [finding for finding in problems.values() if finding]
    good = [folder for folder in folders if not problems[folder]]
    if not good:
        return None, tuple(findings)
    pool = Pool.open(good, base if base and not problems[base] else None)
    return pool, (*findings, *pool.check())


def _unreadable(folder: str | os.PathLike[str]) -> Finding | None:
    """Why a folder can't be opened; None where it can."""
    try:
        Checkpoint.open(folder)
    except RecyclerError as error:
        return Finding(
            code="unreadable" if isinstance(error, BrokenCheckpoint) else "not-found",
            severity=ERROR,
            checkpoint=Path(folder).name,
            found=error.message.rstrip("."),
            expected="a readable safetensors checkpoint",
            hint=error.hint,
        )
    return None


def _open(entry: Mapping[str, Any] | str, root: Path | None, where: str) -> Checkpoint:
    """Open one entry of a pool; `where` names it in an error."""
    entry = {"path": entry} if isinstance(entry, str) else entry
    folder = entry.get("path") if isinstance(entry, Mapping) else None
    if not folder or not isinstance(folder, str | os.PathLike):
        raise InvalidConfig(
            f"{where} has no path, found {entry!r}.",
            hint="write each as `{name: sft-a, path: runs/sft-a}`.",
        )
    path = Path(folder).expanduser()
    about = {key: value for key, value in entry.items() if key not in ("name", "path")}
    return Checkpoint.open(root / path if root else path, str(entry.get("name") or ""), about)


def _labels(folders: Sequence[str | os.PathLike[str]]) -> list[str]:
    """Folder names, with the parent's name before them where two folders share a name."""
    paths = [Path(folder).expanduser().absolute() for folder in folders]
    names = [path.name for path in set(paths)]
    return [
        path.name if names.count(path.name) == 1 else f"{path.parent.name}.{path.name}"
        for path in paths
    ]


def _tensor_findings(first: Checkpoint, other: Checkpoint) -> Iterator[Finding]:
    for name in sorted(first.tensors.keys() | other.tensors.keys()):
        expected, found = first.tensors.get(name), other.tensors.get(name)
        if expected is None or found is None:
            present = other if expected is None else first
            yield Finding(
                code="tensor-extra" if expected is None else "tensor-missing",
                severity=ERROR,
                checkpoint=other.name,
                file=(found or present.tensors[name]).file,
                tensor=name,
                found=str(found) if found else "no such tensor",
                expected=str(expected) if expected else f"no such tensor, as in {first.name!r}",
                hint="pool only checkpoints of one architecture, all tied or all untied.",
            )
        elif expected.shape != found.shape:
            yield Finding(
                code="shape",
                severity=ERROR,
                checkpoint=other.name,
                file=found.file,
                tensor=name,
                found=str(found),
                expected=f"{expected} as in {first.name!r}",
                hint="pool only checkpoints of one architecture and one vocabulary size.",
            )
        elif expected.dtype != found.dtype:
            yield Finding(
                code="dtype",
                severity=WARNING,
                checkpoint=other.name,
                file=found.file,
                tensor=name,
                found=str(found),
                expected=f"{expected} as in {first.name!r}",
                hint="merges are summed in float32 and rounded once, so this is allowed; set "
                "`merge.dtype` to choose the output.",
            )


def _config_findings(first: Checkpoint, other: Checkpoint) -> Iterator[Finding]:
    for keys, severity in ((_MUST_AGREE, ERROR), (_SHOULD_AGREE, WARNING)):
        for key in keys:
            expected, found = first.config.get(key), other.config.get(key)
            if expected != found:
                yield Finding(
                    code="config",
                    severity=severity,
                    checkpoint=other.name,
                    file="config.json",
                    found=f"{key} {found!r}",
                    expected=f"{expected!r} as in {first.name!r}",
                    hint="checkpoints with another setting compute something else with the same "
                    "weights.",
                )


def _tokenizer_findings(first: Checkpoint, other: Checkpoint) -> Iterator[Finding]:
    for file in _TOKENIZER:
        if _file_hash(first.path / file) != _file_hash(other.path / file):
            yield Finding(
                code="tokenizer",
                severity=WARNING,
                checkpoint=other.name,
                file=file,
                found="another tokenizer",
                expected=f"the same file as in {first.name!r}",
                hint="merges use the tokenizer of the first checkpoint; rows of the embedding must "
                "mean the same tokens everywhere.",
            )


def _file_hash(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""

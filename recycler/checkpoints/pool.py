"""A pool: checkpoints of one architecture, and the check that says whether they can be merged.

Letters: n checkpoints.
"""

import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recycler.checkpoints.compare import compare
from recycler.checkpoints.findings import ERROR, WARNING, Finding
from recycler.checkpoints.folder import Checkpoint, absolute, real_path
from recycler.errors import Incompatible, InvalidConfig, NotFound, RecyclerError
from recycler.markup import html_table
from recycler.yamlfile import read_yaml

# Rate of one thread with a healthy disk or the page cache; a deep check measures the real one.
ASSUMED_RATE = 1e9  # bytes of input per second


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Cost of one merge of a pool.

    Attributes:
        read_bytes: input of one merge without zero weights [B].
        write_bytes: output in the first checkpoint's dtype; also the size of a resident model [B].
        working_bytes: three times the largest tensor in float32, which a method may hold in
            addition [B].
        free_bytes: free space on the disk of the current folder [B].
        seconds: time at `ASSUMED_RATE` [s].
        tensors: number of tensors of the first checkpoint.
    """

    read_bytes: int
    write_bytes: int
    working_bytes: int
    free_bytes: int
    seconds: float
    tensors: int


@dataclass(frozen=True, slots=True)
class Pool:
    """n checkpoints; every (n,) array of weights has this order.

    Attributes:
        name: name in the registry.
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
        """Open folders from their headers; no tensor is read. Checkpoints are named after folders."""
        paths = [*folders, *([base] if base else [])]
        entries = [
            {"name": label, "path": path} for label, path in zip(labels(paths), paths, strict=True)
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
        """Open checkpoints given as mappings with `path`, optional `name` and any metadata.

        A plain path stands for a mapping with `path` alone.

        Args:
            name: name of the pool.
            entries: one mapping or path for each checkpoint.
            base: the same for the base, or None.
            root: folder that relative paths start from; None is the current one.
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

    def _repr_html_(self) -> str:
        """The pool in a notebook: each checkpoint with its type, tensors and size."""
        rows = [
            (
                f"{checkpoint.name}{' (base)' if checkpoint is self.base else ''}",
                str(checkpoint.config.get("model_type", "")),
                len(checkpoint.tensors),
                f"{checkpoint.nbytes / 1e6:,.1f} MB",
                checkpoint.path,
            )
            for checkpoint in self.everything
        ]
        head = ("checkpoint", "model type", "tensors", "size", "path")
        return html_table(f"Pool {self.name}: {self.n} checkpoints", head, rows)

    def check(self) -> tuple[Finding, ...]:
        """All findings from headers, configs and tokenizers that affect a merge."""
        return (*self._same_folder_findings(), *self._base_findings(), *compare(self.everything))

    def _same_folder_findings(self) -> Iterator[Finding]:
        known: dict[Path, Checkpoint] = {}
        for checkpoint in self.checkpoints:
            first = known.setdefault(real_path(checkpoint.path), checkpoint)
            if first is not checkpoint:
                yield _twice(checkpoint.name, first)

    def _base_findings(self) -> Iterator[Finding]:
        for checkpoint in self.checkpoints if self.base else ():
            if self.base and real_path(checkpoint.path) == real_path(self.base.path):
                yield Finding(
                    code="base-member",
                    severity=WARNING,
                    checkpoint=checkpoint.name,
                    found="the base itself",
                    expected="checkpoints trained from the base",
                    hint="its task vector is zero, so its weight changes nothing; remove it from "
                    "the list, unless `linear` should mix the base in.",
                )

    def estimate(self) -> Estimate:
        """Cost of one merge, from the headers."""
        first = self.checkpoints[0]
        elements = max(math.prod(spec.shape) for spec in first.tensors.values())
        read = sum(checkpoint.nbytes for checkpoint in self.everything)
        return Estimate(
            read_bytes=read,
            write_bytes=first.nbytes,
            working_bytes=3 * 4 * elements,
            free_bytes=shutil.disk_usage(Path.cwd()).free,
            seconds=(read + first.nbytes) / ASSUMED_RATE,
            tensors=len(first.tensors),
        )

    def require_mergeable(
        self, allowed: Callable[[Finding], bool] = lambda finding: False
    ) -> None:
        """Raise Incompatible with the first error of the check that is not allowed."""
        errors = [f for f in self.check() if f.severity == ERROR and not allowed(f)]
        if errors:
            more = f" ({len(errors) - 1} more errors)" if len(errors) > 1 else ""
            raise Incompatible(
                f"pool {self.name!r} can't be merged: {errors[0]}{more}.",
                hint=f"{errors[0].hint} `recycler pool check` lists every finding.",
            )


def check_folders(
    folders: Sequence[str | os.PathLike[str]],
    base: str | os.PathLike[str] | None = None,
    names: Sequence[str] = (),
) -> tuple[Pool | None, tuple[Finding, ...]]:
    """Open all folders that can be opened; a broken one becomes a finding, not an error.

    Args:
        folders: the checkpoints.
        base: common ancestor, if any.
        names: a name for each folder and then for the base; empty: they are named after folders.

    Returns:
        The pool of readable folders (None if there is none) and all findings.
    """
    everything = [*folders, *([base] if base else [])]
    opened: dict[Path, Checkpoint] = {}
    findings: list[Finding] = []
    named = names or labels(everything)
    for number, (folder, label) in enumerate(zip(everything, named, strict=True)):
        known = opened.get(real_path(folder))
        if known and number < len(folders):
            findings.append(_twice(label, known))
        elif not known:
            try:
                opened[real_path(folder)] = Checkpoint.open(folder, label)
            except RecyclerError as error:
                findings.append(Finding.of(error, label))
    listed = {real_path(folder) for folder in folders}
    good = tuple(checkpoint for real, checkpoint in opened.items() if real in listed)
    findings = list(dict.fromkeys(findings))  # a broken base may also be in the list
    if not good:
        return None, tuple(findings)
    pool = Pool("pool", good, opened.get(real_path(base)) if base else None)
    return pool, (*findings, *pool.check())


def _twice(label: str, known: Checkpoint) -> Finding:
    return Finding(
        code="same-folder",
        severity=ERROR,
        checkpoint=label,
        found=f"the folder of {known.name!r} again",
        expected="each checkpoint once",
        hint="list every folder once; a link to a folder is the same folder.",
    )


def _open(entry: Mapping[str, Any] | str, root: Path | None, where: str) -> Checkpoint:
    """Open one entry of a pool; `where` names it in an error."""
    entry = {"path": entry} if isinstance(entry, str) else entry
    folder = entry.get("path") if isinstance(entry, Mapping) else None
    if not folder or not isinstance(folder, str | os.PathLike):
        raise InvalidConfig(
            f"{where} has no path, found {entry!r}.",
            hint="write each as `{name: sft-a, path: runs/sft-a}`.",
        )
    relative = root is not None and not str(folder).startswith("~")
    path = root / folder if root and relative else absolute(folder)
    about = {key: value for key, value in entry.items() if key not in ("name", "path")}
    return Checkpoint.open(path, str(entry.get("name") or ""), about)


def labels(folders: Sequence[str | os.PathLike[str]]) -> list[str]:
    """Folder names, with as many parent names in front as are needed to tell equal names apart."""
    paths = [absolute(folder) for folder in folders]

    def label(path: Path) -> str:
        others = set(paths) - {path}
        tails = (path.parts[-depth:] for depth in range(1, len(path.parts) + 1))
        return ".".join(
            next(
                (t for t in tails if all(other.parts[-len(t) :] != t for other in others)),
                path.parts,
            )
        )

    return [label(path) for path in paths]

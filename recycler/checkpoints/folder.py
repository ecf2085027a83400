"""A checkpoint: one Hugging Face folder, opened from its headers alone.

No tensor is read until a fingerprint or a merge asks for it.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recycler.beneath import listed
from recycler.checkpoints.architecture import is_tied_by_config
from recycler.checkpoints.header import (
    DTYPES,
    TensorSpec,
    brief,
    open_regular,
    read_header,
    read_json,
    tree_digest,
)
from recycler.errors import BrokenCheckpoint, NotFound

ADAPTER = "adapter_config.json"
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
HEADS = ("lm_head.weight", "embed_out.weight")  # suffixes of the names of output embeddings
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_READ = 1 << 22  # bytes hashed at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """One Hugging Face folder, with metadata of the run that made it.

    Attributes:
        name: unique in its pool.
        path: the folder, absolute.
        tensors: tensor name -> where it is stored; sorted by name.
        config: the parsed config.json.
        about: run, stage, parent, data mixture, hyperparameters, notes, tags: free for the user.
    """

    name: str
    path: Path
    tensors: Mapping[str, TensorSpec]
    config: Mapping[str, Any]
    about: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], name: str = "", about: Mapping[str, Any] | None = None
    ) -> "Checkpoint":
        """Read a folder's config and tensor headers; no tensor is read.

        Raises:
            NotFound: there is no such folder.
            BrokenCheckpoint: the folder is not a readable safetensors checkpoint.
        """
        folder = absolute(path)
        if not _is_folder(folder):
            raise NotFound(
                f"{folder} is not a folder.",
                hint="give the folder that holds config.json and *.safetensors.",
            )
        _refuse_cache(folder)
        _refuse_adapter(folder)
        _refuse_run(folder)
        config = read_json(folder / "config.json")
        tensors: dict[str, TensorSpec] = {}
        for spec in (spec for file in _weight_files(folder) for spec in read_header(file)):
            _require_once(folder, tensors.setdefault(spec.name, spec), spec)
        _check_index(folder, tensors, config)
        if not tensors:
            raise BrokenCheckpoint(
                f"{folder} holds no tensor.", hint="save the model again.", finding="empty"
            )
        return cls(
            name=name or folder.name,
            path=folder,
            tensors=dict(sorted(tensors.items())),
            config=config,
            about=dict(about or {}),
        )

    @property
    def nbytes(self) -> int:
        """Size of all tensors [B]."""
        return sum(spec.nbytes for spec in self.tensors.values())

    @property
    def dtype(self) -> str:
        """Torch name of the dtype that holds most of the bytes."""
        sizes: dict[str, int] = {}
        for spec in self.tensors.values():
            sizes[spec.dtype] = sizes.get(spec.dtype, 0) + spec.nbytes
        return DTYPES[max(sizes, key=lambda dtype: sizes[dtype])][0]

    def stamp(self) -> str:
        """Name, size, mtime and inode of each weight file: changes if a file is touched."""
        parts = [str(self.path)]
        for file in sorted({spec.file for spec in self.tensors.values()}):
            try:
                found = (self.path / file).stat()
            except OSError as error:
                raise BrokenCheckpoint(
                    f"{self.path / file} can't be read any more: {error.strerror}.",
                    hint="the folder changed since it was opened; restore it.",
                    file=file,
                ) from error
            parts.append(f"{file}:{found.st_size}:{found.st_mtime_ns}:{found.st_ino}")
        return "|".join(parts)

    def fingerprint(self, on_bytes: Callable[[int], object] = lambda count: None) -> str:
        """Hash of every tensor's name, dtype, shape and bytes; the file layout does not matter.

        Reads all bytes once. A merge with weight 1 on this checkpoint in its own dtype has the
        same digest (`tree_digest` serves both).

        Args:
            on_bytes: called with the number of bytes just read, for progress bars.
        """
        with self.unchanged():
            return tree_digest(
                (spec, self._tensor_hash(spec, on_bytes)) for spec in self.tensors.values()
            )

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Read tensors inside the block: the files must be the ones opened, and must not change.

        Raises:
            BrokenCheckpoint: a header differs from the one that was opened, or a file was touched
                before the block ended.
        """
        stamp = self.stamp()
        for file in sorted({spec.file for spec in self.tensors.values()}):
            own = {spec for spec in self.tensors.values() if spec.file == file}
            try:
                same = set(read_header(self.path / file)) == own
            except BrokenCheckpoint as error:
                raise self._changed(file) from error
            if not same:
                raise self._changed(file)
        yield
        if self.stamp() != stamp:
            raise self._changed("")

    def _changed(self, file: str) -> BrokenCheckpoint:
        return BrokenCheckpoint(
            f"{self.path / file} changed after the checkpoint was opened.",
            hint="wait until the writing process is done, then run this again.",
            finding="changed",
            file=file,
        )

    def _tensor_hash(self, spec: TensorSpec, on_bytes: Callable[[int], object]) -> str:
        sha, left = hashlib.sha256(), spec.nbytes
        with open_regular(self.path / spec.file) as file:
            file.seek(spec.start)
            while left:
                block = file.read(min(_READ, left))
                if not block:
                    raise ended_early(self, spec, left)
                sha.update(block)
                left -= len(block)
                on_bytes(len(block))
        return sha.hexdigest()


def ended_early(checkpoint: Checkpoint, spec: TensorSpec, missing: int) -> BrokenCheckpoint:
    """The error for a file that ends `missing` bytes before its tensor does."""
    return BrokenCheckpoint(
        f"{checkpoint.path / spec.file} ended {missing} bytes early in tensor {spec.name!r}.",
        hint="the file changed or was truncated while it was read; copy it again.",
        finding="truncated",
        file=spec.file,
        tensor=spec.name,
    )


def absolute(path: str | os.PathLike[str]) -> Path:
    """The absolute path; `~` is the user's home folder, if that user exists."""
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError:  # ~nobody
        return Path(path).absolute()


def real_path(folder: str | os.PathLike[str]) -> Path:
    """The folder behind links; the path itself if the links form a cycle."""
    path = absolute(folder)
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError):
        return path


def _is_folder(folder: Path) -> bool:
    try:
        return folder.is_dir()
    except (OSError, ValueError):  # the name is too long
        return False


def _files(folder: Path) -> list[str]:
    """Names in a folder, sorted."""
    try:
        return listed(folder)
    except OSError as error:
        raise BrokenCheckpoint(
            f"{folder} can't be read: {error.strerror}.", hint="check its permissions."
        ) from error


def _refuse_cache(folder: Path) -> None:
    """Raise BrokenCheckpoint for a folder of the hub's cache, whose model is in a subfolder."""
    snapshots = folder / "snapshots"
    if os.path.lexists(folder / "config.json") or not _is_folder(snapshots):
        return
    found = [snapshots / name for name in _files(snapshots)]
    main = folder / "refs" / "main"
    named = ""
    if main.is_file():
        with open_regular(main) as stream:
            named = stream.read(200).decode("utf-8", "replace").strip()
    newest = next((f for f in found if f.name == named), found[-1] if found else None)
    raise BrokenCheckpoint(
        f"{folder} is a folder of the Hugging Face cache; the model is in its snapshots.",
        hint=f"give {newest}." if newest else "it has no snapshot; download the model again.",
        finding="cache",
        file="snapshots",
    )


def _refuse_adapter(folder: Path) -> None:
    names = _files(folder)
    whole = [n for n in names if n.endswith(".safetensors") and not n.startswith("adapter_")]
    if ADAPTER in names and not whole:
        raise BrokenCheckpoint(
            f"{folder} holds a LoRA adapter, not a whole model.",
            hint="merge it into its base first: PeftModel.from_pretrained(base, folder)"
            ".merge_and_unload().save_pretrained(other_folder).",
            finding="adapter",
            file=ADAPTER,
        )


def _weight_files(folder: Path) -> list[Path]:
    """The weight files of a folder, as transformers chooses them: one file, an index, else all.

    Broken links count, so that a half-emptied cache is named and not skipped.
    """
    names = _files(folder)
    if SINGLE in names:
        return [folder / SINGLE]
    if INDEX in names:
        return [folder / name for name in sorted(set(_weight_map(folder / INDEX).values()))]
    files = [name for name in names if name.endswith(".safetensors")]
    pickles = [name for name in names if name.endswith(PICKLES)]
    if not files and pickles:
        raise BrokenCheckpoint(
            f"{folder} holds only pickles ({pickles[0]}), which can run code when opened.",
            hint="convert once where you trust it: AutoModelForCausalLM.from_pretrained(folder)"
            ".save_pretrained(folder, safe_serialization=True).",
            finding="pickle",
            file=pickles[0],
        )
    if not files:
        raise BrokenCheckpoint(
            f"{folder} holds no *.safetensors.",
            hint="give a Hugging Face model folder.",
            finding="empty",
        )
    return [folder / name for name in files]


def _refuse_run(folder: Path) -> None:
    """Refuse the folder of a training run: its checkpoints are one level below it."""
    if os.path.lexists(folder / "config.json"):
        return
    inner = [n for n in _files(folder) if os.path.lexists(folder / n / "config.json")]
    if inner:
        more = ", …" if len(inner) > 3 else ""
        raise BrokenCheckpoint(
            f"{folder} has no config.json; {len(inner)} of its folders have one: "
            f"{', '.join(inner[:3])}{more}.",
            hint=f"give the model folders themselves: {folder / '*'} for all, {folder / inner[-1]} "
            "for one.",
            finding="nested",
            file="config.json",
        )


def _weight_map(index: Path) -> dict[str, str]:
    def broken(what: str, hint: str, tensor: str = "") -> BrokenCheckpoint:
        return BrokenCheckpoint(
            f"{index}{what}.", hint=hint, finding="index", file=index.name, tensor=tensor
        )

    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise broken(" has no weight_map", "save the model again.")
    for tensor, name in weight_map.items():
        if not _is_plain(name):
            raise broken(
                f": tensor {brief(tensor)} lies in {brief(name)}, which is not a plain file name",
                "an index may only name files beside it.",
                tensor,
            )
    for name in sorted(set(weight_map.values())):
        if not os.path.lexists(index.parent / name):
            raise broken(
                f" names {name}, which is not there", "copy the missing shard into the folder."
            )
    return weight_map


def _is_plain(name: Any) -> bool:
    """Whether an index may name this file: it is beside the index, on any operating system."""
    return (
        isinstance(name, str)
        and name not in ("", ".", "..")
        and len(name) <= 255
        and name.isprintable()
        and not set(name) & set("/\\:")
    )


def _require_once(folder: Path, known: TensorSpec, spec: TensorSpec) -> None:
    if known is not spec:
        raise BrokenCheckpoint(
            f"{folder}: tensor {brief(spec.name)} is in {known.file} and in {spec.file}.",
            hint="keep only the files of one save in the folder.",
            finding="tensor-twice",
            file=spec.file,
            tensor=spec.name,
        )


def _check_index(
    folder: Path, tensors: Mapping[str, TensorSpec], config: Mapping[str, Any]
) -> None:
    index = folder / INDEX
    if os.path.lexists(folder / SINGLE) or not os.path.lexists(index):
        return
    for tensor, file in _weight_map(index).items():
        if tensor not in tensors and tensor.endswith(HEADS) and is_tied_by_config(config):
            continue  # some trainers list a tied head that they do not store
        if tensor not in tensors or tensors[tensor].file != file:
            raise BrokenCheckpoint(
                f"{index} says that {file} holds tensor {brief(tensor)}, which is not in it.",
                hint="index and shards come from different saves; copy the folder again.",
                finding="index",
                file=INDEX,
                tensor=tensor,
            )

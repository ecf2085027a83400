"""A checkpoint: one Hugging Face folder, opened from its headers alone.

No tensor is read until a fingerprint or a merge asks for it. Every length and offset of a header
is checked against the file before anything is allocated. May import: errors.

Reference: the safetensors format, https://huggingface.co/docs/safetensors.
"""

import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recycler.errors import BrokenCheckpoint, NotFound

# safetensors dtype -> (torch's name, bits per element)
DTYPES = {
    "F64": ("float64", 64),
    "F32": ("float32", 32),
    "F16": ("float16", 16),
    "BF16": ("bfloat16", 16),
    "F8_E4M3": ("float8_e4m3fn", 8),
    "F8_E5M2": ("float8_e5m2", 8),
    "I64": ("int64", 64),
    "I32": ("int32", 32),
    "I16": ("int16", 16),
    "I8": ("int8", 8),
    "U64": ("uint64", 64),
    "U32": ("uint32", 32),
    "U16": ("uint16", 16),
    "U8": ("uint8", 8),
    "BOOL": ("bool", 8),
}
HEADER_LIMIT = 100_000_000  # [B], the format's own limit
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_READ = 1 << 22  # bytes hashed at once


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Where a tensor lies and what it is: dtype as in safetensors, bytes [start, stop) of file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str
    start: int
    stop: int

    @property
    def nbytes(self) -> int:
        return self.stop - self.start

    def __str__(self) -> str:
        return f"{DTYPES[self.dtype][0]}{list(self.shape)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """One Hugging Face folder and what is known of the run that made it.

    Attributes:
        name: unique in its pool.
        path: the folder, absolute.
        tensors: tensor name -> where it lies; sorted by name.
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
        folder = Path(path).expanduser().absolute()
        if not folder.is_dir():
            raise NotFound(
                f"{folder} is not a folder.",
                hint="give the folder that holds config.json and *.safetensors.",
            )
        config = _read_json(folder / "config.json")
        tensors: dict[str, TensorSpec] = {}
        for spec in (spec for file in _weight_files(folder) for spec in read_header(file)):
            _require_once(folder, tensors.setdefault(spec.name, spec), spec)
        _check_index(folder, tensors)
        if not tensors:
            raise BrokenCheckpoint(f"{folder} holds no tensor.", hint="save the model again.")
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
        """Name, size, mtime and inode of each weight file: changes when a file was touched."""
        parts = [str(self.path)]
        for file in sorted({spec.file for spec in self.tensors.values()}):
            try:
                stat = (self.path / file).stat()
            except OSError as error:
                raise BrokenCheckpoint(
                    f"{self.path / file} can't be read any more: {error.strerror}.",
                    hint="the folder changed since it was opened; restore it.",
                ) from error
            parts.append(f"{file}:{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ino}")
        return "|".join(parts)

    def fingerprint(self, on_bytes: Callable[[int], object] = lambda count: None) -> str:
        """Hash of every tensor's name, dtype, shape and bytes; the file layout does not matter.

        Reads all bytes once. A merge with weight 1 on this checkpoint in its own dtype has the
        same digest (`tree_digest` serves both).

        Args:
            on_bytes: called with the number of bytes just read, for progress bars.
        """
        return tree_digest(
            (spec, self._tensor_hash(spec, on_bytes)) for spec in self.tensors.values()
        )

    def _tensor_hash(self, spec: TensorSpec, on_bytes: Callable[[int], object]) -> str:
        sha, left = hashlib.sha256(), spec.nbytes
        with (self.path / spec.file).open("rb") as file:
            file.seek(spec.start)
            while left:
                block = file.read(min(_READ, left))
                if not block:
                    raise BrokenCheckpoint(
                        f"{self.path / spec.file} ended {left} bytes early in tensor "
                        f"{spec.name!r}.",
                        hint="the file changed or was cut while it was read; copy it again.",
                    )
                sha.update(block)
                left -= len(block)
                on_bytes(len(block))
        return sha.hexdigest()


def tree_digest(tensors: Iterable[tuple[TensorSpec, str]]) -> str:
    """One hash over (spec, sha256 of its bytes) of every tensor, in order of their names."""
    root = hashlib.sha256()
    for spec, sha in sorted(tensors, key=lambda pair: pair[0].name):
        root.update(f"{spec.name}\0{spec.dtype}\0{list(spec.shape)}\0{sha}\n".encode())
    return f"sha256:{root.hexdigest()}"


def read_header(file: Path) -> list[TensorSpec]:
    """The tensors of one safetensors file, from its header alone, each checked against the file.

    Raises:
        BrokenCheckpoint: naming the file and, where there is one, the tensor.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            prefix = stream.read(8)
            length = int.from_bytes(prefix, "little")
            if len(prefix) < 8 or length > min(HEADER_LIMIT, size - 8):
                raise BrokenCheckpoint(
                    f"{file} is not a whole safetensors file: header of {length} bytes, file of "
                    f"{size} bytes.",
                    hint="the download or save was cut short, or it is another format; get it again.",
                )
            raw = json.loads(stream.read(length), object_pairs_hook=_no_duplicates)
    except OSError as error:
        raise BrokenCheckpoint(
            f"{file} can't be read: {error.strerror}.", hint="check the path and its permissions."
        ) from error
    except (ValueError, RecursionError) as error:
        raise BrokenCheckpoint(
            f"{file}: its safetensors header is not valid JSON ({error}).",
            hint="the file is damaged or of another format; save or download it again.",
        ) from error
    if not isinstance(raw, dict):
        raise BrokenCheckpoint(f"{file}: its header is not a table.", hint="save it again.")
    data = 8 + length
    specs = [
        _spec(file, name, entry, data, size)
        for name, entry in raw.items()
        if name != "__metadata__"
    ]
    _check_layout(file, specs, data, size)
    return specs


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"key {twice!r} occurs twice")
    "".join(table).encode()  # a ValueError for a lone half of a surrogate pair, which has no bytes
    return table


def _spec(file: Path, name: str, entry: Any, data: int, size: int) -> TensorSpec:
    def broken(what: str) -> BrokenCheckpoint:
        return BrokenCheckpoint(
            f"{file}: tensor {name!r} {what}.",
            hint="the file is damaged; save or download it again.",
        )

    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise broken("lacks dtype, shape or data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise broken(f"has dtype {dtype!r}, expected one of {', '.join(DTYPES)}")
    if not _naturals(shape) or not _naturals(offsets) or len(offsets) != 2:
        raise broken(f"has shape {shape!r} and offsets {offsets!r}, expected whole numbers >= 0")
    start, stop = offsets
    expected = math.prod(shape) * DTYPES[dtype][1] // 8
    if stop - start != expected:
        raise broken(f"has {stop - start} bytes, expected {expected} for {dtype}{shape}")
    if data + stop > size:
        raise broken(f"ends at byte {data + stop}, but the file has {size} bytes")
    return TensorSpec(name, dtype, tuple(shape), file.name, data + start, data + stop)


def _naturals(values: Any) -> bool:
    return isinstance(values, list) and all(type(v) is int and v >= 0 for v in values)


def _check_layout(file: Path, specs: list[TensorSpec], data: int, size: int) -> None:
    end = data
    for spec in sorted(specs, key=lambda spec: (spec.start, spec.stop)):
        if spec.start != end:
            raise BrokenCheckpoint(
                f"{file}: tensor {spec.name!r} begins at byte {spec.start}, expected {end} "
                "(overlap or gap).",
                hint="the file is damaged; save or download it again.",
            )
        end = spec.stop
    if end != size:
        raise BrokenCheckpoint(
            f"{file} has {size} bytes, its header describes {end}.",
            hint="the file is damaged; save or download it again.",
        )


def _weight_files(folder: Path) -> list[Path]:
    """The weight files of a folder, as transformers chooses them: one file, an index, else all."""
    single, index = folder / SINGLE, folder / INDEX
    if single.exists():
        return [single]
    if index.exists():
        return [folder / name for name in sorted(set(_weight_map(index).values()))]
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickles = sorted(file.name for pattern in PICKLES for file in folder.glob(pattern))
        if pickles:
            raise BrokenCheckpoint(
                f"{folder} holds only pickles ({pickles[0]}), which can run code when opened.",
                hint="convert once where you trust it: AutoModelForCausalLM.from_pretrained(folder)"
                ".save_pretrained(folder, safe_serialization=True).",
            )
        raise BrokenCheckpoint(
            f"{folder} holds no *.safetensors.", hint="give a Hugging Face model folder."
        )
    return files


def _weight_map(index: Path) -> dict[str, str]:
    weight_map = _read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise BrokenCheckpoint(f"{index} has no weight_map.", hint="save the model again.")
    for tensor, name in weight_map.items():
        if not isinstance(name, str) or Path(name).name != name or name in ("", ".", ".."):
            raise BrokenCheckpoint(
                f"{index}: tensor {tensor!r} lies in {name!r}, which is not a plain file name.",
                hint="an index may only name files beside it.",
            )
        if not (index.parent / name).is_file():
            raise BrokenCheckpoint(
                f"{index} names {name}, which is not there.",
                hint="copy the missing shard into the folder.",
            )
    return weight_map


def _require_once(folder: Path, known: TensorSpec, spec: TensorSpec) -> None:
    if known is not spec:
        raise BrokenCheckpoint(
            f"{folder}: tensor {spec.name!r} is in {known.file} and in {spec.file}.",
            hint="keep the files of one save in the folder; which one is meant can't be told.",
        )


def _check_index(folder: Path, tensors: Mapping[str, TensorSpec]) -> None:
    index = folder / INDEX
    if not index.exists() or (folder / SINGLE).exists():
        return
    for tensor, file in _weight_map(index).items():
        if tensor not in tensors or tensors[tensor].file != file:
            raise BrokenCheckpoint(
                f"{index} says that {file} holds tensor {tensor!r}, which is not in it.",
                hint="index and shards are of different saves; copy the folder again.",
            )


def _read_json(file: Path) -> dict[str, Any]:
    try:
        table = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BrokenCheckpoint(
            f"{file} is missing.", hint="give a Hugging Face model folder."
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise BrokenCheckpoint(
            f"{file} is not readable JSON ({error}).", hint="copy the file again."
        ) from error
    if not isinstance(table, dict):
        raise BrokenCheckpoint(f"{file} is not a JSON object.", hint="copy the file again.")
    return table

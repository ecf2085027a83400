"""A checkpoint: one Hugging Face folder, opened from its headers alone.

No tensor is read until a fingerprint or a merge asks for it. Every length and offset of a header
is checked against the file before anything is allocated; only regular files (and links to them,
as in the hub's cache) are opened, so that no pipe or device can hang a check. May import: errors.

Reference: the safetensors format, https://huggingface.co/docs/safetensors.
"""

import hashlib
import json
import os
import reprlib
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

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
HEADER_LIMIT = 100_000_000  # [B], the format's own limit; also that of a JSON file
NESTING_LIMIT = 64  # of lists and tables in a JSON file
ADAPTER = "adapter_config.json"
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_READ = 1 << 22  # bytes hashed at once
_FIELDS = {"dtype", "shape", "data_offsets"}
_DAMAGED = "the file is damaged; save or download it again."
_FORMATS = {  # first bytes of what is often called *.safetensors -> (code, what it is, what to do)
    b"\x80": (
        "pickle",
        "a pickle, which can run code when opened",
        "convert it once where you trust it, with save_pretrained(folder, safe_serialization=True).",
    ),
    b"PK\x03\x04": (
        "pickle",
        "a zip archive, as torch.save writes it",
        "convert it once where you trust it, with save_pretrained(folder, safe_serialization=True).",
    ),
    b"GGUF": ("format", "a GGUF file", "get the safetensors files of the model."),
    b"version ": (
        "lfs-pointer",
        "a Git LFS pointer, not the file it points to",
        "run `git lfs pull` in the folder.",
    ),
    b"<!DOCTYP": ("format", "a web page", "download the file again; a login may be needed."),
}
_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = 160
_repr.maxlist = 12
brief = _repr.repr  # repr(), cut short: names and numbers in a damaged file may be of any length


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
        folder = absolute(path)
        if not _is_folder(folder):
            raise NotFound(
                f"{folder} is not a folder.",
                hint="give the folder that holds config.json and *.safetensors.",
            )
        _refuse_adapter(folder)
        config = read_json(folder / "config.json")
        tensors: dict[str, TensorSpec] = {}
        for spec in (spec for file in _weight_files(folder) for spec in read_header(file)):
            _require_once(folder, tensors.setdefault(spec.name, spec), spec)
        _check_index(folder, tensors)
        if not tensors:
            raise BrokenCheckpoint(
                f"{folder} holds no tensor.", hint="save the model again.", code="empty"
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
        """Name, size, mtime and inode of each weight file: changes when a file was touched."""
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
        """Read tensors inside: the files must be those that were opened, and stay as they are.

        Raises:
            BrokenCheckpoint: a header is another one than when the checkpoint was opened, or a
                file was touched before the block ended.
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
            hint="wait until whatever writes it is done, then run this again.",
            code="changed",
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


def tree_digest(tensors: Iterable[tuple[TensorSpec, str]]) -> str:
    """One hash over (spec, sha256 of its bytes) of every tensor, in order of their names."""
    root = hashlib.sha256()
    for spec, sha in sorted(tensors, key=lambda pair: pair[0].name):
        root.update(f"{spec.name}\0{spec.dtype}\0{list(spec.shape)}\0{sha}\n".encode())
    return f"sha256:{root.hexdigest()}"


def ended_early(checkpoint: Checkpoint, spec: TensorSpec, missing: int) -> BrokenCheckpoint:
    """The error for a file that ends `missing` bytes before its tensor does."""
    return BrokenCheckpoint(
        f"{checkpoint.path / spec.file} ended {missing} bytes early in tensor {spec.name!r}.",
        hint="the file changed or was cut while it was read; copy it again.",
        code="truncated",
        file=spec.file,
        tensor=spec.name,
    )


def absolute(path: str | os.PathLike[str]) -> Path:
    """The absolute path; `~` is the user's folder where there is such a user."""
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError:  # ~nobody
        return Path(path).absolute()


def open_regular(file: Path) -> BinaryIO:
    """Open a regular file, or a link to one, for reading; never waits for a pipe or a device.

    Raises:
        BrokenCheckpoint: it is something else, or can't be read.
    """
    try:
        if stat.S_ISREG(file.stat().st_mode):  # before open: opening a device can have effects
            descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            if stat.S_ISREG(os.fstat(descriptor).st_mode):  # what was opened may be another file
                return os.fdopen(descriptor, "rb")
            os.close(descriptor)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise BrokenCheckpoint(
            f"{file} can't be read: {_why(file, error)}.",
            hint="check the path and its permissions.",
            file=file.name,
        ) from error
    raise BrokenCheckpoint(
        f"{file} can't be read: it is no regular file but a folder, pipe or device.",
        hint="put the file itself there, or a link to it.",
        code="not-a-file",
        file=file.name,
    )


def _why(file: Path, error: Exception) -> str:
    if isinstance(error, FileNotFoundError) and file.is_symlink():
        return f"it is a link to {os.readlink(file)}, which is not there"
    return (error.strerror if isinstance(error, OSError) else "") or str(error)


def read_json(file: Path) -> dict[str, Any]:
    """The table in a JSON file of at most `HEADER_LIMIT` bytes.

    Raises:
        BrokenCheckpoint: it is missing, unreadable, not JSON in UTF-8, not a table, or nests deeper
            than `NESTING_LIMIT`.
    """

    def broken(what: str) -> BrokenCheckpoint:
        return BrokenCheckpoint(
            f"{file} {what}.", hint="copy the file again.", code="json", file=file.name
        )

    if not os.path.lexists(file):
        raise BrokenCheckpoint(
            f"{file} is missing.", hint="give a Hugging Face model folder.", file=file.name
        )
    with open_regular(file) as stream:
        size = os.fstat(stream.fileno()).st_size
        raw = b"" if size > HEADER_LIMIT else stream.read(size)  # sets that much aside at once
    if size > HEADER_LIMIT:
        raise broken(f"has {size} bytes, more than {HEADER_LIMIT}")
    try:
        table = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise broken(f"is not readable JSON ({error})") from error
    if not isinstance(table, dict):
        raise broken("is not a JSON object")
    level: list[Any] = [table]
    for _ in range(NESTING_LIMIT):
        inner = (v.values() if isinstance(v, dict) else v for v in level)
        level = [value for v in inner for value in v if isinstance(value, dict | list)]
    if level:
        raise broken(f"nests deeper than {NESTING_LIMIT} levels")
    return table


def read_header(file: Path) -> list[TensorSpec]:
    """The tensors of one safetensors file, from its header alone, each checked against the file.

    Stricter than the safetensors library, never laxer: what is accepted here it can open. Takes
    memory in proportion to the header, which is never longer than the file.

    Raises:
        BrokenCheckpoint: naming the file and, where there is one, the tensor.
    """
    with open_regular(file) as stream:
        size = os.fstat(stream.fileno()).st_size
        prefix = stream.read(8)
        length = int.from_bytes(prefix, "little")
        raw = stream.read(length) if length <= min(HEADER_LIMIT, size - 8) else b""
    if not raw.lstrip().startswith(b"{"):
        for magic, (code, what, hint) in _FORMATS.items():
            if prefix.startswith(magic):
                raise BrokenCheckpoint(
                    f"{file} is not a whole safetensors file: it is {what}.",
                    hint=hint,
                    code=code,
                    file=file.name,
                )
    if len(raw) < length or len(prefix) < 8:
        raise BrokenCheckpoint(
            f"{file} is not a whole safetensors file: header of {length} bytes, file of "
            f"{size} bytes.",
            hint="the download or save was cut short, or it is another format; get it again.",
            code="truncated",
            file=file.name,
        )
    data = 8 + length
    specs = [
        _spec(file, name, entry, data, size) for name, entry in _parse_header(file, raw).items()
    ]
    _check_layout(file, specs, data, size)
    return specs


def _parse_header(file: Path, raw: bytes) -> dict[str, Any]:
    """Tensor name -> its entry, as JSON has it."""

    def broken(what: str) -> BrokenCheckpoint:
        return BrokenCheckpoint(
            f"{file}: its safetensors header {what}.",
            hint="the file is damaged or of another format; save or download it again.",
            code="header",
            file=file.name,
        )

    try:
        table = json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=_no_duplicates,
            parse_int=_integer,
            parse_constant=_no_constant,
        )
    except (ValueError, RecursionError) as error:
        raise broken(f"is not valid JSON ({error})") from error
    if not isinstance(table, dict):
        raise broken("is not a table")
    metadata = table.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise broken("has __metadata__ that does not map names to texts")
    return table


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"key {brief(twice)} occurs twice")
    "".join(table).encode()  # a ValueError for a lone half of a surrogate pair, which has no bytes
    return table


def _integer(digits: str) -> int:
    if len(digits) > 20 or digits == "-0":  # 2**64 has 20 digits; -0 is a float to the format
        raise ValueError(f"number {brief(digits)} is no 64-bit whole number")
    return int(digits)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _spec(file: Path, name: str, entry: Any, data: int, size: int) -> TensorSpec:
    def broken(what: str, code: str = "header", hint: str = _DAMAGED) -> BrokenCheckpoint:
        return BrokenCheckpoint(
            f"{file}: tensor {brief(name)} {what}.",
            hint=hint,
            code=code,
            file=file.name,
            tensor=name,
        )

    if not isinstance(entry, dict) or not entry.keys() >= _FIELDS:
        raise broken("lacks dtype, shape or data_offsets")
    if unknown := sorted(entry.keys() - _FIELDS):
        raise broken(f"has the unknown field {brief(unknown[0])}")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise broken(
            f"has dtype {brief(dtype)}, expected one of {', '.join(DTYPES)}",
            "dtype-unknown",
            "packed and unknown dtypes can't be merged; save the model in bfloat16 or float32.",
        )
    if not _naturals(shape) or not _naturals(offsets) or len(offsets) != 2:
        raise broken(
            f"has shape {brief(shape)} and offsets {brief(offsets)}, expected whole numbers >= 0"
        )
    start, stop = offsets
    expected = _elements(shape) * DTYPES[dtype][1] // 8
    if stop - start != expected:
        raise broken(
            f"has {stop - start} bytes, expected {expected} for {dtype}{brief(shape)}", "layout"
        )
    if data + stop > size:
        raise broken(f"ends at byte {data + stop}, but the file has {size} bytes", "truncated")
    return TensorSpec(name, dtype, tuple(shape), file.name, data + start, data + stop)


def _naturals(values: Any) -> bool:
    return isinstance(values, list) and all(type(v) is int and 0 <= v < 1 << 64 for v in values)


def _elements(shape: list[int]) -> int:
    """The product of a shape, or some number beyond 64 bits where it (without zeros) is one."""
    count = 1
    for length in shape:
        count *= length or 1
        if count >> 64:
            return count
    return 0 if 0 in shape else count


def _check_layout(file: Path, specs: list[TensorSpec], data: int, size: int) -> None:
    end = data
    for spec in sorted(specs, key=lambda spec: (spec.start, spec.stop)):
        if spec.start != end:
            raise BrokenCheckpoint(
                f"{file}: tensor {brief(spec.name)} begins at byte {spec.start}, expected {end} "
                "(overlap or gap).",
                hint=_DAMAGED,
                code="layout",
                file=file.name,
                tensor=spec.name,
            )
        end = spec.stop
    if end != size:
        raise BrokenCheckpoint(
            f"{file} has {size} bytes, its header describes {end}.",
            hint=_DAMAGED,
            code="truncated" if size < end else "layout",
            file=file.name,
        )


def _is_folder(folder: Path) -> bool:
    try:
        return folder.is_dir()
    except (OSError, ValueError):  # a name that is too long
        return False


def _files(folder: Path) -> list[str]:
    """Names in a folder, sorted."""
    try:
        return sorted(os.listdir(folder))
    except OSError as error:
        raise BrokenCheckpoint(
            f"{folder} can't be read: {error.strerror}.", hint="check its permissions."
        ) from error


def _refuse_adapter(folder: Path) -> None:
    names = _files(folder)
    whole = [n for n in names if n.endswith(".safetensors") and not n.startswith("adapter_")]
    if ADAPTER in names and not whole:
        raise BrokenCheckpoint(
            f"{folder} holds a LoRA adapter, not a whole model.",
            hint="merge it into its base first: PeftModel.from_pretrained(base, folder)"
            ".merge_and_unload().save_pretrained(other_folder).",
            code="adapter",
            file=ADAPTER,
        )


def _weight_files(folder: Path) -> list[Path]:
    """The weight files of a folder, as transformers chooses them: one file, an index, else all.

    Links count where their target does not exist, so that a half-emptied cache is named, not
    passed over.
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
            code="pickle",
            file=pickles[0],
        )
    if not files:
        raise BrokenCheckpoint(
            f"{folder} holds no *.safetensors.",
            hint="give a Hugging Face model folder.",
            code="empty",
        )
    return [folder / name for name in files]


def _weight_map(index: Path) -> dict[str, str]:
    def broken(what: str, hint: str, tensor: str = "") -> BrokenCheckpoint:
        return BrokenCheckpoint(
            f"{index}{what}.", hint=hint, code="index", file=index.name, tensor=tensor
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
    """Whether an index may name it: a file beside the index, on any operating system."""
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
            hint="keep the files of one save in the folder; which one is meant can't be told.",
            code="tensor-twice",
            file=spec.file,
            tensor=spec.name,
        )


def _check_index(folder: Path, tensors: Mapping[str, TensorSpec]) -> None:
    index = folder / INDEX
    if os.path.lexists(folder / SINGLE) or not os.path.lexists(index):
        return
    for tensor, file in _weight_map(index).items():
        if tensor not in tensors or tensors[tensor].file != file:
            raise BrokenCheckpoint(
                f"{index} says that {file} holds tensor {brief(tensor)}, which is not in it.",
                hint="index and shards are of different saves; copy the folder again.",
                code="index",
                file=INDEX,
                tensor=tensor,
            )

"""Headers of safetensors files, and JSON files; lengths are checked before memory is allocated.

Only regular files (and links to them, as in the hub's cache) are opened, so that no pipe or device
can hang a check.
Reference: the safetensors format, https://huggingface.co/docs/safetensors.
"""

import hashlib
import json
import math
import os
import reprlib
import stat
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from recycler.beneath import open_beneath
from recycler.errors import BrokenCheckpoint

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
HEADER_LIMIT = 100_000_000  # the format's own limit; also used for JSON files [B]
NESTING_LIMIT = 64  # of lists and tables in a JSON file
_FIELDS = {"dtype", "shape", "data_offsets"}
_DAMAGED = "the file is damaged; save or download it again."
_FORMATS = {  # first bytes of files misnamed *.safetensors -> (code, what it is, what to do)
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
brief = _repr.repr  # repr(), cut short: values in a damaged file may be of any length


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Where a tensor is stored, and as what: safetensors' dtype, bytes [start, stop) of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str
    start: int
    stop: int

    @property
    def nbytes(self) -> int:
        return self.stop - self.start

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def is_float(self) -> bool:
        """Whether it holds floats; other tensors (position ids, masks) are never summed."""
        return self.dtype.startswith(("F", "BF"))

    def __str__(self) -> str:
        return f"{DTYPES[self.dtype][0]}{list(self.shape)}"


def tree_digest(tensors: Iterable[tuple[TensorSpec, str]]) -> str:
    """One hash over (spec, sha256 of its bytes) of every tensor, sorted by name."""
    root = hashlib.sha256()
    for spec, sha in sorted(tensors, key=lambda pair: pair[0].name):
        root.update(f"{spec.name}\0{spec.dtype}\0{list(spec.shape)}\0{sha}\n".encode())
    return f"sha256:{root.hexdigest()}"


def open_regular(file: Path) -> BinaryIO:
    """Open a regular file, or a link to one, for reading; never blocks on a pipe or a device.

    Raises:
        BrokenCheckpoint: it is something else, or can't be read.
    """
    try:
        if stat.S_ISREG(file.stat().st_mode):  # before open: opening a device can have effects
            descriptor = open_beneath(file, os.O_RDONLY | os.O_NONBLOCK)
            if stat.S_ISREG(os.fstat(descriptor).st_mode):  # the path may be another file now
                return os.fdopen(descriptor, "rb")
            os.close(descriptor)
    except (OSError, ValueError) as error:  # ValueError: the path contains a NUL
        raise BrokenCheckpoint(
            f"{file} can't be read: {_why(file, error)}.",
            hint="check the path and its permissions.",
            file=file.name,
        ) from error
    raise BrokenCheckpoint(
        f"{file} can't be read: it is no regular file but a folder, pipe or device.",
        hint="put the file itself there, or a link to it.",
        finding="not-a-file",
        file=file.name,
    )


def _why(file: Path, error: Exception) -> str:
    if isinstance(error, FileNotFoundError) and file.is_symlink():
        return f"it is a link to {os.readlink(file)}, which is not there"
    return (error.strerror if isinstance(error, OSError) else "") or str(error)


def read_json(file: Path) -> dict[str, Any]:
    """The table in a JSON file of at most `HEADER_LIMIT` bytes.

    Raises:
        BrokenCheckpoint: it is missing, unreadable, not UTF-8 JSON, not a table, or nested deeper
            than `NESTING_LIMIT`.
    """

    def broken(what: str) -> BrokenCheckpoint:
        return BrokenCheckpoint(
            f"{file} {what}.", hint="copy the file again.", finding="json", file=file.name
        )

    if not os.path.lexists(file):
        raise BrokenCheckpoint(
            f"{file} is missing.", hint="give a Hugging Face model folder.", file=file.name
        )
    with open_regular(file) as stream:
        size = os.fstat(stream.fileno()).st_size
        raw = b"" if size > HEADER_LIMIT else stream.read(size)  # allocates this much at once
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

    Stricter than the safetensors library, never laxer: it can open whatever is accepted here.
    Memory is proportional to the header, which is never longer than the file.

    Raises:
        BrokenCheckpoint: the message names the file and, if there is one, the tensor.
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
                    finding=code,
                    file=file.name,
                )
    if len(raw) < length or len(prefix) < 8:
        raise BrokenCheckpoint(
            f"{file} is not a whole safetensors file: header of {length} bytes, file of "
            f"{size} bytes.",
            hint="the download or save was truncated, or it is another format; get it again.",
            finding="truncated",
            file=file.name,
        )
    data = 8 + length
    specs = [
        _spec(file, name, entry, data, size) for name, entry in _parse_header(file, raw).items()
    ]
    _check_layout(file, specs, data, size)
    return specs


def _parse_header(file: Path, raw: bytes) -> dict[str, Any]:
    """Tensor name -> its entry in the JSON header."""

    def broken(what: str) -> BrokenCheckpoint:
        return BrokenCheckpoint(
            f"{file}: its safetensors header {what}.",
            hint="the file is damaged or of another format; save or download it again.",
            finding="header",
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
    "".join(table).encode()  # ValueError for a lone surrogate, which can't be encoded
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
            finding=code,
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
    """The product of a shape, or some number beyond 64 bits if the product without zeros is one."""
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
                finding="layout",
                file=file.name,
                tensor=spec.name,
            )
        end = spec.stop
    if end != size:
        raise BrokenCheckpoint(
            f"{file} has {size} bytes, its header describes {end}.",
            hint=_DAMAGED,
            finding="truncated" if size < end else "layout",
            file=file.name,
        )

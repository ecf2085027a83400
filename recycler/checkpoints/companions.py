"""Which files of a checkpoint are copied with a merge: all but weights, training state and cards.

Tokenizers, processors, chat templates, remote code: whatever the donor needs to load, its merge
needs too, whatever the file is called. Files left behind are listed with the reason.
"""

import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from recycler.beneath import listed
from recycler.checkpoints.folder import INDEX, Checkpoint
from recycler.errors import BrokenCheckpoint

MAX_BYTES = 256_000_000  # the largest tokenizers have 40 MB; larger files are hardly settings

_FORMATS = (
    r"safetensors|bin|pt|pth|ckpt|h5|hdf5|keras|msgpack|gguf|ggml|onnx|onnx_data|ot|pb|tflite"
    r"|mlmodel|pdparams|nemo|engine|pkl|pickle|joblib|distcp|incomplete|lock"
)
_WEIGHTS = re.compile(
    rf".*\.({_FORMATS})([._-]?(data|part|shard|tmp|\d)[\w.-]*)?|(model|weights|params)[\w.-]*\.npz"
)
_LEFT_FILES = (  # the first match counts; names in lower case
    (re.compile(r"(adapter_config\.json|adapter_model\..*)"), "an adapter's"),
    (re.compile(r".*\.index(\.[\w-]+)?\.json"), "an index of weights"),
    (
        re.compile(
            r"(optimizer|scheduler|rng_state|training_args|zero_to_fp32)\b.*"
            r"|(rng_state|random_states|optimizer|scheduler)_\d.*|trainer_(state|log).*|latest"
            r"|(all|train|eval|predict|test)_results.*\.json|.*\.tfevents\..*|\.metadata"
        ),
        "state of a training",
    ),
    (_WEIGHTS, "weights or pickles"),
    (
        re.compile(
            r"recycler\.json|recipe\.yaml|mergekit.*\.ya?ml|readme(\..*)?|front\.png|model_?card\.(md|txt)"
        ),
        "speaks of the donor's own weights",
    ),
)
_LEFT_FOLDERS = (
    (
        re.compile(
            r"checkpoint-\d+|global_step\d+|optimizer_\d+|pytorch_model_fsdp_\d+|runs|wandb"
        ),
        "state of a training",
    ),
    (re.compile(r"\..*|__pycache__"), "a hidden folder"),
)
# Files that loaders ask for by name: copied even through a link that leads elsewhere.
_BY_NAME = re.compile(
    r"(tokenizer|special_tokens_map|added_tokens|vocab|merges|spiece|sentencepiece|spm|tekken"
    r"|chat_template|preprocessor_config|processor_config|video_preprocessor_config"
    r"|generation_config|normalizer|image_processor_config|feature_extractor_config)"
    r"[\w.-]*\.(json|txt|model|jinja|tiktoken)"
)


@dataclass(frozen=True, slots=True)
class Companions:
    """Files that are copied with a merge, and those that are not.

    Attributes:
        taken: name in the folder, with slashes -> the regular file to copy.
        left: name in the folder -> why it is left; the merged weight files are not listed.
    """

    taken: dict[str, Path]
    left: dict[str, str]


def companions(donor: Checkpoint) -> Companions:
    """Sort the files of the donor's folder into those copied with a merge and those left behind.

    Raises:
        BrokenCheckpoint: the folder can't be listed.
    """
    taken: dict[str, Path] = {}
    left: dict[str, str] = {}
    merged = {Path(spec.file).name for spec in donor.tensors.values()}
    for name, file, why in _walk(donor.path, PurePosixPath()):
        if why:
            left[name] = why
        elif name in merged or name == "config.json":
            continue  # written by the merge itself
        elif reason := _reason(donor.path, name, file):
            left[name] = reason
        else:
            taken[name] = file.resolve()
    left.pop(INDEX, None)  # no loss: the merge writes its own if it needs one
    return Companions(taken, left)


def _walk(root: Path, below: PurePosixPath) -> Iterator[tuple[str, Path, str]]:
    """Every file below a folder, and every folder that is not entered, with the reason."""
    for path in _listed(root / below):
        name = str(below / path.name)
        if not path.is_dir():
            yield name, path, ""
        elif why := _folder_reason(path):
            yield f"{name}/", path, why
        else:
            yield from _walk(root, PurePosixPath(name))


def _listed(folder: Path) -> list[Path]:
    try:
        return [folder / name for name in listed(folder)]
    except OSError as error:
        raise BrokenCheckpoint(
            f"{folder} can't be listed: {error.strerror}.",
            hint="make the folder readable; its tokenizer and settings are copied with a merge.",
        ) from error


def _folder_reason(folder: Path) -> str:
    """Why a folder is not entered; empty if it is."""
    if folder.is_symlink():
        return "a link to a folder"
    for pattern, why in _LEFT_FOLDERS:
        if pattern.fullmatch(folder.name.lower()):
            return why
    names = {file.name.lower() for file in _listed(folder)}
    if "config.json" in names and any(_WEIGHTS.fullmatch(name) for name in names):
        return "a model of its own"
    return ""


def _reason(root: Path, name: str, file: Path) -> str:
    """Why a file is left behind; empty if it is copied."""
    base = file.name.lower()
    if not base.endswith(".py") or base == "zero_to_fp32.py":
        for pattern, why in _LEFT_FILES:
            if pattern.fullmatch(base):
                return why
    try:
        about = file.stat()
    except OSError:
        return "a link that leads nowhere" if file.is_symlink() else "unreadable"
    if not stat.S_ISREG(about.st_mode):
        return "not a regular file"
    if about.st_size > MAX_BYTES:
        return f"larger than {MAX_BYTES // 1_000_000} MB"
    if file.is_symlink() and not _BY_NAME.fullmatch(base) and not _inside(root, file.resolve()):
        return f"a link to {file.resolve()}, outside the checkpoint"
    return ""


def _inside(root: Path, target: Path) -> bool:
    """Whether a link stays in the checkpoint, or in the cache entry whose snapshot it is.

    The Hugging Face cache has `models--ORG--NAME/snapshots/REVISION/FILE -> ../../blobs/HASH`.
    """
    root = root.resolve()
    homes = [root]
    if root.parent.name == "snapshots":
        homes.append(root.parent.parent / "blobs")
    return any(target.is_relative_to(home) for home in homes)

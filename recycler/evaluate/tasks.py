"""Load lm-eval tasks by name, and read their config; the only module that uses lm-eval internals.

`lm_eval.tasks.TaskManager` reads folders (includes, helpers, groups, tags, subfolders). Data paths
are relative to the task's YAML file, then to the files it includes, then to the study file.
"""

import functools
import inspect
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from lm_eval.api.registry import get_aggregation
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from recycler.errors import InvalidConfig, NotFound

# Aggregations that `evaluate.aggregates` knows by name; others are treated in general.
KNOWN_AGGREGATIONS = (
    "mean",
    "nanmean",
    "perplexity",
    "weighted_perplexity",
    "bits_per_byte",
    "brier_score",
    "bypass",
)
_NOT_CONTENT = ("tag", "task_alias", "dataset_kwargs", "dataset_path", "metadata")


@dataclass(frozen=True, slots=True)
class LoadedTask:
    """An lm-eval task and the folder of its YAML file."""

    task: Any
    home: Path


def load_tasks(
    names: Iterable[str], folder: Path | None, root: Path, allow_unsafe: bool
) -> dict[str, LoadedTask]:
    """Load tasks by name.

    Args:
        names: names of tasks, not of groups or tags.
        folder: folder as for `lm_eval --include_path`; None: lm-eval's own tasks.
        root: folder of the study file, for relative data paths.
        allow_unsafe: whether tasks may run code that a model writes.

    Raises:
        NotFound: no such task, folder or data file.
        InvalidConfig: a group or tag, unsafe code without consent, or a task that fails to load.
    """
    level = os.environ.get("LMEVAL_LOG_LEVEL", "ERROR")  # which lm-eval's own loggers ignore
    logging.getLogger("lm_eval").setLevel(level.upper())
    names = sorted(set(names))
    if folder is not None and not folder.is_dir():
        raise NotFound(f"task folder {folder} is not there.", hint="check `evaluator.tasks`.")
    manager = _manager(names, folder)
    return {name: _load(manager, name, folder, root, allow_unsafe) for name in names}


def _manager(names: Sequence[str], folder: Path | None) -> TaskManager:
    """Index the folder; lm-eval's own tasks, which take seconds, are added only if needed."""
    if folder is not None:
        manager = TaskManager(include_path=str(folder), include_defaults=False)
        if set(names) <= set(manager.all_tasks):
            return manager
        return TaskManager(include_path=str(folder))
    return _own()


@functools.cache
def _own() -> TaskManager:
    """The index of lm-eval's own tasks, read once a process."""
    return TaskManager()


def _load(
    manager: TaskManager, name: str, folder: Path | None, root: Path, allow_unsafe: bool
) -> LoadedTask:
    if name in manager.all_groups or name in manager.all_tags:
        raise _group(manager, name)
    if name not in manager.all_subtasks:
        raise _unknown(manager, name, folder)
    file = Path(manager.task_index[name].yaml_path)
    if folder is not None:
        _require_one(name, folder)
    if load_yaml(file, resolve_func=False).get("unsafe_code") and not allow_unsafe:
        raise _unsafe(name)
    if allow_unsafe:  # required by the metric; the study file has consented
        os.environ["HF_ALLOW_CODE_EVAL"] = "1"
    try:
        config = load_yaml(file)
        homes = [file.parent, *_includes(file), root]
        task = manager.load([_located(config, homes, name)])["tasks"][name]
    except (NotFound, InvalidConfig):
        raise
    except Exception as error:  # a task's code and its data loader may raise anything
        if isinstance(error, OSError) and (wanted := _dataset(file)):
            raise _no_data(name, wanted, error) from error
        raise InvalidConfig(
            f"task {name!r} can't be loaded: {type(error).__name__}: {error}.",
            hint=f"check {file.name} with `lm_eval validate --tasks {name}`; data that is not on "
            "this machine must be downloaded first.",
        ) from error
    if getattr(task, "UNSAFE_CODE", False) and not allow_unsafe:
        raise _unsafe(name)
    if getattr(task, "MULTIMODAL", False):
        raise InvalidConfig(
            f"task {name!r} has images or sound; recycler supports text only.",
            hint="use a task of text, or write an evaluator of `kind: python`.",
        )
    return LoadedTask(task, file.parent)


def _dataset(file: Path) -> list[str]:
    """Path and name of the dataset that a task wants from the hub; empty if it has its own data."""
    config = load_yaml(file, resolve_func=False)
    path, name = config.get("dataset_path"), config.get("dataset_name")
    local = not isinstance(path, str) or Path(path).expanduser().is_absolute()
    if local or (config.get("dataset_kwargs") or {}).get("data_files"):
        return []
    return [str(path), *([str(name)] if name else [])]


def _no_data(name: str, dataset: Sequence[str], error: OSError) -> NotFound:
    said = f", {dataset[1]!r}" if len(dataset) > 1 else ""
    return NotFound(
        f"task {name!r}: its dataset {dataset[0]!r}{said} is not on this machine "
        f"({' '.join(str(error).split())[:200]}).",
        hint='fetch it once with a network and the same HF_HOME: python -c "from datasets '
        f'import load_dataset; load_dataset({", ".join(map(repr, dataset))})". recycler itself '
        "downloads nothing, unless HF_HUB_OFFLINE=0 and HF_DATASETS_OFFLINE=0 are set.",
    )


def _require_one(name: str, folder: Path) -> None:
    """Raise unless one file of the folder defines the task; lm-eval takes the first of several."""
    said = [f for f in sorted(folder.rglob("*.yaml")) if name.encode() in f.read_bytes()]
    found = [str(file.relative_to(folder)) for file in said if _name_in(file) == name]
    if len(found) > 1:
        raise InvalidConfig(
            f"{len(found)} files in {folder} define a task {name!r}: {', '.join(found[:8])}.",
            hint="give each task a name of its own, or keep one of the files.",
        )


def _name_in(file: Path) -> Any:
    """The task that a YAML file defines; None if none, or if it can't be read."""
    try:
        return load_yaml(file, resolve_func=False).get("task")
    except (yaml.YAMLError, ValueError, OSError):
        return None


def _unsafe(name: str) -> InvalidConfig:
    return InvalidConfig(
        f"task {name!r} is marked `unsafe_code: true`: it runs what the model writes.",
        hint="run it in a container or on a machine you can lose, and consent in the study file: "
        "`evaluator: {allow_unsafe_code: true}`, or with `recycler init --allow-unsafe-code`.",
    )


def _group(manager: TaskManager, name: str) -> InvalidConfig:
    entry = manager.task_index[name]
    listed = (entry.cfg or {}).get("task") or sorted(entry.tags)
    members = [str(m.get("task", m) if isinstance(m, Mapping) else m) for m in listed]
    shown = ", ".join(members[:8]) + (", …" if len(members) > 8 else "")
    return InvalidConfig(
        f"{name!r} is a {'group' if name in manager.all_groups else 'tag'} of {len(members)} "
        "tasks; an objective is one task.",
        hint=f"give each task that counts an objective of its own: {shown}.",
    )


def _unknown(manager: TaskManager, name: str, folder: Path | None) -> NotFound:
    near = get_close_matches(name, manager.all_subtasks, n=3)
    hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    if folder is None:
        where = "lm-eval"
        hint += "`lm_eval ls tasks` lists them; set `evaluator.tasks` for a folder of your own."
    else:
        where = f"{folder}"
        own = TaskManager(include_path=str(folder), include_defaults=False).all_subtasks
        hint += (
            f"it has: {', '.join(own[:20]) or 'no task'}; lm-eval has no task of that name either."
        )
        hint += "".join(f" {broken}" for broken in _broken(folder))
    return NotFound(f"{where} has no task {name!r}.", hint=hint)


def _broken(folder: Path) -> list[str]:
    """Return a message for each YAML file that lm-eval skips silently."""
    found = []
    for file in sorted(folder.rglob("*.yaml")):
        try:
            load_yaml(file, resolve_func=False)
        except (yaml.YAMLError, ValueError, OSError) as error:
            found.append(f"{file.name} could not be read: {' '.join(str(error).split())}.")
    return found


def _includes(file: Path) -> list[Path]:
    """Return the folders of all files that a task's YAML includes, directly or not."""
    found: list[Path] = []
    listed = load_yaml(file, resolve_func=False, recursive=False).get("include", [])
    for name in [listed] if isinstance(listed, str) else listed:
        other = file.parent / name
        found += [other.parent, *_includes(other)]
    return found


# --- data paths ---


def _located(config: Mapping[str, Any], homes: Sequence[Path], name: str) -> dict[str, Any]:
    """Return a task's config with absolute data paths."""
    made = dict(config)
    kwargs = dict(made.get("dataset_kwargs") or {})
    path = made.get("dataset_path")
    reads = any(kwargs.get(key) for key in ("data_files", "data_dir"))  # so `path` is a builder
    folder = None
    if isinstance(path, str) and ("/" in path or not reads):
        folder = _folder(path, homes, name)
    if folder is not None:
        made["dataset_path"] = str(folder)
    builder = isinstance(path, str) and "/" not in path and folder is None
    if builder and "data_files" in kwargs:
        kwargs["data_files"] = _files(kwargs["data_files"], homes, name)
    if builder and isinstance(kwargs.get("data_dir"), str):
        kwargs["data_dir"] = str(_folder(f"./{kwargs['data_dir']}", homes, name))
    if kwargs:
        made["dataset_kwargs"] = kwargs
    return made


def _folder(path: str, homes: Sequence[Path], name: str) -> Path | None:
    """Return the local folder or file at `path`; None for a builder or a name on the hub."""
    local = Path(path).expanduser()
    tried = [local] if local.is_absolute() else [home / local for home in homes]
    for found in tried:
        if found.exists():
            return found.resolve()
    if path.startswith((".", "/", "~")):
        raise NotFound(
            f"task {name!r}: there is no data at {path}.",
            hint="paths are relative to the task's YAML file, then to the study file.",
        )
    return None


def _files(files: Any, homes: Sequence[Path], name: str) -> Any:
    if isinstance(files, Mapping):
        return {key: _files(value, homes, name) for key, value in files.items()}
    if isinstance(files, list | tuple):
        return [_files(value, homes, name) for value in files]
    text = str(files)
    if "://" in text:
        return text
    for home in homes:
        pattern = Path(os.path.normpath(home.absolute() / Path(text).expanduser()))
        if pattern.is_file() or any(_matches(pattern)):
            return str(pattern)
    raise NotFound(
        f"task {name!r}: data file {homes[0] / text} is not there.",
        hint="check `data_files` in the task; paths are relative to its YAML file.",
    )


def _matches(pattern: Path) -> Iterable[Path]:
    """Return the files that match a glob pattern."""
    return Path(pattern.anchor).glob(str(pattern.relative_to(pattern.anchor)))


# --- metrics and config ---


def aggregation_of(task: Any, metric: str) -> tuple[str, Callable[[Any], Any]]:
    """Name and function of a metric's aggregation; the name is empty for a custom one.

    A metric that the task does not declare is averaged, as in lm-eval.
    """
    function = task.aggregation().get(metric) or get_aggregation("mean")
    for name in KNOWN_AGGREGATIONS:
        if function is get_aggregation(name):
            return name, function
    return "", function


def declared_metrics(task: Any) -> list[str]:
    """Return the metrics that a task declares in its config or class."""
    return [str(metric) for metric in task.aggregation()]


def higher_is_better(task: Any, metric: str) -> bool | None:
    """Whether a higher metric is better; None if the task does not say."""
    declared = task.higher_is_better()
    found = declared.get(metric)
    if found is None and metric not in declared and len(declared) == 1:
        found = next(iter(declared.values()))  # one function may give several metrics (pass@1 …)
    return found if isinstance(found, bool) else None


def config_of(task: Any) -> Any:
    """Return the task's config as plain data, without data and paths; functions by name."""
    config = {k: v for k, v in vars(task.config).items() if k not in _NOT_CONTENT}
    data = {
        "path": getattr(task, "DATASET_PATH", None),
        "name": getattr(task, "DATASET_NAME", None),
    }
    if data["path"] is None or Path(str(data["path"])).is_absolute():
        data["path"] = "local"
    return _data({**config, "data": data, "class": type(task)})


def helper_files(task: Any) -> list[Path]:
    """Return the Python files of the functions in a task's config and of its class."""
    found = list(_functions(vars(task.config)))
    if type(task).__module__ != "lm_eval.api.task":
        found.append(type(task))
    files = []
    for function in found:
        try:
            files.append(Path(inspect.getfile(function)))
        except TypeError:  # builtins have no file
            continue
    return sorted(set(files))


def _functions(value: Any) -> Iterable[Any]:
    if isinstance(value, functools.partial):
        value = value.func
    if callable(value) and not isinstance(value, Mapping):
        yield value
    elif isinstance(value, Mapping):
        for entry in value.values():
            yield from _functions(entry)
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _functions(entry)
    elif is_dataclass(value):
        yield from _functions(vars(value))


def _data(value: Any) -> Any:
    if isinstance(value, functools.partial):
        return [_data(value.func), _data(value.args), _data(value.keywords)]
    if isinstance(value, Mapping) and not callable(value):
        return {str(key): _data(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_data(entry) for entry in value]
    if is_dataclass(value) and not isinstance(value, type):
        return _data(vars(value))
    if isinstance(value, str | int | float | bool | None):
        return value
    return getattr(value, "__qualname__", type(value).__qualname__)

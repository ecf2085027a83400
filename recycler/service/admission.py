"""Which study documents of requests are accepted: paths below the roots, no code, no hosts.

A request may name what the service's settings list. Nothing in a request is imported, neither a
module nor a folder of tasks.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from recycler.errors import InvalidConfig
from recycler.service.config import ServiceConfig
from recycler.service.problems import Forbidden
from recycler.service.roots import Roots, roots_of

NAME, TEXT = 200, 10_000  # most characters of a name, and of any other text
OVERRIDES = {  # settings of an evaluator that name neither code nor files
    "batch_size",
    "max_length",
    "num_fewshot",
    "apply_chat_template",
    "fewshot_as_multiturn",
}
EXECUTION = {
    "executor",
    "workers",
    "device",
    "keep_answers",
    "gpus",
    "timeout",
    "start_timeout",
}
_DEVICE = re.compile(r"(cpu|cuda|mps|xpu|npu)(:\d{1,3})?")
_NAMED = ("name", "study", "task", "metric", "unit", "cluster")


def admit(document: Mapping[str, Any], config: ServiceConfig) -> dict[str, Any]:
    """The document as the service may work on it: paths are absolute, the evaluator is a known one.

    Args:
        document: content of a study file, as JSON data; its other fields are checked by
            `submit.config.parse_study`, which has to be called after this.
        config: settings of the service.

    Raises:
        Forbidden: it names a path, an evaluator, tasks or an address that the settings do not list.
        InvalidConfig: a field has the wrong type, or a text is too long.
    """
    made: dict[str, Any] = json.loads(json.dumps(document))
    _require_short(made)
    roots = roots_of(config)
    if "pool" in made:
        made["pool"] = _pool(made["pool"], roots)
    if made.get("base"):
        made["base"] = admitted_entry(made["base"], roots, "base")
    if made.get("references"):
        made["references"] = [
            _reference(entry, roots) for entry in _listed(made["references"], "references")
        ]
    made["evaluator"] = _evaluator(made.get("evaluator") or {}, config)
    if "execution" in made:
        made["execution"] = admit_execution(made["execution"] or {})
    return made


def admit_arguments(arguments: Mapping[str, Any], config: ServiceConfig) -> dict[str, Any]:
    """The arguments of an operation as the service may work on them.

    Every operation passes here when it is asked for, and again when its process begins.

    Raises:
        Forbidden, NotFound, InvalidConfig: see `admit`, `admit_execution` and `Roots.resolve`.
    """
    made, roots = dict(arguments), roots_of(config)
    if made.get("document") is not None:
        made["document"] = admit(made["document"], config)
    if made.get("execution"):
        made["execution"] = admit_execution(made["execution"])
    if made.get("checkpoints"):
        made["checkpoints"] = _pool(made["checkpoints"], roots)
    if made.get("folders"):
        made["folders"] = [str(roots.resolve(path, "checkpoint")) for path in made["folders"]]
    if isinstance(made.get("base"), dict):
        made["base"] = admitted_entry(made["base"], roots, "base")
    elif made.get("base"):
        made["base"] = str(roots.resolve(made["base"], "base"))
    return made


def admitted_entry(entry: Any, roots: Roots, where: str) -> dict[str, Any]:
    """A checkpoint of a pool with its path absolute and below a root.

    Raises:
        Forbidden, NotFound, InvalidConfig: see `Roots.resolve`.
    """
    made = {"path": entry} if isinstance(entry, str) else entry
    if not isinstance(made, dict) or not isinstance(made.get("path"), str):
        raise InvalidConfig(
            f"{where} is {type(entry).__name__}, expected a path or a table with `path`.",
            hint='for example {"name": "sft", "path": "/checkpoints/sft"}.',
        )
    _require_short(made)
    return {**made, "path": str(roots.resolve(made["path"], where))}


def admit_execution(section: Any) -> dict[str, Any]:
    """An `execution:` section that names neither hosts nor code.

    Raises:
        Forbidden: it has other settings than those in EXECUTION, or another executor.
        InvalidConfig: it is no table, or has a device that torch does not know.
    """
    if not isinstance(section, dict):
        raise InvalidConfig(
            f"execution is {type(section).__name__}, expected a table.",
            hint=f"it takes {', '.join(sorted(EXECUTION))}.",
        )
    if other := sorted(section.keys() - EXECUTION):
        raise Forbidden(
            f"execution.{other[0]} can't be set by a request.",
            hint=f"a request may set {', '.join(sorted(EXECUTION))}; the address of a Ray cluster "
            "is `ray_address` in the service's settings.",
        )
    if section.get("executor", "") not in ("", "inline", "ray"):
        raise Forbidden(
            f"executor {section['executor']!r} can't be chosen by a request.",
            hint="use inline or ray, or leave it out.",
        )
    device = section.get("device", "cpu")
    if not isinstance(device, str) or not _DEVICE.fullmatch(device):
        raise InvalidConfig(
            f"execution.device is {device!r}, expected a device of torch.",
            hint="use cpu, cuda or cuda:0.",
        )
    return section


def _pool(pool: Any, roots: Roots) -> Any:
    if isinstance(pool, list):
        return [
            admitted_entry(entry, roots, f"checkpoint number {number}")
            for number, entry in enumerate(pool)
        ]
    if isinstance(pool, str) and (pool.endswith((".yaml", ".yml")) or "/" in pool):
        raise Forbidden(
            f"pool {pool!r} is a file; a request names a registered pool or lists folders.",
            hint="GET /api/v1/pools lists the pools; POST there registers one.",
        )
    return pool


def _reference(entry: Any, roots: Roots) -> Any:
    if not isinstance(entry, dict):
        raise InvalidConfig(
            f"a reference is {type(entry).__name__}, expected a table.",
            hint="give name, and path or weights.",
        )
    if entry.get("recipe"):
        raise Forbidden(
            f"reference {entry.get('name')!r} is a recipe file, which requests can't name.",
            hint="give its weights, or the path of the merged folder.",
        )
    if entry.get("path"):
        return admitted_entry(entry, roots, f"reference {entry.get('name')!r}")
    return entry


def _evaluator(section: Any, config: ServiceConfig) -> dict[str, Any]:
    """The whole section of an evaluator that the settings allow."""
    if not isinstance(section, dict):
        raise InvalidConfig(
            f"evaluator is {type(section).__name__}, expected a table.",
            hint=_known(config),
        )
    own = {key: value for key, value in section.items() if key not in ("name", *OVERRIDES)}
    more = {key: value for key, value in section.items() if key in OVERRIDES}
    if "name" in section:
        made = {**_configured(section["name"], own, config), **more}
    elif config.evaluator_name(section) or _plain(own):
        made = section
    else:
        made = {**_same(own, config), **more}
    if made.get("allow_unsafe_code") and not config.allow_unsafe_code:
        raise Forbidden(
            "evaluator.allow_unsafe_code is true, and this service does not allow it.",
            hint="tasks that run what a model writes need `allow_unsafe_code: true` in the "
            "service's settings.",
        )
    return made


def _plain(own: Mapping[str, Any]) -> bool:
    """Whether it is lm-eval with its own tasks."""
    known = own.keys() <= {"kind", "allow_unsafe_code", "tasks"}
    return known and own.get("kind", "lm-eval") == "lm-eval" and not own.get("tasks")


def _configured(name: Any, own: Mapping[str, Any], config: ServiceConfig) -> dict[str, Any]:
    found = config.evaluators.get(name) if isinstance(name, str) else None
    if found is None:
        raise Forbidden(
            f"there is no evaluator {str(name)[:NAME]!r} in this service.", hint=_known(config)
        )
    if changed := sorted(key for key, value in own.items() if found.get(key) != value):
        raise Forbidden(
            f"evaluator.{changed[0]} differs from the settings of evaluator {name!r}.",
            hint=f"a request may set {', '.join(sorted(OVERRIDES))}.",
        )
    return dict(found)


def _same(own: Mapping[str, Any], config: ServiceConfig) -> dict[str, Any]:
    """The configured section that has all of these settings."""
    for found in config.evaluators.values():
        fixed = {key: value for key, value in found.items() if key not in OVERRIDES}
        if {"kind": "lm-eval", **own} == {"kind": "lm-eval", **fixed}:
            return dict(found)
    what = next((key for key in ("function", "tasks") if own.get(key)), "kind")
    raise Forbidden(
        f"evaluator.{what} is {str(own.get(what, 'lm-eval'))[:NAME]!r}; a request can't bring code "
        "or folders of tasks.",
        hint=_known(config),
    )


def _known(config: ServiceConfig) -> str:
    names = ", ".join(sorted(config.evaluators))
    listed = f'{{"name": N}} with N one of {names}' if names else "none is configured"
    return f"evaluators of this service: {listed}; or leave it out for lm-eval's own tasks."


def _listed(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise InvalidConfig(f"{where} is {type(value).__name__}, expected a list.", hint="use [].")
    return value


def _require_short(table: Any) -> None:
    """Raise InvalidConfig for names and texts that no page or file can show."""
    for key, text in _texts(table, ""):
        most = NAME if key in _NAMED else TEXT
        if len(text) > most or (key in _NAMED and not text.isprintable()):
            raise InvalidConfig(
                f"{key or 'a text'} is {text[:60]!r}…, with {len(text)} characters.",
                hint=f"at most {most} printable characters are taken.",
            )


def _texts(value: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield "name", str(name)
            yield from _texts(inner, str(name))
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner, key)

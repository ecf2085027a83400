"""Settings of the service: a YAML file, or the options of `recycler serve`."""

import os
from pathlib import Path
from typing import Any

from pydantic import Field

from recycler.errors import InvalidConfig
from recycler.settings import Settings, checked
from recycler.yamlfile import read_yaml

HERE = ("127.0.0.1", "::1", "localhost")
SETTINGS = "RECYCLER_SERVICE"  # the settings as JSON, for the processes of operations


class Limits(Settings):
    """Limits of the service.

    Attributes:
        studies: studies (runs, scoutings, tries) that run at once.
        accelerators: workers on accelerators that run at once, over all studies; None: any number.
        operations: other operations that run at once.
        queue: operations that may wait.
        body: largest body of a request [bytes].
        seconds: longest time for receiving a request [s].
        requests: requests per second and client; bursts of ten times as many are let through.
        streams: open event streams, over all clients.
        memory: memory of the service above which it warns [MiB].
    """

    studies: int = Field(2, ge=1)
    accelerators: int | None = Field(None, ge=0)
    operations: int = Field(2, ge=1)
    queue: int = Field(1000, ge=1)
    body: int = Field(2_000_000, ge=1000)
    seconds: float = Field(30.0, gt=0)
    requests: float = Field(50.0, gt=0)
    streams: int = Field(500, ge=1)
    memory: int = Field(200, ge=50)


class ServiceConfig(Settings):
    """Settings of one service.

    Attributes:
        host: address to listen on; anything but this machine's own needs tokens.
        port: port; 0: any free one.
        names: further host names under which clients reach it (the Host header).
        store: ledger: path or database URL; empty: as for every command.
        checkpoints: folders below which checkpoints may lie.
        exports: folder for exports; one folder for each operation is made in it.
        evaluators: name -> `evaluator:` section of a study file, with folders of tasks or functions.
            Requests name them; other folders and functions are refused.
        allow_unsafe_code: whether tasks that execute what a model writes may be used.
        tokens: whether a token is needed also on this machine.
        ray_address: Ray cluster for all studies; empty: each starts its own.
        logs: folder for the logs of operations; empty: beside the ledger or in the exports.
        limits: see `Limits`.
    """

    host: str = "127.0.0.1"
    port: int = Field(8321, ge=0, le=65535)
    names: tuple[str, ...] = Field((), strict=False)
    store: str = ""
    checkpoints: tuple[str, ...] = Field((".",), strict=False)
    exports: str = "exports"
    evaluators: dict[str, dict[str, Any]] = Field(default_factory=dict)
    allow_unsafe_code: bool = False
    tokens: bool = False
    ray_address: str = ""
    logs: str = ""
    limits: Limits = Limits()

    @property
    def needs_tokens(self) -> bool:
        """Whether every request needs a token."""
        return self.tokens or self.host not in HERE

    @property
    def log_folder(self) -> Path:
        """Where the processes of operations write what they print."""
        return Path(self.logs) if self.logs else Path(self.exports) / ".logs"

    def evaluator_name(self, section: dict[str, Any]) -> str:
        """The name of a configured evaluator with exactly these settings; empty if there is none."""
        return next((name for name, known in self.evaluators.items() if known == section), "")


def read_config(file: str | os.PathLike[str]) -> ServiceConfig:
    """Read the settings of a service; its paths are relative to the file's folder.

    Raises:
        NotFound: there is no such file.
        InvalidConfig: a field is wrong.
    """
    path = Path(file)
    table = read_yaml(path, "service file", "start from configs/service.yaml.")
    if not isinstance(table, dict):
        raise InvalidConfig(
            f"{path} {'is empty' if table is None else f'holds {type(table).__name__}'}, expected a "
            "table of settings.",
            hint="start from configs/service.yaml.",
        )
    return placed(checked(ServiceConfig, table, str(path)), path.absolute().parent)


def placed(config: ServiceConfig, home: Path) -> ServiceConfig:
    """The same settings with absolute paths."""

    def absolute(path: str) -> str:
        return str(home / Path(path).expanduser())

    evaluators = {
        name: {
            **section,
            **({"tasks": absolute(section["tasks"])} if section.get("tasks") else {}),
        }
        for name, section in config.evaluators.items()
    }
    named = config.store and "://" not in config.store
    return config.model_copy(
        update={
            "store": absolute(config.store) if named else config.store,
            "checkpoints": tuple(map(absolute, config.checkpoints)),
            "exports": absolute(config.exports),
            "logs": config.logs and absolute(config.logs),
            "evaluators": evaluators,
        }
    )

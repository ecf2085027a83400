"""Reads a YAML file, or says why it can't be read."""

from pathlib import Path
from typing import Any

import yaml

from recycler.errors import InvalidConfig, NotFound


def read_yaml(file: Path, what: str, hint: str) -> Any:
    """The content of a YAML file as plain data.

    Args:
        file: the file.
        what: what the file is, such as `study file`; used in errors.
        hint: what to do if it can't be read.

    Raises:
        NotFound: it is not there, not readable or not text.
        InvalidConfig: it is not valid YAML; the message names line and column.
    """
    try:
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise NotFound(f"{what} {file} can't be read: {reason}.", hint=hint) from error
    except yaml.YAMLError as error:
        raise InvalidConfig(
            f"{file} is not valid YAML: {error}.", hint="fix that line."
        ) from error

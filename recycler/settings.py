"""Base model and checking of settings, such as those of a sampler or an evaluator."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from recycler.errors import InvalidConfig


class Settings(BaseModel):
    """Base of all settings: no unknown names, no type conversion, only finite numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


S = TypeVar("S", bound=BaseModel)


def checked(model: type[S], given: Mapping[str, Any], where: str) -> S:
    """Validate settings against their model.

    Args:
        model: pydantic model of the settings.
        given: settings as the user wrote them.
        where: key in the study file, such as `search.settings`.

    Raises:
        InvalidConfig: an unknown name (the hint has the nearest known one), or an invalid value.
    """
    known = sorted(model.model_fields)
    for name in given if model.model_config.get("extra") == "forbid" else ():
        if name not in known:
            near = get_close_matches(str(name), known, n=1)
            raise InvalidConfig(
                f"{where}: there is no setting {name!r} here.",
                hint=(f"did you mean {near[0]!r}? " if near else "")
                + (f"Known: {', '.join(known)}." if known else "it takes none."),
            )
    try:
        return model.model_validate(dict(given))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, (where, *first["loc"])))
        raise InvalidConfig(
            f"{place}: {first['msg']}, found {first['input']!r}.",
            hint=f"`{where}` takes {', '.join(known)}; the files in configs/ explain them: "
            "template.yaml for studies, service.yaml for the service.",
        ) from error

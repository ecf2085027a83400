"""Routes of trials: the merges of a study."""

from typing import Annotated, Any

from fastapi import APIRouter, Path

from recycler.front.naming import named
from recycler.service.state import Here

router = APIRouter(prefix="/studies/{study}/trials", tags=["trials"])


@router.get("/{trial}")
def show(
    service: Here, study: str, trial: Annotated[str, Path(examples=["17", "pick"])]
) -> dict[str, Any]:
    """Show one trial, by number or name: recipe, scores, digest, timings, failure."""
    results = service.live.results(study)
    return results.trial_json(named(results, trial).number)

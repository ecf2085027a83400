"""Routes of pools: check folders, register, show, remove."""

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from recycler.service.state import By, Here

router = APIRouter(prefix="/pools", tags=["pools"])


class Entry(BaseModel):
    """One checkpoint of a pool; unknown keys are kept as metadata."""

    model_config = ConfigDict(extra="allow")
    name: str = Field("", max_length=100)
    path: str = Field(min_length=1, max_length=4096, examples=["/checkpoints/sft-a"])


class NewPool(BaseModel):
    """A pool to register."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    checkpoints: list[Entry] = Field(min_length=1, max_length=1000)
    base: Entry | None = None
    replace: bool = False


@router.get("")
def list_pools(service: Here) -> dict[str, Any]:
    """List the registered pools."""
    names = service.store.catalog.pools()
    return {"pools": [name for name in names if not name.startswith("study:")]}


@router.get("/{name}")
def show(service: Here, name: str) -> dict[str, Any]:
    """Show the checkpoints of a pool."""
    return {"name": name, **service.store.catalog.pool(name)}


@router.post("", status_code=202)
def register(service: Here, by: By, pool: NewPool) -> dict[str, Any]:
    """Register folders on the server as a pool; returns the operation."""
    return service.ask(by, "register", pool.name, pool.model_dump(mode="json")).to_json()

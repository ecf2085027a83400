"""Routes of pools: check folders, register, show, remove."""

from pathlib import Path
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from recycler.checkpoints.pool import check_folders
from recycler.report.text import check_json
from recycler.service.admission import admitted_entry
from recycler.service.pools import lineage_json, scores_json
from recycler.service.problems import responses
from recycler.service.roots import roots_of
from recycler.service.state import By, Here, Service

router = APIRouter(prefix="/pools", tags=["pools"], responses=responses(404, 409))


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


class Folders(BaseModel):
    """Folders to check."""

    model_config = ConfigDict(extra="forbid")
    folders: list[str] = Field(min_length=1, max_length=1000, examples=[["/checkpoints/sft-a"]])
    base: str | None = None


@router.get("")
def list_pools(service: Here) -> dict[str, Any]:
    """List the registered pools."""
    catalog = service.store.catalog
    rows = []
    for name in catalog.pools():
        if name.startswith("study:"):
            continue
        spec = catalog.pool(name)
        base = spec["base"]["name"] if spec["base"] else None
        rows.append(
            {
                "name": name,
                "checkpoints": [entry["name"] for entry in spec["checkpoints"]],
                "base": base,
                "studies": studies_of(service, name),
            }
        )
    return {"pools": rows}


@router.post("/check")
def check(service: Here, asked: Folders) -> dict[str, Any]:
    """Check from the headers alone whether folders can be merged; as `recycler pool check --json`."""
    folders, base = resolved(service, asked)
    found, findings = check_folders(folders, base)
    return check_json(found, findings, None)


@router.post("/deep-check", status_code=202)
def deep_check(service: Here, by: By, asked: Folders) -> dict[str, Any]:
    """Read every tensor of folders once: NaN, equal bytes, task vectors; returns the operation."""
    folders, base = resolved(service, asked)
    arguments = {
        "folders": [*map(str, folders)],
        "base": str(base) if base else None,
        "deep": True,
    }
    return service.ask(by, "check", "", arguments).to_json()


@router.post("", status_code=202)
def register(service: Here, by: By, pool: NewPool) -> dict[str, Any]:
    """Register folders on the server as a pool; returns the operation."""
    table, roots = pool.model_dump(mode="json"), roots_of(service.config)
    table["checkpoints"] = [
        admitted_entry(entry, roots, "checkpoint") for entry in table["checkpoints"]
    ]
    table["base"] = admitted_entry(table["base"], roots, "base") if table["base"] else None
    return service.ask(by, "register", pool.name, table).to_json()


@router.get("/{pool}")
def show(service: Here, pool: str) -> dict[str, Any]:
    """Show the checkpoints of a pool, and the studies that search them."""
    spec = service.store.catalog.pool(pool)
    return {"name": pool, **spec, "studies": studies_of(service, pool)}


@router.get("/{pool}/check")
def check_pool(service: Here, pool: str) -> dict[str, Any]:
    """Check a registered pool from the headers, with the result of its last deep check."""
    spec = service.store.catalog.pool(pool)
    folders = [Path(entry["path"]) for entry in spec["checkpoints"]]
    base = Path(spec["base"]["path"]) if spec["base"] else None
    found, findings = check_folders(folders, base)
    table = check_json(found, findings, None)
    done = service.store.operations.listed(["done"], kinds=["check"], subject=pool, limit=1)
    if done and done[0].result:
        table["deep"] = done[0].result["deep"]
    return table


@router.post("/{pool}/deep-check", status_code=202)
def deep_check_pool(service: Here, by: By, pool: str) -> dict[str, Any]:
    """Read every tensor of a registered pool once; returns the operation."""
    spec = service.store.catalog.pool(pool)
    base = spec["base"]["path"] if spec["base"] else None
    folders = [entry["path"] for entry in spec["checkpoints"]]
    asked = {"folders": folders, "base": base, "deep": True}
    return service.ask(by, "check", pool, asked).to_json()


@router.get("/{pool}/scores")
def scores(service: Here, pool: str) -> Any:
    """Return the dev scores of the single checkpoints over all studies of the pool."""
    spec = service.store.catalog.pool(pool)
    known = {entry["fingerprint"] for entry in spec["checkpoints"]}
    names = [row["name"] for row in service.store.studies()]
    studies = [service.live.study(name).trials() for name in names]
    own = [s for s in studies if known >= {fingerprint for _, fingerprint in s[0].ingredients}]
    return scores_json([entry["name"] for entry in spec["checkpoints"]], own)


@router.get("/{pool}/lineage")
def origins(service: Here, pool: str) -> dict[str, Any]:
    """Return what each checkpoint was trained from, by the files beside it."""
    return lineage_json(service.store.catalog.pool(pool))


@router.delete("/{pool}")
def remove(service: Here, pool: str) -> dict[str, Any]:
    """Remove a pool from the registry; its folders stay. Refused while a study uses it."""
    service.workspace.remove_pool(pool)
    return {"pool": pool}


def resolved(service: Service, asked: Folders) -> tuple[list[Path], Path | None]:
    """The folders of a request, below the roots. Raises Forbidden or NotFound if one is not."""
    roots = roots_of(service.config)
    base = roots.resolve(asked.base, "base") if asked.base else None
    return [roots.resolve(folder, "folders") for folder in asked.folders], base


def studies_of(service: Service, pool: str) -> list[str]:
    """The studies that search exactly the checkpoints of a pool."""
    spec = service.store.catalog.pool(pool)
    wanted = {(entry["name"], entry["fingerprint"]) for entry in spec["checkpoints"]}
    names = [row["name"] for row in service.store.studies()]
    plans = {name: service.live.study(name).trials()[0] for name in names}
    return [name for name, plan in plans.items() if {*plan.ingredients} == wanted]

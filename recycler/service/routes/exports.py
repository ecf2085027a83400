"""Routes of exports: write a merge as a folder, download it."""

import re
import shutil
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Header
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from recycler.errors import Conflict, NotFound
from recycler.front.naming import named
from recycler.nouns.operation import Operation, OperationState
from recycler.service.archive import Archive
from recycler.service.guard import attachment
from recycler.service.kinds import export_folder
from recycler.service.problems import problem, responses
from recycler.service.state import By, Here, Id, Service

router = APIRouter(tags=["exports"], responses=responses(404, 409))
TAR = "application/x-tar"


class NewExport(BaseModel):
    """What to export."""

    model_config = ConfigDict(extra="forbid")
    trial: str = Field(min_length=1, max_length=200, examples=["pick"])
    donor: str = Field(
        "", max_length=200, description="checkpoint that gives config and tokenizer"
    )


@router.post("/studies/{study}/exports", status_code=202)
def export(service: Here, by: By, study: str, new: NewExport) -> dict[str, Any]:
    """Write a trial as a Hugging Face folder, verified against the ledger; returns the operation."""
    trial = named(service.live.results(study), new.trial)
    asked = {"study": study, "trial": trial.number, "donor": new.donor}
    return service.ask(by, "export", study, asked).to_json()


@router.get("/exports")
def list_exports(service: Here, study: str = "") -> dict[str, Any]:
    """List exports, the newest first, with the size of each that can be downloaded."""
    found = service.store.operations.listed(kinds=["export"], subject=study, limit=1000)
    return {"exports": [_shown(service, operation) for operation in found]}


@router.get(
    "/operations/{id}/archive",
    response_class=Response,
    responses={
        200: {"content": {TAR: {}}, "description": "the folder as a tar stream"},
        206: {"content": {TAR: {}}, "description": "a part of it"},
        416: {"description": "the range lies outside"},
    },
)
def archive(
    service: Here,
    id: Id,
    wanted: Annotated[str, Header(alias="Range", max_length=100)] = "",
    if_range: Annotated[str, Header(alias="If-Range", max_length=200)] = "",
) -> Response:
    """Download an export as an uncompressed tar stream; a download that broke off can go on."""
    operation = _done(service, id)
    packed = Archive.of(_folder(service, operation))
    result: Mapping[str, Any] = operation.result or {}
    mark = f'"{result["digest"]}-{packed.size}"'
    headers = {
        "Accept-Ranges": "bytes",
        "ETag": mark,
        "Content-Disposition": attachment(f"{packed.name}.tar"),
    }
    start, stop, status = 0, packed.size, 200
    if wanted and if_range in ("", mark):
        found = _range(wanted, packed.size)
        if found is None:
            text = f"the range {wanted!r} lies outside of the {packed.size} bytes."
            return problem(416, "range", text, Content_Range=f"bytes */{packed.size}")
        (start, stop), status = found, 206
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{packed.size}"
    headers["Content-Length"] = str(stop - start)
    return StreamingResponse(packed.read(start, stop), status, headers, media_type=TAR)


@router.delete("/exports/{id}")
def delete(service: Here, id: Id) -> dict[str, Any]:
    """Delete the folder of an export from the server."""
    folder = _folder(service, _done(service, id))
    if not folder.exists():
        raise NotFound(f"the folder of export {id} is gone.", hint="nothing is left to do.")
    shutil.rmtree(folder.parent)
    return {"export": id, "deleted": str(folder)}


def _done(service: Service, id: Id) -> Operation:
    operation = service.store.operations.get(id)
    if operation.kind != "export":
        raise NotFound(f"operation {id} is no export.", hint="GET /api/v1/exports lists them.")
    if operation.state != OperationState.DONE:
        raise Conflict(f"export {id} is {operation.state}.", hint="wait until it is done.")
    return operation


def _folder(service: Service, operation: Operation) -> Any:
    asked = operation.arguments
    return export_folder(service.config, operation.id, asked["study"], asked["trial"])


def _shown(service: Service, operation: Operation) -> dict[str, Any]:
    folder = _folder(service, operation)
    there = operation.state == OperationState.DONE and folder.is_dir()
    size = Archive.of(folder).size if there else None
    return {**operation.to_json(), "bytes": size, "folder": str(folder) if there else None}


def _range(wanted: str, size: int) -> tuple[int, int] | None:
    """(start, stop) of a header `Range: bytes=a-b`; None if it lies outside."""
    found = re.fullmatch(r"bytes=(\d*)-(\d*)", wanted.strip())
    if not found or found.groups() == ("", ""):
        return 0, size  # several ranges: the whole is sent, as RFC 9110 allows
    first, last = found.groups()
    if not first:
        start, stop = max(0, size - int(last)), size
    else:
        start, stop = int(first), min(size, int(last) + 1) if last else size
    return (start, stop) if start < stop else None

"""`/v1/experts`: what can be asked; experts come, are replaced and go while others answer."""

from typing import Annotated, Any

from fastapi import Path
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from weft.serving.entries import Entry
from weft.serving.errors import BadInput
from weft.serving.http.reading import router_for
from weft.serving.http.schemas import NAME, OWN_NAME, ExpertEntry, ExpertList, PutRequest

router = router_for("predict")
managing = router_for("manage")

_LONGEST_PART = 255
"""Bytes of a folder's name; systems raise when asked for a longer one."""
Name = Annotated[str, Path(description="NAME, or NAME/TASK", json_schema_extra=NAME)]
OwnName = Annotated[str, Path(description="NAME", json_schema_extra=OWN_NAME)]


@router.get("/v1/experts", response_model=ExpertList, tags=["experts"])
async def experts(request: Request) -> Response:
    """Everything that can be asked."""
    found = await request.app.state.engine.experts()
    return JSONResponse({"experts": [_shown(one) for one in found]})


@router.get("/v1/experts/{name:path}", response_model=ExpertEntry, tags=["experts"])
async def expert(request: Request, name: Name) -> Response:
    """One expert."""
    return JSONResponse(_shown(await request.app.state.engine.entry(name)))


@managing.put("/v1/experts/{name:path}", response_model=ExpertEntry, tags=["experts"])
async def put_expert(request: Request, name: OwnName, body: PutRequest) -> Response:
    """Let an expert in, or replace it; what is under way goes on with the one it began with."""
    folder = body.folder or name
    if max(len(part.encode()) for part in folder.split("/")) > _LONGEST_PART:
        raise BadInput(
            f"folder {folder[:80]!r}...: no system has names that long; give a run folder"
        )
    found = await request.app.state.engine.put(name, folder)
    return JSONResponse(_shown(found))


@managing.delete("/v1/experts/{name:path}", status_code=204, tags=["experts"])
async def remove_expert(request: Request, name: OwnName) -> Response:
    """Take an expert out; its files stay."""
    await request.app.state.engine.remove(name)
    return Response(status_code=204)


def _shown(entry: Entry) -> dict[str, Any]:
    return ExpertEntry.model_validate(entry).model_dump()


router.include_router(managing)

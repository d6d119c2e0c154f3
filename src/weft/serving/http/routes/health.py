"""Whether the server lives, whether it takes work, and its numbers."""

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from weft.serving.errors import Draining, ReplicaLost
from weft.serving.http.reading import router_for
from weft.serving.http.schemas import Health

router = APIRouter()
measured = router_for(None)


@router.get("/healthz", tags=["state"])
async def healthz() -> Health:
    """The process lives."""
    return Health(status="ok")


@router.get("/readyz", tags=["state"])
async def readyz(request: Request) -> Health:
    """It takes requests: 503 once it was asked to stop."""
    state = request.app.state
    load = state.engine.load()
    if state.stopping or load.draining:
        raise Draining("the server was asked to stop; ask another one")
    if not load.replicas:
        raise ReplicaLost("no replica answers at the moment; ask again later")
    return Health(status="ready")


@measured.get("/metrics", tags=["state"], response_class=Response)
async def metrics(request: Request) -> Response:
    """Numbers for Prometheus; any key will do."""
    text = request.app.state.metrics.text()
    return Response(text, media_type="text/plain; version=1.0.0; charset=utf-8")


router.include_router(measured)

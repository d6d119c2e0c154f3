"""The HTTP application: an engine behind a door."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from weft import __version__
from weft.serving.contract import Answering
from weft.serving.errors import ServingError
from weft.serving.http import refusals, routes
from weft.serving.http.door import Door
from weft.serving.http.metrics import Metrics
from weft.serving.http.reading import Bodies
from weft.serving.http.schemas import Refusal
from weft.serving.http.security import Gate, Key
from weft.serving.http.settings import ServerSettings

TITLE = "weft"
_ABOUT = (
    "Experts of different kinds on one base. Errors of all paths have one shape, `Refusal`; every answer has an "
    "`X-Request-ID`, taken over from the request where it has one."
)
_EVERYWHERE = (400, 404, 405, 413, 421, 422, 429, 500, 503, 504)
_BODIES = (408, 415)
_KEYS = (401, 403)
_OPEN = ("/healthz", "/readyz", "/openapi.json", "/docs")
"""Paths that need no key."""


class Application(FastAPI):
    """FastAPI with the door outside of everything, its handling of failures included, and our document."""

    def build_middleware_stack(self) -> Any:
        """The layers of the app, outermost first."""
        return Door(super().build_middleware_stack(), self.state.settings, self.state.metrics)

    def openapi(self) -> dict[str, Any]:
        """The document, with our errors in place of FastAPI's, and keys where they are asked for."""
        if self.openapi_schema is None:
            found = get_openapi(
                title=self.title,
                version=self.version,
                description=self.description,
                routes=self.routes,
            )
            _say_refusals(found, has_keys=not self.state.gate.is_open)
            self.openapi_schema = found
        return self.openapi_schema


def create_app(
    engine: Answering, settings: ServerSettings | None = None, keys: Iterable[Key] = ()
) -> Application:
    """The application that answers for an engine; as an ASGI app any server can run it.

    Its lifespan begins and ends the engine.

    Args:
        engine: Not begun yet.
        settings: Limits of the door.
        keys: Who may ask; without any everybody may do everything.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with engine:
            yield

    app = Application(
        title=TITLE,
        version=__version__,
        description=_ABOUT,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.state.engine = engine
    app.state.settings = settings or ServerSettings()
    app.state.gate = Gate(keys)
    app.state.metrics = Metrics(engine)
    app.state.bodies = Bodies(app.state.settings.max_held_bytes)
    app.state.stopping = False
    for router in _routers():
        app.include_router(router)
    for kind, handler in {
        ServingError: refusals.on_refusal,
        RequestValidationError: refusals.on_invalid,
        HTTPException: refusals.on_http,
        ClientDisconnect: refusals.on_gone,
        Exception: refusals.on_failure,
    }.items():
        app.add_exception_handler(kind, handler)
    return app


def _routers() -> Iterable[APIRouter]:
    names = sorted(file.name for file in iter_modules(routes.__path__))
    return [import_module(f"{routes.__name__}.{name}").router for name in names]


def _say_refusals(found: dict[str, Any], *, has_keys: bool) -> None:
    schemas = found["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    own = Refusal.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas |= own.pop("$defs")
    schemas["Refusal"] = own
    said = {"application/json": {"schema": {"$ref": "#/components/schemas/Refusal"}}}
    if has_keys:
        found["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for path, methods in found["paths"].items():
        for operation in methods.values():
            asks = has_keys and path not in _OPEN
            statuses = [*_EVERYWHERE, *(_BODIES if "requestBody" in operation else ())]
            if asks:
                statuses += _KEYS
                operation["security"] = [{"key": []}]
            answers = operation["responses"]
            answers.pop("422", None)
            for status in sorted(statuses):
                answers[str(status)] = {"description": "Refused.", "content": said}

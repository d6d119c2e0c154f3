"""Every error of the server in one shape, which OpenAI's clients read too.

{"error": {"code": "unknown_expert", "message": "no expert named ...", "type": "invalid_request_error",
           "param": null, "request_id": "..."}}
"""

import math
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from weft.config import Settings
from weft.guard import model_at
from weft.registry import unknown
from weft.serving.errors import Overloaded, ServingError
from weft.serving.http.call import Call
from weft.serving.http.logs import LOG

GONE = 499
"""The status in logs and metrics of a request whose client left, as nginx calls it."""
_MOST_SAID = 3
_SHOWN = 80
_BRANCHES = {"str", "constrained-str", "int", "float", "nullable"}
INTERNAL = "the server failed; its log says where, under the request_id {id}: tell whoever runs it"


class Malformed(ServingError):  # noqa: N818
    """A body that is no JSON."""

    code = "malformed_body"
    status = 400


class WrongHost(ServingError):  # noqa: N818
    """A request for another server's name."""

    code = "wrong_host"
    status = 421


class UnknownPath(ServingError):  # noqa: N818
    """No such route."""

    code = "unknown_path"
    status = 404


class WrongMethod(ServingError):  # noqa: N818
    """A route that takes another method."""

    code = "wrong_method"
    status = 405


class SlowBody(ServingError):  # noqa: N818
    """A body that did not come in time."""

    code = "slow_body"
    status = 408


class WrongType(ServingError):  # noqa: N818
    """A body that does not say that it is JSON."""

    code = "unsupported_type"
    status = 415


class InvalidRequest(ServingError):  # noqa: N818
    """A field that is missing, unknown or of another type."""

    code = "invalid_request"
    status = 422


class RateLimited(Overloaded):
    """More than a key may ask."""

    code = "rate_limited"
    status = 429


def type_of(status: int) -> str:
    """What OpenAI's clients call errors of a status."""
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return "rate_limit_error"
    return "server_error" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error"


def body_of(code: str, status: int, message: str, request_id: str) -> dict[str, Any]:
    """An error as the client gets it."""
    own = {"code": code, "message": message, "type": type_of(status), "param": None}
    return {"error": own | {"request_id": request_id}}


def refusal(error: ServingError, call: Call, headers: Mapping[str, str] | None = None) -> Response:
    """The response that says an error."""
    call.notes["code"] = error.code
    own = dict(headers or {})
    retry_after = getattr(error, "retry_after", None)
    if retry_after is not None:
        own["Retry-After"] = str(max(1, math.ceil(retry_after)))
    if error.status == HTTPStatus.UNAUTHORIZED:
        own["WWW-Authenticate"] = "Bearer"
    body = body_of(error.code, error.status, str(error), call.id)
    return JSONResponse(body, error.status, own)


async def on_refusal(request: Request, error: Exception) -> Response:
    """What the engine or a route refused."""
    assert isinstance(error, ServingError)
    return refusal(error, Call.of(request))


async def on_invalid(request: Request, error: Exception) -> Response:
    """A body or a parameter that is not as the document says."""
    found = getattr(error, "errors")()  # noqa: B009 - FastAPI's own type is known by its handler
    said = sentences(found, _model_of(request))
    return refusal(InvalidRequest(said), Call.of(request))


async def on_http(request: Request, error: Exception) -> Response:
    """What Starlette itself refuses: paths and methods that do not exist."""
    assert isinstance(error, HTTPException)
    call, path = Call.of(request), request.url.path[:_SHOWN]
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = _methods(request) or (error.headers or {}).get("Allow", "")
        said = f"{request.method} {path!r}: this path takes {allowed}; /docs lists all of them"
        return refusal(WrongMethod(said), call, {"Allow": allowed})
    if error.status_code == HTTPStatus.NOT_FOUND:
        return refusal(UnknownPath(f"{path!r} is no path of this server; /docs lists them"), call)
    call.notes["code"] = code = HTTPStatus(error.status_code).name.lower()
    body = body_of(code, error.status_code, str(error.detail), call.id)
    return JSONResponse(body, error.status_code, error.headers)


def _methods(request: Request) -> str:
    """What a path takes; Starlette itself says only what the first of its routes does."""
    found = {
        method.upper()
        for path, methods in request.app.openapi()["paths"].items()
        if re.fullmatch(re.sub(r"\\{\w+\\}", ".+", re.escape(path)), request.url.path)
        for method in methods
    }
    return ", ".join(sorted(found))


async def on_gone(request: Request, error: Exception) -> Response:
    """A client that left before its answer: nobody reads this one."""
    Call.of(request).notes["status"] = GONE
    return Response(status_code=GONE)


async def on_failure(request: Request, error: Exception) -> Response:
    """A mistake of the server's own. What it was is for the log."""
    call = Call.of(request)
    call.notes["code"] = "internal"
    LOG.error("failure", exc_info=error, extra={"fields": {"request_id": call.id}})
    status = HTTPStatus.INTERNAL_SERVER_ERROR
    return JSONResponse(body_of("internal", status, INTERNAL.format(id=call.id), call.id), status)


def sentences(found: Sequence[Any], model: type[Settings] | None) -> str:
    """What is wrong with a request, field by field, the first few.

    Args:
        found: What pydantic says.
        model: What the body should have been, for the names of its fields.
    """
    said = list(dict.fromkeys(_sentence(item, model) for item in found))
    more = len(said) - _MOST_SAID
    return "; ".join([*said[:_MOST_SAID], *([f"and {more} more"] if more > 0 else [])])


def _sentence(item: Any, model: type[Settings] | None) -> str:
    source, *path = map(str, item["loc"])
    # What pydantic calls the branches of a union is no field of the user's.
    fields = [part for part in path if "[" not in part and part not in _BRANCHES]
    place = ".".join([source, *fields])
    if item["type"] == "extra_forbidden" and model is not None:
        return f"{place}: {unknown('field', path[-1], model_at(model, path[:-1]).model_fields)}"
    if item["type"] == "missing":
        return f"{place} is missing; /docs says what it holds"
    return f"{place}: {item['msg']}, got {item.get('input')!r:.{_SHOWN}}"


def _model_of(request: Request) -> type[Settings] | None:
    """The model of the body that the request's route takes."""
    field = getattr(request.scope.get("route"), "body_field", None)
    found = field.field_info.annotation if field is not None else None
    return found if isinstance(found, type) and issubclass(found, Settings) else None

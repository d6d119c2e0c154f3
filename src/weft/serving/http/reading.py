"""Routes that look before they read: first the key, then the kind and size of the body, then its JSON."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from weft.guard import parse_json
from weft.serving.errors import TooLarge
from weft.serving.http.call import Call
from weft.serving.http.refusals import Malformed, SlowBody, WrongType
from weft.serving.http.security import Right
from weft.serving.http.settings import ServerSettings

_JSON = "application/json"
Handler = Callable[[Request], Coroutine[Any, Any, Response]]


def router_for(right: Right | None) -> APIRouter:
    """A router whose routes ask for a key with a right; None: with any right."""

    class Guarded(APIRoute):
        def get_route_handler(self) -> Handler:
            inner, takes_body = super().get_route_handler(), self.body_field is not None

            async def handle(request: Request) -> Response:
                call, state = Call.of(request), request.app.state
                call.caller = state.gate.let_in(request.headers.get("authorization"), right)
                if not takes_body:
                    return await inner(request)
                return await inner(await _read(request, state.settings))

            return handle

    return APIRouter(route_class=Guarded)


class ReadRequest(Request):
    """A request whose body has come and was understood."""

    content: bytes
    value: Any

    async def body(self) -> bytes:
        """The body as it came."""
        return self.content

    async def json(self) -> Any:
        """What it says."""
        return self.value


async def content_of(request: Request, settings: ServerSettings) -> bytes:
    """The body of a request, whatever it is.

    Raises:
        TooLarge: If it is larger than the server takes.
        SlowBody: If it does not come in time.
    """
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            return await _content(request, settings.max_body_bytes)
    except TimeoutError:
        raise SlowBody(
            f"the body took longer than {settings.body_timeout_s:g} s; send it faster, or in smaller requests"
        ) from None


async def _read(request: Request, settings: ServerSettings) -> ReadRequest:
    content = await content_of(request, settings)
    read = ReadRequest(request.scope, request.receive)
    read.content, read.value = content, None
    if not content:
        return read
    kind = request.headers.get("content-type", "")
    if kind.partition(";")[0].strip().lower() != _JSON:
        raise WrongType(f"Content-Type is {kind[:80]!r}, expected {_JSON}; send JSON and say so")
    try:
        read.value = parse_json(content.decode("utf-8"), "body")
    except UnicodeDecodeError as error:
        raise Malformed(f"body: not UTF-8 at byte {error.start}; send JSON as UTF-8") from None
    except ValueError as error:
        raise Malformed(f"{error}; send one JSON object") from None
    return read


async def _content(request: Request, most: int) -> bytes:
    said = request.headers.get("content-length", "")
    too_large = TooLarge(f"a body may have {most} bytes; send fewer inputs in a request")
    if said.isdecimal() and int(said) > most:
        raise too_large
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise too_large
        parts.append(part)
    return b"".join(parts)


async def answered(request: Request, asked: Coroutine[Any, Any, Any]) -> Any:
    """What the engine answers, unless the client leaves before: then its rows leave the queue.

    Raises:
        ClientDisconnect: If it left.
    """
    task, gone = asyncio.ensure_future(asked), asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientDisconnect
    finally:
        for one in (task, gone):
            one.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass

"""Routes that look before they read: first the key, then the kind and size of the body, then its JSON."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from weft.guard import parse_json
from weft.serving.errors import Overloaded, TooLarge
from weft.serving.http.call import Call
from weft.serving.http.refusals import Malformed, SlowBody, WrongType
from weft.serving.http.security import Right
from weft.serving.http.settings import ServerSettings

_JSON = "application/json"
_BUSY_S = 1.0
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
                with state.bodies.held() as body:
                    return await inner(await _read(request, state.settings, body))

            return handle

    return APIRouter(route_class=Guarded)


class Bodies:
    """What the bodies of all requests under way take of memory.

    Args:
        most: Bytes of all together.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._bytes = 0

    @contextmanager
    def held(self) -> Iterator["Held"]:
        """Room for a body, for as long as its request is under way."""
        own = Held(self)
        try:
            yield own
        finally:
            self._bytes -= own.bytes

    def take(self, size: int) -> None:
        """Hold further bytes.

        Raises:
            Overloaded: If there is no room for them.
        """
        if self._bytes + size > self._most:
            raise Overloaded(
                f"requests under way hold {self._bytes} bytes, and all may hold {self._most}; ask again later",
                _BUSY_S,
            )
        self._bytes += size


class Held:
    """What one of them takes."""

    def __init__(self, bodies: Bodies) -> None:
        self.bytes = 0
        self._bodies = bodies

    def take(self, size: int) -> None:
        """Hold further bytes; see `Bodies.take`."""
        self._bodies.take(size)
        self.bytes += size


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


async def content_of(request: Request, settings: ServerSettings, body: Held) -> bytes:
    """The body of a request, whatever it is.

    Raises:
        TooLarge: If it is larger than the server takes.
        SlowBody: If it does not come in time.
        Overloaded: If there is no room for it.
    """
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            return await _content(request, settings.max_body_bytes, body)
    except TimeoutError:
        raise SlowBody(
            f"the body took longer than {settings.body_timeout_s:g} s; send it faster, or in smaller requests"
        ) from None


async def _read(request: Request, settings: ServerSettings, body: Held) -> ReadRequest:
    content = await content_of(request, settings, body)
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


async def _content(request: Request, most: int, body: Held) -> bytes:
    said = request.headers.get("content-length", "")
    too_large = TooLarge(f"a body may have {most} bytes; send fewer inputs in a request")
    if said.isdecimal() and int(said) > most:
        raise too_large
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise too_large
        body.take(len(part))
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

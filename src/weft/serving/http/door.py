"""The outermost layer: every request gets a name, limits, headers, a line in the log and its place in the metrics."""

import asyncio
import time
from collections.abc import MutableMapping
from http import HTTPStatus
from typing import Any, Protocol

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from weft.serving.errors import Overloaded, ServingError
from weft.serving.http.call import ID, Call
from weft.serving.http.logs import LOG
from weft.serving.http.refusals import GONE, WrongHost, refusal
from weft.serving.http.security import HEADERS
from weft.serving.http.settings import ServerSettings

_UNKNOWN = "other"
"""In metrics, whatever path is no route: a stranger's words make no series."""
_BUSY_S = 1.0


class Counters(Protocol):
    """Who counts requests."""

    def begun(self) -> None:
        """One came."""
        ...

    def ended(self, route: str, status: int, seconds: float) -> None:
        """One is done."""
        ...


class Door:
    """ASGI middleware around the whole app.

    Args:
        app: What is behind it.
        settings: Limits.
        counters: Told of each request.
    """

    def __init__(self, app: ASGIApp, settings: ServerSettings, counters: Counters) -> None:
        self._app = app
        self._settings = settings
        self._counters = counters
        self._under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let one request through, or not."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        call, said = Call.begun(scope), _Said()
        out = self._sending(call, said, send)
        self._under_way += 1
        self._counters.begun()
        try:
            refused = self._refused(scope)
            if refused is not None:
                await refusal(refused, call)(scope, receive, out)
            else:
                await self._app(scope, receive, out)
        except _NotTaken:
            # The client does not take its answer: without an end of it the connection is closed.
            said.status = GONE
        finally:
            self._under_way -= 1
            self._end(scope, call, said)

    def _refused(self, scope: Scope) -> ServingError | None:
        """What is wrong with a request before it is read."""
        host = Headers(scope=scope).get("host", "")
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        known = self._settings.hosts
        if known and name.strip("[]").lower() not in known:
            return WrongHost(
                f"{name[:80]!r} is not what this server is called; call it by {' or '.join(known)}, "
                "or start it with --name"
            )
        if self._under_way > self._settings.max_requests and _is_work(scope):
            return Overloaded(
                f"{self._settings.max_requests} requests are under way, as many as this server takes; ask again later",
                _BUSY_S,
            )
        return None

    def _sending(self, call: Call, said: "_Said", send: Send) -> Send:
        async def out(message: Message) -> None:
            if message["type"] == "http.response.start":
                said.status = message["status"]
                headers = MutableHeaders(scope=message)
                headers[ID] = call.id
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            try:
                async with asyncio.timeout(self._settings.send_timeout_s):
                    await send(message)
            except TimeoutError:
                raise _NotTaken from None

        return out

    def _end(self, scope: MutableMapping[str, Any], call: Call, said: "_Said") -> None:
        seconds = time.monotonic() - call.started
        route = getattr(scope.get("route"), "path", _UNKNOWN)
        status = call.notes.pop("status", said.status or GONE)
        self._counters.ended(route, status, seconds)
        fields = {
            "request_id": call.id,
            "method": scope["method"],
            "route": route,
            "status": status,
            "seconds": round(seconds, 6),
            "key": call.caller,
            **call.notes,
            **(call.texts if self._settings.log_texts else {}),
        }
        failed = status >= HTTPStatus.INTERNAL_SERVER_ERROR
        LOG.log(40 if failed else 20, "request", extra={"fields": fields})


class _NotTaken(Exception):  # noqa: N818 - what happened
    """A client left a piece of its answer lying."""


class _Said:
    """The status of a response, once it began."""

    status: int | None = None


def _is_work(scope: Scope) -> bool:
    """Whether a request is more than a look at the server's state."""
    # The page's form asks as much as the paths for programs.
    return scope["path"].startswith("/v1/") or scope["method"] == "POST"

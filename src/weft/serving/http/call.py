"""One request under way: its name, whose it is, and what there is to log of it."""

import re
import time
import uuid
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request

ID = "X-Request-ID"
_SANE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
_PLACE = "weft.call"


@dataclass
class Call:
    """What the layers of the server know of one request.

    Attributes:
        id: Its name: the client's, if that is fit for a log, else a new one.
        started: When it came, by the monotonic clock.
        caller: The name of the key it came with.
        notes: What the log says of it beside its route and status: expert, version, tokens.
        texts: What the log says only where the server is told to log users' texts.
    """

    id: str
    started: float = field(default_factory=time.monotonic)
    caller: str | None = None
    notes: dict[str, Any] = field(default_factory=dict)
    texts: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def begun(cls, scope: MutableMapping[str, Any]) -> "Call":
        """The call of a request that has just come; routes find it by `of`."""
        given = next((v for k, v in scope["headers"] if k == ID.lower().encode()), b"")
        name = given.decode("latin-1")
        call = cls(name if _SANE.fullmatch(name) else uuid.uuid4().hex)
        scope[_PLACE] = call
        return call

    @classmethod
    def of(cls, request: Request) -> "Call":
        """The call that a request is."""
        return request.scope[_PLACE]

"""What routes that ask the engine have in common: deadlines, limits, and what is noted of an answer."""

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import Header
from pydantic import WithJsonSchema
from starlette.requests import Request

from weft.serving.errors import TooLarge
from weft.serving.http.call import Call
from weft.serving.http.refusals import InvalidRequest
from weft.serving.http.settings import ServerSettings

BASE = "base"
"""In place of an expert's name: the base without any."""


def deadline_of(
    request: Request,
    weft_deadline: Annotated[
        float | None,
        Header(
            gt=0,
            allow_inf_nan=False,
            description="Seconds after which an answer is of no use.",
        ),
        # A header is there or not, it is never null.
        WithJsonSchema({"type": "number", "exclusiveMinimum": 0}),
    ] = None,
) -> float:
    """Seconds that a request has: the server's limit, or less if the client says so."""
    most = request.app.state.settings.deadline_s
    return most if weft_deadline is None else min(most, weft_deadline)


def check_room(settings: ServerSettings, inputs: int, max_new_tokens: int | None) -> None:
    """Refuse more than one request may ask for.

    Raises:
        TooLarge: If it has too many inputs.
        InvalidRequest: If it wants too long a continuation.
    """
    if inputs > settings.max_inputs:
        raise TooLarge(
            f"{inputs} inputs, a request may have {settings.max_inputs}; send them in several requests"
        )
    if max_new_tokens is not None and max_new_tokens > settings.max_new_tokens:
        raise InvalidRequest(
            f"{max_new_tokens} tokens to be written, this server writes {settings.max_new_tokens}; ask for fewer"
        )


def note_answer(
    request: Request, expert: str, inputs: int, tokens: int, **more: Mapping[str, Any] | str
) -> None:
    """Count an answer, to the caller's key too, and let the log say whose it was."""
    call, state = Call.of(request), request.app.state
    state.metrics.answered(inputs, tokens)
    state.gate.charge(call.caller, tokens)
    call.notes |= {"expert": expert, "inputs": inputs, "tokens": tokens, **more}

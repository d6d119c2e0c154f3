"""Texts as the engine writes them: collected whole, or sent on as server-sent events."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from starlette.responses import StreamingResponse

from weft.serving.errors import ServingError
from weft.serving.http.refusals import body_of
from weft.serving.streaming import Delta

Prompt = str | list[dict[str, str]]
"""A text, or the messages of a chat."""
DONE = "[DONE]"
"""What OpenAI's streams end with."""


@dataclass
class Written:
    """What came after one prompt.

    Attributes:
        text: Without special tokens and stop texts.
        reason: Why it ended: `stop`, `length`; None while it goes on.
        prompt_tokens: Read.
        tokens: Written.
        expert: Who wrote.
        version: Of who wrote.
        is_begun: Whether anything came.
    """

    text: str = ""
    reason: str | None = None
    prompt_tokens: int = 0
    tokens: int = 0
    expert: str = ""
    version: str = ""
    is_begun: bool = False

    def take(self, delta: Delta) -> None:
        """Add what the engine wrote meanwhile."""
        self.is_begun = True
        self.text += delta.text
        self.reason = delta.finish or self.reason
        self.prompt_tokens = delta.prompt_tokens
        self.tokens = delta.tokens
        self.expert, self.version = delta.expert, delta.version


Start = Callable[[Prompt], AsyncGenerator[Delta]]
"""Has the engine continue a prompt."""


async def collected(start: Start, prompts: Sequence[Prompt]) -> list[Written]:
    """What comes after each prompt, all written at the same time; where one is refused none goes on."""
    tasks = [asyncio.ensure_future(_whole(start(prompt))) for prompt in prompts]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _whole(pieces: AsyncGenerator[Delta]) -> Written:
    written = Written()
    async with aclosing(pieces):
        async for delta in pieces:
            written.take(delta)
    return written


async def streamed(
    start: Start,
    prompts: Sequence[Prompt],
    *,
    event: Callable[[int, Delta, bool], dict[str, Any]],
    last: Callable[[Sequence[Written]], Sequence[dict[str, Any]]],
    request_id: str,
) -> StreamingResponse:
    """A response of server-sent events, one prompt after the other; it begins once the first piece is there.

    Args:
        start: Has the engine continue a prompt.
        prompts: Texts, or chats.
        event: What is said of a piece of the prompt of a number, and of its first.
        last: What is said at the end, told all that was written.
        request_id: For errors on the way.

    Raises:
        ServingError: If the first prompt is refused: as an ordinary error, for nothing was said yet.
    """
    pieces = _pieces(start, prompts)
    first = await anext(pieces)

    async def events() -> AsyncIterator[str]:
        written = [Written() for _ in prompts]
        try:
            async with aclosing(pieces):
                async for number, delta in _after(first, pieces):
                    is_first = not written[number].is_begun
                    written[number].take(delta)
                    yield _said(event(number, delta, is_first))
            for own in last(written):
                yield _said(own)
            yield f"data: {DONE}\n\n"
        except ServingError as error:
            yield _said(body_of(error.code, error.status, str(error), request_id))

    return StreamingResponse(events(), media_type="text/event-stream")


async def _pieces(start: Start, prompts: Sequence[Prompt]) -> AsyncGenerator[tuple[int, Delta]]:
    for number, prompt in enumerate(prompts):
        async with aclosing(start(prompt)) as deltas:
            async for delta in deltas:
                yield number, delta


async def _after(
    first: tuple[int, Delta], rest: AsyncIterator[tuple[int, Delta]]
) -> AsyncIterator[tuple[int, Delta]]:
    yield first
    async for piece in rest:
        yield piece


def _said(event: dict[str, Any]) -> str:
    return f"data: {json.dumps(event, ensure_ascii=False)}\n\n"

"""Text as it is written: what of it is certain already, piece by piece."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from transformers import PreTrainedTokenizerFast

from weft.answering.generation import Generation, text_behind
from weft.answering.inputs import Input
from weft.registry import said_by
from weft.serving.computing.writing import Line
from weft.serving.errors import BadInput
from weft.serving.request.asking import speaker
from weft.serving.request.call import Call
from weft.serving.request.rows import WRITES, chunks_of
from weft.tasks.chat import Message, checked_messages, rendered

UNFINISHED = "\N{REPLACEMENT CHARACTER}"
"""What bytes are read as that the next token may make a character of."""


@dataclass(frozen=True)
class Delta:
    """A piece of a text.

    Attributes:
        text: What comes behind all pieces before.
        tokens: Written so far.
        finish: Why it ended, of the last piece alone: `stop` at its own end or a stop text, `length` at the limit.
        prompt_tokens: Of the prompt.
        expert: Who writes.
        version: Of who writes.
    """

    text: str
    tokens: int
    finish: str | None
    prompt_tokens: int
    expert: str
    version: str


Tell = Callable[[Delta], None]
"""Is given each piece."""


async def relayed(write: Callable[[Tell], Coroutine[Any, Any, None]]) -> AsyncGenerator[Delta]:
    """What a coroutine tells, piece by piece; it ends when whoever listens leaves."""
    told: asyncio.Queue[Delta | None] = asyncio.Queue()
    work = asyncio.ensure_future(write(told.put_nowait))
    work.add_done_callback(lambda _: told.put_nowait(None))
    try:
        while (delta := await told.get()) is not None:
            yield delta
        await work
    finally:
        # Whoever listened may have left.
        work.cancel()
        await asyncio.wait([work])


class Told:
    """What has been told of a text; nothing is taken back.

    Args:
        tokenizer: The base's.
        line: The text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, line: Line) -> None:
        self._tokenizer, self._line = tokenizer, line
        self._told = ""

    def more(self) -> str:
        """What can be told now: no half character, and nothing that may turn out to begin a stop text."""
        text = text_behind(self._tokenizer, self._line.prompt, list(self._line.written))
        stops = self._line.settings.stop
        ends = [text.index(stop) for stop in stops if stop in text]
        if ends:
            text = text[: min(ends)]
        else:
            text = text.rstrip(UNFINISHED)
            kept = max((_begun(text, stop) for stop in stops), default=0)
            text = text[: len(text) - kept]
        return self.rest(text)

    def rest(self, text: str) -> str:
        """What of a text has not been told."""
        if not text.startswith(self._told) or len(text) <= len(self._told):
            return ""
        new, self._told = text[len(self._told) :], text
        return new


async def write(call: Call, text: str | Sequence[Message], how: Generation, tell: Tell) -> None:
    """Write behind a text, or in answer to messages, and tell each piece.

    Args:
        call: The request.
        text: The prompt, or messages.
        how: How it is continued.
        tell: Given each piece; the last one says why it ended.

    Raises:
        BadInput: If the expert writes no text, or the prompt is none.
    """
    base = call.ground.model.base
    prompt = await call.in_pool(partial(input_of, base.tokenizer, text))
    own = await call.speaker()
    if own is None:
        shown = await call.in_pool(partial(_shown, base.tokenizer, prompt))
        [(_, task)] = await call.recognised([shown])
        own = speaker(call.own, task)
    if own.task.spec.kind != WRITES:
        raise BadInput(
            f"{call.own.name} answers {own.task.spec.kind} and writes no text; name a causal_lm expert"
        )
    [row] = await call.encoded([own], [prompt], how)
    [(chunk, _)] = chunks_of([row], how)
    [line] = chunk.lines
    voice = Told(base.tokenizer, line)

    def hear() -> None:
        if new := voice.more():
            tell(Delta(new, len(line.written), None, row.tokens, *call.who))

    if call.joins(row, how):
        await call.written_in_company([chunk], hear)
        [found] = await call.in_pool(partial(chunk.continuations, call.ground))
    else:
        [found] = (await call.written([row], how)).values()
    ended = base.tokenizer.eos_token_id in found.tokens or len(found.tokens) < how.max_new_tokens
    stopped = ended or any(
        stop in text_behind(base.tokenizer, line.prompt, list(found.tokens)) for stop in how.stop
    )
    finish = "stop" if stopped else "length"
    tell(Delta(voice.rest(found.text), len(found.tokens), finish, row.tokens, *call.who))


def _begun(text: str, stop: str) -> int:
    """Characters at the end of a text that a stop text begins with."""
    return next(
        (size for size in range(min(len(text), len(stop)), 0, -1) if text.endswith(stop[:size])), 0
    )


def input_of(tokenizer: PreTrainedTokenizerFast, text: str | Sequence[Message]) -> Input:
    """What is asked with a text, or with messages: these by the tokenizer's chat template, else a line each.

    Raises:
        BadInput: If messages are none.
    """
    if isinstance(text, str):
        return text
    try:
        messages = checked_messages(
            [{key: message.get(key) for key in ("role", "content")} for message in text], "input"
        )
    except ValueError as error:
        raise BadInput(said_by(error)) from error
    if tokenizer.chat_template:
        return {"messages": messages}
    lines = [f"{message['role']}: {message['content']}\n" for message in messages]
    return "".join([*lines, "assistant:"])


def _shown(tokenizer: PreTrainedTokenizerFast, asked: Input) -> str:
    """What is asked as one text, by which a mixture recognises whose it is."""
    if isinstance(asked, str):
        return asked
    try:
        return rendered(tokenizer, asked["messages"], "input", answer=True)
    except ValueError as error:
        raise BadInput(said_by(error)) from error

"""`/v1/completions`, `/v1/chat/completions` and `/v1/models` in OpenAI's shape: experts that write."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

from fastapi import Depends
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from weft.serving.http.asking import BASE, check_room, deadline_of, note_answer
from weft.serving.http.call import Call
from weft.serving.http.openai_schemas import (
    ChatRequest,
    ChatResponse,
    CompletionRequest,
    CompletionResponse,
    ModelList,
    Writing,
)
from weft.serving.http.reading import answered, router_for
from weft.serving.http.writing import Prompt, Written, collected, streamed
from weft.serving.streaming import Delta

router = router_for("predict")

Deadline = Annotated[float, Depends(deadline_of)]
STREAMED: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}
}


@dataclass(frozen=True)
class Shape:
    """How OpenAI says what was written.

    Attributes:
        prefix: Of the answer's id.
        kind: What the answer calls itself.
        piece_kind: What a piece of a stream calls itself.
        whole: Number, text and reason of the end as an entry of `choices`.
        piece: The same of a piece, and whether it is the first.
    """

    prefix: str
    kind: str
    piece_kind: str
    whole: Callable[[int, str, str | None], dict[str, Any]]
    piece: Callable[[int, str, str | None, bool], dict[str, Any]]


def _text(at: int, text: str, reason: str | None, is_first: bool = True) -> dict[str, Any]:
    return {"index": at, "text": text, "finish_reason": reason, "logprobs": None}


def _message(at: int, text: str, reason: str | None) -> dict[str, Any]:
    own = {"role": "assistant", "content": text}
    return {"index": at, "message": own, "finish_reason": reason, "logprobs": None}


def _delta(at: int, text: str, reason: str | None, is_first: bool) -> dict[str, Any]:
    own = {"role": "assistant", "content": text} if is_first else {"content": text}
    return {"index": at, "delta": own, "finish_reason": reason, "logprobs": None}


COMPLETION = Shape("cmpl", "text_completion", "text_completion", _text, _text)
CHAT = Shape("chatcmpl", "chat.completion", "chat.completion.chunk", _message, _delta)


@router.post(
    "/v1/completions", response_model=CompletionResponse, responses=STREAMED, tags=["openai"]
)
async def completions(request: Request, body: CompletionRequest, deadline: Deadline) -> Response:
    """Continue texts; several are streamed one after the other."""
    prompts: list[Prompt] = [body.prompt] if isinstance(body.prompt, str) else [*body.prompt]
    return await _answer(request, body, prompts, deadline, COMPLETION)


@router.post(
    "/v1/chat/completions", response_model=ChatResponse, responses=STREAMED, tags=["openai"]
)
async def chat(request: Request, body: ChatRequest, deadline: Deadline) -> Response:
    """Continue a conversation, as the tokenizer's chat template writes it, or line by line: `role: text`."""
    messages = [message.plain() for message in body.messages]
    return await _answer(request, body, [messages], deadline, CHAT)


@router.get("/v1/models", response_model=ModelList, tags=["openai"])
async def models(request: Request) -> Response:
    """Whatever can be asked by name: the base, experts, and the tasks of those that have several."""
    names = [BASE]
    for entry in await request.app.state.engine.experts():
        if entry.state != "refused":
            if entry.kind != "several":
                names.append(entry.name)
            if entry.kind in ("several", "mixture"):
                names += [f"{entry.name}/{task.name}" for task in entry.tasks]
    rows = [{"id": name, "object": "model", "created": 0, "owned_by": "weft"} for name in names]
    return JSONResponse({"object": "list", "data": rows})


async def _answer(
    request: Request, body: Writing, prompts: Sequence[Prompt], deadline: float, shape: Shape
) -> Response:
    """Have prompts continued, and say it at once or as it comes."""
    state, call = request.app.state, Call.of(request)
    check_room(state.settings, len(prompts), body.most)
    head = {"id": f"{shape.prefix}-{call.id}", "created": int(time.time()), "model": body.model}
    start = partial(state.engine.stream, body.model, options=body.of_engine(), deadline=deadline)
    call.texts["inputs"] = prompts

    def note(written: Sequence[Written]) -> dict[str, int]:
        usage = _usage(written)
        own, tokens = written[0], usage["total_tokens"]
        note_answer(request, own.expert, len(prompts), tokens, version=own.version)
        call.texts["predictions"] = [own.text for own in written]
        return usage

    if not body.stream:
        written = await answered(request, collected(start, prompts))
        choices = [shape.whole(at, own.text, own.reason) for at, own in enumerate(written)]
        return JSONResponse(
            {**head, "object": shape.kind, "choices": choices, "usage": note(written)}
        )

    def event(at: int, delta: Delta, is_first: bool) -> dict[str, Any]:
        choices = [shape.piece(at, delta.text, delta.finish, is_first)]
        said = {**head, "object": shape.piece_kind, "choices": choices}
        return {**said, "usage": None} if body.wants_usage else said

    def last(written: Sequence[Written]) -> list[dict[str, Any]]:
        usage = note(written)
        end = {**head, "object": shape.piece_kind, "choices": [], "usage": usage}
        return [end] if body.wants_usage else []

    return await streamed(start, prompts, event=event, last=last, request_id=call.id)


def _usage(written: Sequence[Written]) -> dict[str, int]:
    read, wrote = sum(own.prompt_tokens for own in written), sum(own.tokens for own in written)
    return {"prompt_tokens": read, "completion_tokens": wrote, "total_tokens": read + wrote}

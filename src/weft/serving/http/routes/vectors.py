"""`POST /v1/embeddings` in OpenAI's shape: texts as vectors of the base, or of an expert on it."""

from typing import Annotated

from fastapi import Depends
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from weft.serving.http.asking import BASE, check_room, deadline_of, note_answer
from weft.serving.http.call import Call
from weft.serving.http.openai_schemas import (
    EmbeddingRequest,
    EmbeddingResponse,
    check_dimensions,
    packed,
)
from weft.serving.http.reading import answered, router_for

router = router_for("predict")


@router.post("/v1/embeddings", response_model=EmbeddingResponse, tags=["openai"])
async def embeddings(
    request: Request, body: EmbeddingRequest, deadline: Annotated[float, Depends(deadline_of)]
) -> Response:
    """Turn texts into vectors: the mean of the last states of each text's tokens, brought to length 1."""
    texts = [body.input] if isinstance(body.input, str) else body.input
    state = request.app.state
    check_room(state.settings, len(texts), None)
    expert = None if body.model == BASE else body.model
    found = await answered(request, state.engine.embed(texts, expert, deadline=deadline))
    check_dimensions(body.dimensions, len(found.vectors[0]))
    note_answer(request, found.expert, len(texts), found.tokens, version=found.version)
    Call.of(request).texts.update(inputs=texts)
    is_packed = body.encoding_format == "base64"
    rows = [
        {"object": "embedding", "index": at, "embedding": packed(own) if is_packed else own}
        for at, own in enumerate(found.vectors)
    ]
    usage = {"prompt_tokens": found.tokens, "total_tokens": found.tokens}
    return JSONResponse({"object": "list", "data": rows, "model": body.model, "usage": usage})

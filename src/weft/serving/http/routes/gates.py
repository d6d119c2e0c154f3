"""`POST /v1/gates`: how much each expert of a mixture speaks, token by token."""

from typing import Annotated, Any

from fastapi import Depends
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from weft.serving.errors import TooLarge
from weft.serving.gates import Gates
from weft.serving.http.asking import deadline_of, note_answer
from weft.serving.http.call import Call
from weft.serving.http.reading import answered, router_for
from weft.serving.http.schemas import GatesRequest, GatesResponse
from weft.serving.settings import Options

router = router_for("predict")

MOST_VALUES = 1 << 20
"""Gates in one answer: tokens times maps times experts."""
_DIGITS = 6


@router.post("/v1/gates", response_model=GatesResponse, tags=["predict"])
async def gates(
    request: Request, body: GatesRequest, deadline: Annotated[float, Depends(deadline_of)]
) -> Response:
    """Look at a mixture's gates on one input."""
    engine, options = request.app.state.engine, Options(task=body.task)
    asked = engine.gates(body.expert, body.input, options=options, deadline=deadline)
    found: Gates = await answered(request, asked)
    note_gates(request, found)
    Call.of(request).texts.update(inputs=[body.input])
    count = sum(len(row) for one in found.sequences for rows in one.gates.values() for row in rows)
    if count > MOST_VALUES:
        raise TooLarge(
            f"{count:,} gates, an answer may hold {MOST_VALUES:,}; send a shorter input, or part of it"
        )
    return JSONResponse(_plain(found))


def note_gates(request: Request, found: Gates) -> None:
    """Count gates as an answer of their mixture."""
    tokens = sum(len(one.tokens) for one in found.sequences)
    note_answer(request, found.expert, 1, tokens, version=found.version)


def _plain(found: Gates) -> dict[str, Any]:
    sequences = [
        {
            "tokens": one.tokens,
            "gates": {
                name: [[round(value, _DIGITS) for value in row] for row in rows]
                for name, rows in one.gates.items()
            },
        }
        for one in found.sequences
    ]
    return {
        "expert": found.expert,
        "version": found.version,
        "task": found.task,
        "experts": list(found.experts),
        "layers": found.layers,
        "sequences": sequences,
    }

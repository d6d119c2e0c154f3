"""`POST /v1/predict`: what experts say of inputs, whatever their kind."""

from typing import Annotated

from fastapi import Depends
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from weft.serving.http.asking import check_room, deadline_of, note_answer
from weft.serving.http.call import Call
from weft.serving.http.reading import answered, router_for
from weft.serving.http.schemas import PredictRequest, PredictResponse

router = router_for("predict")


@router.post("/v1/predict", response_model=PredictResponse, tags=["predict"])
async def predict(
    request: Request, body: PredictRequest, deadline: Annotated[float, Depends(deadline_of)]
) -> Response:
    """Answer inputs by an expert, by what they are recognised as, or by experts together."""
    state = request.app.state
    check_room(state.settings, len(body.inputs), body.options.max_new_tokens)
    asked = state.engine.predict(
        body.expert, body.inputs, options=body.options.of_engine(), deadline=deadline
    )
    found = await answered(request, asked)
    note_answer(request, found.expert, len(body.inputs), found.tokens, version=found.version)
    Call.of(request).texts.update(inputs=body.inputs, predictions=found.predictions)
    # The engine's answers are JSON already; they are not checked a second time.
    return JSONResponse(
        {
            "predictions": found.predictions,
            "expert": found.expert,
            "version": found.version,
            "tokens": found.tokens,
            "seconds": found.seconds,
        }
    )

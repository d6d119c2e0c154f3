"""`GET /`: the page. Its form posts to the same path, and what comes back is the page again, with the answers in it."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl

from fastapi import APIRouter
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from weft.serving.errors import Forbidden, ServingError
from weft.serving.http.asking import check_room, note_answer
from weft.serving.http.call import Call
from weft.serving.http.openai_schemas import CompletionRequest
from weft.serving.http.reading import Held, answered, content_of
from weft.serving.http.refusals import InvalidRequest, Malformed, UnknownPath, refusal, sentences
from weft.serving.http.routes.gates import note_gates
from weft.serving.http.security import page_policy
from weft.serving.page.asking import MOST_FIELDS, Choice, Form, choices_of
from weft.serving.page.maps import gate_map
from weft.serving.page.rendering import (
    TYPES,
    Answer,
    Page,
    Refused,
    asset,
    load_html,
    shown,
    to_html,
    version,
)
from weft.serving.settings import Options

router = APIRouter(include_in_schema=False)

_POLICY = {"Content-Security-Policy": page_policy(scripts=True)}
_YEAR = "public, max-age=31536000, immutable"
_OWN = ("same-origin", "none")
"""What browsers say of a form that was sent by this page, or by nobody's."""


@router.get("/")
async def page(request: Request) -> Response:
    """The page, before anything is asked; `?expert=NAME` chooses."""
    form = Form.of(request.query_params.items())
    gate = request.app.state.gate
    if not gate.is_open and "authorization" not in request.headers:
        return _html(Page(form, asks_key=True))
    return await _answer(request, form)


@router.post("/")
async def ask(request: Request) -> Response:
    """The page with answers."""
    state = request.app.state
    with state.bodies.held() as body:
        try:
            form = Form.of(await _pairs(request, body))
        except ServingError as error:
            return _refused(request, error, Page(Form(), asks_key=not state.gate.is_open))
        return await _answer(request, form)


@router.get("/page/load")
async def load(request: Request) -> Response:
    """How busy the server is, as a part of the page; any key will do, and nothing is counted to it."""
    state = request.app.state
    Call.of(request).caller = state.gate.known(request.headers.get("authorization"))
    return HTMLResponse(load_html(state.engine.load()), headers=_POLICY)


@router.get("/page/{name}")
async def file(request: Request, name: str) -> Response:
    """A file that the page loads."""
    if name not in TYPES:
        raise UnknownPath(f"{name[:80]!r} is no file of the page, which has {', '.join(TYPES)}")
    tag = f'"{version(name)}"'
    # The page names a file with its version; whoever does not has to ask again each time.
    cache = _YEAR if request.url.query == version(name) else "no-cache"
    headers = {"ETag": tag, "Cache-Control": cache}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    return Response(asset(name), media_type=TYPES[name], headers=headers)


async def _pairs(request: Request, body: Held) -> list[tuple[str, str]]:
    """The fields of a form that a page of this server sent."""
    if request.headers.get("sec-fetch-site", "none") not in _OWN:
        raise Forbidden("another site's page sent this form; open this server's page and ask there")
    content = await content_of(request, request.app.state.settings, body)
    try:
        return parse_qsl(
            content.decode("ascii"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=MOST_FIELDS,
        )
    except ValueError as error:
        raise Malformed(f"the form cannot be read: {error}; send it as browsers do") from None


async def _answer(request: Request, form: Form) -> Response:
    state = request.app.state
    asks_key = not state.gate.is_open
    try:
        key = request.headers.get("authorization") or (f"Bearer {form.key}" if form.key else None)
        Call.of(request).caller = state.gate.let_in(key, "predict")
        entries = await state.engine.experts()
    except ServingError as error:
        return _refused(request, error, Page(form, asks_key))
    known: dict[str, Any] = {
        "form": form,
        "asks_key": asks_key,
        "choices": (choices := choices_of(entries)),
        "unfit": [f"{own.name}: {own.reason}" for own in entries if own.state == "refused"],
        "most": state.settings.max_new_tokens,
    }
    chosen: list[Choice] = []
    try:
        chosen = form.chosen(choices)
        said = await answered(request, _said(request, form, chosen))
    except ServingError as error:
        own = chosen or choices[:1]
        return _refused(request, error, Page(**known, chosen=own, load=state.engine.load()))
    return _html(Page(**known, **said, chosen=chosen, load=state.engine.load()), _status(said))


def _status(said: Mapping[str, Any]) -> int:
    """200, or the status of a refusal where nobody answered."""
    statuses = [own.refused.status if own.refused else 200 for own in said.get("answers", ())]
    return min(statuses, default=200)


async def _said(request: Request, form: Form, chosen: Sequence[Choice]) -> dict[str, Any]:
    """What the page shows of whom was asked."""
    if not chosen or form.action == "choose":
        return {}
    if form.action == "gates":
        return {"gates": await _gates(request, form, chosen[0])}
    return {"answers": await asyncio.gather(*(_one(request, form, own) for own in chosen))}


async def _gates(request: Request, form: Form, choice: Choice) -> Any:
    state, given = request.app.state, form.given(choice)
    found = await state.engine.gates(choice.value, given, deadline=state.settings.deadline_s)
    note_gates(request, found)
    Call.of(request).texts.update(inputs=[given])
    return gate_map(found, form.map)


async def _one(request: Request, form: Form, choice: Choice) -> Answer:
    """What one of them answers; that one is refused does not take the other's answer."""
    call = Call.of(request)
    try:
        return await _asked(request, form, choice)
    except ServingError as error:
        call.notes["code"] = error.code
        return Answer(choice.value, refused=Refused(str(error), error.code, error.status))


async def _asked(request: Request, form: Form, choice: Choice) -> Answer:
    state, call, given = request.app.state, Call.of(request), form.given(choice)
    options = Options()
    if choice.writes:
        body = form.writing(choice)
        options = _checked(request, body).of_engine()
        if form.streams:
            wanted = {**body, "stream": True, "stream_options": {"include_usage": True}}
            return Answer(choice.value, prompt=body["prompt"], request=json.dumps(wanted))
    found = await state.engine.predict(
        choice.value, [given], options=options, deadline=state.settings.deadline_s
    )
    note_answer(request, found.expert, 1, found.tokens, version=found.version)
    call.texts.setdefault("inputs", []).append(given)
    call.texts.setdefault("predictions", []).extend(found.predictions)
    [prediction] = found.predictions
    return shown(choice, given, prediction, found)


def _checked(request: Request, body: Mapping[str, Any]) -> CompletionRequest:
    try:
        found = CompletionRequest.model_validate(body)
    except ValidationError as error:
        told = [{**own, "loc": ("form", *own["loc"])} for own in error.errors()]
        raise InvalidRequest(sentences(told, CompletionRequest)) from None
    check_room(request.app.state.settings, 1, found.most)
    return found


def _refused(request: Request, error: ServingError, found: Page) -> Response:
    """The page that says why there is no answer, with the status and headers that programs get."""
    said = refusal(error, Call.of(request))
    page = replace(found, refused=Refused(str(error), error.code, error.status))
    extra = {name: said.headers[name] for name in ("retry-after",) if name in said.headers}
    return _html(page, error.status, extra)


def _html(page: Page, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return HTMLResponse(to_html(page), status, {**_POLICY, **(headers or {})})

"""What goes to a server and what comes back: the same for both clients."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import httpx

from weft.registry import unknown

Input = str | Mapping[str, Any]
"""A text, or the columns of a row by name, as `weft.predict` takes them."""
Expert = str | Mapping[str, float]
"""The name of an expert, `auto`, or experts with their weights."""

KEY = "WEFT_KEY"
"""The environment variable that a client's key is taken from."""
CHUNK = 64
"""Inputs of one request."""
LONGEST_WAIT_S = 30.0
"""Most that a client waits because a server asks it to."""
_AGAIN = (429, 503)
"""What is worth asking again: too much at once, or a server that another one follows."""
_SETTINGS = ("max_new_tokens", "sample", "temperature", "top_k", "top_p", "seed", "stop")
_SHOWN = 200


class ServerError(ValueError):
    """What a server refused, in its words.

    Attributes:
        code: What is wrong, as a word that stays the same between versions.
        status: HTTP's number for it.
        request_id: What the server's log calls the request.
        retry_after: Seconds after which asking again makes sense; None if it never does.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str,
        status: int,
        request_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.status = status
        self.request_id = request_id
        self.retry_after = retry_after


def headers_of(key: str | None, deadline: float | None = None) -> dict[str, str]:
    """Headers of a client that has a key, given or in the environment, or has none."""
    key = key or os.environ.get(KEY)
    own = {"Authorization": f"Bearer {key}"} if key else {}
    if deadline is not None:
        own["Weft-Deadline"] = str(deadline)
    return own


def address(url: str) -> str:
    """A server's URL without what follows its host and path.

    Raises:
        ValueError: If it is none.
    """
    parsed = httpx.URL(url) if "://" in url else httpx.URL(f"http://{url}")
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ValueError(f"{url!r} is no server's address; give one like http://127.0.0.1:8000")
    return str(parsed).rstrip("/")


def question(
    expert: Expert, inputs: Iterable[Input], task: str | None, generation: object
) -> dict[str, Any]:
    """The body of a request for predictions."""
    options = {} if task is None else {"task": task}
    if generation is not None:
        options |= settings_of(generation)
    whose = expert if isinstance(expert, str) else dict(expert)
    rows = [row if isinstance(row, str) else dict(row) for row in inputs]
    return {"expert": whose, "inputs": rows, "options": options}


def settings_of(generation: object) -> dict[str, Any]:
    """Settings of a continuation as a server takes them, from a mapping or a `Generation`.

    A server's own affair, its cache and batches, is not sent.

    Raises:
        ValueError: If there is no such setting.
    """
    if isinstance(generation, Mapping):
        given = dict(generation)
        for name in given.keys() - {*_SETTINGS}:
            raise ValueError(f"generation: {unknown('setting', str(name), _SETTINGS)}")
    else:
        given = {n: v for n, v in vars(generation).items() if n in _SETTINGS}
        if getattr(generation, "style", None) is not None:
            raise ValueError(
                "generation: a server does not steer towards a style; ask a run folder"
            )
    return {n: list(v) if isinstance(v, tuple) else v for n, v in given.items() if v is not None}


def continuation(expert: str, text: str, generation: object) -> dict[str, Any]:
    """The body of a request for a text's continuation, piece by piece, in OpenAI's words."""
    given = {} if generation is None else settings_of(generation)
    heat = given.get("temperature", 1.0) if given.get("sample") else 0.0
    own = {"max_tokens": given.get("max_new_tokens"), "temperature": heat}
    own |= {name: given.get(name) for name in ("top_k", "top_p", "seed", "stop")}
    said = {name: value for name, value in own.items() if value is not None}
    return {"model": expert, "prompt": text, "stream": True, **said}


def pieces_of(line: str, response: httpx.Response) -> Iterator[str]:
    """The text in one line of a stream, if it has any.

    Raises:
        ServerError: If it says that the server gave up.
    """
    data = line.removeprefix("data:").strip()
    if not line.startswith("data:") or data == "[DONE]":
        return
    said = json.loads(data)
    if "error" in said:
        error = said["error"]
        raise ServerError(
            error["message"],
            code=error["code"],
            status=response.status_code,
            request_id=error.get("request_id"),
        )
    yield from (choice["text"] for choice in said["choices"] if choice.get("text"))


def numbered(inputs: Iterable[Input], chunk: int = CHUNK) -> Iterator[list[Input]]:
    """Inputs, some at a time; those without an id are numbered from 0 over all of them.

    Raises:
        TypeError: If it is a single text or a mapping, not several inputs.
        ValueError: If one is neither a text nor a mapping.
    """
    if isinstance(inputs, str | Mapping):
        raise TypeError(f"expected several inputs, got {inputs!r:.60}; give a list of them")
    rows = enumerate(inputs)
    while some := list(islice(rows, chunk)):
        yield [_with_id(value, at) for at, value in some]


def _with_id(value: object, at: int) -> Input:
    if not isinstance(value, str | Mapping):
        raise ValueError(f"input {at}: expected a text or a mapping, got {value!r:.60}")
    return {"id": str(at), **({"text": value} if isinstance(value, str) else value)}


def answer_of(response: httpx.Response) -> Any:
    """What a server answered.

    Raises:
        ServerError: If it refused, or what answers is no server of weft.
    """
    try:
        found = response.json() if response.content else None
    except ValueError:
        found = None
    if response.is_success and (
        found is not None or response.status_code == httpx.codes.NO_CONTENT
    ):
        return found
    error = found.get("error") if isinstance(found, dict) else None
    if not isinstance(error, dict) or "code" not in error:
        raise ServerError(
            f"{response.request.url}: {response.status_code} with {response.text[:_SHOWN]!r}, which is no answer "
            "of weft; is its address right?",
            code="not_weft",
            status=response.status_code,
        )
    raise ServerError(
        str(error.get("message")),
        code=str(error["code"]),
        status=response.status_code,
        request_id=error.get("request_id"),
        retry_after=_seconds(response.headers.get("Retry-After")),
    )


def wait_before(error: ServerError, tried: int, retries: int) -> float | None:
    """Seconds to wait before a request is sent again; None: it is not."""
    if tried >= retries or error.status not in _AGAIN or error.retry_after is None:
        return None
    return min(error.retry_after, LONGEST_WAIT_S)


def unreachable(url: str, error: httpx.TransportError) -> OSError:
    """The error of a server that does not answer."""
    if isinstance(error, httpx.TimeoutException):
        return TimeoutError(
            f"{url} did not answer in time ({type(error).__name__}); ask for less, or wait longer"
        )
    return ConnectionError(f"{url} cannot be reached ({error}); does `weft serve` run there?")


def _seconds(text: str | None) -> float | None:
    try:
        return float(text) if text is not None else None
    except ValueError:
        return None

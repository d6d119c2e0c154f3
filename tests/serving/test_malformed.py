"""Bodies and names that nobody should send: each is refused at once, and nothing changes."""

import json
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.serving.served import app_of, listening

TOPIC = "sequence_classification"
GOOD: dict[tuple[str, str], dict[str, Any]] = {
    ("POST", "/v1/predict"): {"expert": TOPIC, "inputs": ["the good dog"], "options": {}},
    ("POST", "/v1/embeddings"): {"model": "base", "input": ["the good dog"]},
    ("POST", "/v1/completions"): {"model": TOPIC, "prompt": "the good dog"},
    ("POST", "/v1/chat/completions"): {
        "model": TOPIC,
        "messages": [{"role": "user", "content": "hello"}],
    },
    ("PUT", "/v1/experts/new"): {"folder": "nobody"},
}
NAMES = [
    "..", "../..", "../../etc/passwd", "..%2f..%2fetc", "/etc/passwd", "a/../../b", "a\\..\\b", "C:\\x", "~root",
    "%00", "a\x00b", "a\nb", "a\rb", "\x1b[2J", "con/nul/aux", ".", ".git", "-rf", "$(id)", "`id`", "{{7*7}}",
    "\u202egpj", "\ufeffa", "a" * 5000, "file:///etc/passwd", "auto/../x", "base/../x", "\U0001f984", "",
]  # fmt: skip
WRONG: list[Any] = [
    None, True, -1, 1e308, 10**30, [], {}, [[]], {"a": {}}, [None], ["a", 1], {"": ""}, [{}], 0.5, "\x00", [["a"]],
]  # fmt: skip
Sent = tuple[str, str, bytes, str]
"""Method, path, body, content type."""


def broken_text(draw: random.Random, text: bytes) -> bytes:
    """JSON that is none any more."""
    at = draw.randrange(1, len(text) - 1)
    return draw.choice(
        [
            text[:at],
            text + draw.choice([b"}", b"]", b"x", b"{}", b"\x00", b",1"]),
            text[:at] + bytes([draw.choice([0, 7, 0xC0, 0xFE, 0xFF])]) + text[at:],
            text.replace(b'"', b"'"),
            b"\xff\xfe" + text.decode().encode("utf-16-le"),
            b"[" * draw.randrange(70, 100_000),
            b'{"a":' * draw.randrange(70, 20_000),
            b"[" * 200 + b"]" * 200,
            b'{"expert": ' + b"9" * draw.randrange(5000, 50_000) + b"}",
            draw.randbytes(draw.randrange(1, 400)) + b"\x00",
            text[:-1] + b', "x": "\\ud83d"}',
        ]
    )


def broken_value(draw: random.Random, good: dict[str, Any]) -> bytes:
    """JSON of another shape than was asked for."""
    value = json.loads(json.dumps(good))
    field = draw.choice(list(value))
    change = draw.randrange(5)
    if change == 0:
        value[draw.choice(["x", "expertt", "__class__", "\x00", "Inputs", "$ref"])] = draw.choice(
            WRONG
        )
    elif change == 1 and field not in ("options", "folder"):
        del value[field]
    elif change == 2:
        return json.dumps(draw.choice([*WRONG[1:5], *WRONG[7:], [value], "text"])).encode()
    elif change == 3 and field in ("options", "folder"):
        value[field] = draw.choice([True, -1, [], ["a"], 0.5, "\x00"])
    else:
        value[field] = draw.choice([True, -1, 1e308, {"": {}}, [[[]]], [None], 10**30])
    return json.dumps(value).encode()


def broken_name(draw: random.Random, method: str, path: str) -> Sent:
    """A request for an expert that cannot be."""
    name, good = draw.choice(NAMES), json.loads(json.dumps(GOOD[method, path]))
    if method == "PUT":
        good["folder"] = draw.choice(
            ["..", "/", "../shelf", "/etc", "a\u0000", "\n", "x" * 2000, "./.."]
        )
    else:
        good["expert" if path == "/v1/predict" else "model"] = name
    return method, path, json.dumps(good).encode(), "application/json"


def requests(count: int, seed: int) -> Iterator[Sent]:
    """Requests that are all wrong, of every way in turn."""
    draw = random.Random(seed)
    for number in range(count):
        method, path = list(GOOD)[number % len(GOOD)]
        text = json.dumps(GOOD[method, path]).encode()
        way = (number // len(GOOD)) % 4
        if way == 0:
            yield method, path, broken_text(draw, text), "application/json"
        elif way == 1:
            yield method, path, broken_value(draw, GOOD[method, path]), "application/json"
        elif way == 2:
            yield broken_name(draw, method, path)
        else:
            kind = draw.choice(
                ["text/plain", "", "application/xml", "multipart/form-data", "application/jsonx"]
            )
            yield method, path, text, kind


def state_of(http: httpx.Client) -> Any:
    return http.get("/v1/experts").json()


@pytest.fixture
def refuses(shelf_folder: Path) -> Iterator[Callable[[int, int], None]]:
    """Sends so many wrong requests, and looks at what came of them."""
    with listening(app_of(shelf_folder)) as url, httpx.Client(base_url=url, timeout=30) as http:
        http.post("/v1/predict", json=GOOD["POST", "/v1/predict"]).raise_for_status()
        before = state_of(http)

        def send(count: int, seed: int) -> None:
            for method, path, body, kind in requests(count, seed):
                started = time.monotonic()
                found = http.request(method, path, content=body, headers={"Content-Type": kind})
                took = time.monotonic() - started
                said = (
                    f"{method} {path} {kind} {body[:200]!r}: {found.status_code} {found.text[:300]}"
                )
                assert 400 <= found.status_code < 500, said
                assert found.json()["error"]["message"], said
                assert took < 1, said
            assert state_of(http) == before
            assert http.get("/readyz").status_code == 200

        yield send


def test_a_hundred_wrong_requests_are_refused_and_change_nothing(
    refuses: Callable[[int, int], None],
) -> None:
    refuses(100, 1)


@pytest.mark.slow
def test_two_thousand_wrong_requests_are_refused_and_change_nothing(
    refuses: Callable[[int, int], None],
) -> None:
    refuses(2000, 2)


def test_a_body_that_stands_still_is_given_up(shelf_folder: Path) -> None:
    import socket

    from weft.serving.http.settings import ServerSettings

    settings = ServerSettings(body_timeout_s=0.3)
    with listening(app_of(shelf_folder, settings=settings)) as url:
        host, _, port = url.removeprefix("http://").partition(":")
        head = (
            f"POST /v1/predict HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
            "Content-Length: 1000\r\n\r\n{"
        )
        with socket.create_connection((host, int(port)), timeout=10) as line:
            line.sendall(head.encode())
            said = ""
            while "longer" not in said:
                said += line.recv(65536).decode()
    assert said.startswith("HTTP/1.1 408 ")
    assert "took longer than 0.3 s" in said

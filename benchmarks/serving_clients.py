"""Clients of a server on loopback: in a closed loop, each asking again when it was answered; or by Poisson's clock.

HTTP is written and read by hand over kept connections, so that clients take little of the processor that servers need.
"""

import asyncio
import json
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from serving_experts import Ask


@dataclass(frozen=True)
class Answer:
    """What came of a request.

    Attributes:
        status: Of HTTP.
        body: As JSON has it.
        seconds: From sending to the last byte; in an open loop from the moment it was due.
        ended: When, on the performance counter.
    """

    status: int
    body: Any
    seconds: float
    ended: float


class Connection:
    """A kept connection; one request at a time."""

    def __init__(self, url: str) -> None:
        self._host = urlsplit(url).netloc
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(
        self, method: str, path: str, body: Any = None, since: float | None = None
    ) -> Answer:
        """One request."""
        began = time.perf_counter() if since is None else since
        if self._streams is None:
            host, port = self._host.split(":")
            self._streams = await asyncio.open_connection(host, int(port))
        reader, writer = self._streams
        content = b"" if body is None else json.dumps(body).encode()
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: {self._host}\r\nContent-Length: {len(content)}\r\n"
        )
        writer.write(f"{head}Content-Type: application/json\r\n\r\n".encode() + content)
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines[1:] if line)
        said = await reader.readexactly(int(headers.get("content-length", "0")))
        if headers.get("connection") == "close":
            await self.close()
        ended = time.perf_counter()
        found = json.loads(said) if said else None
        return Answer(int(lines[0].split()[1]), found, ended - began, ended)

    async def close(self) -> None:
        """The next request opens another."""
        if self._streams is not None:
            self._streams[1].close()
            await self._streams[1].wait_closed()
        self._streams = None


def body_of(ask: Ask) -> dict[str, Any]:
    """A request as `/v1/predict` takes it."""
    return {"expert": ask.expert, "inputs": [ask.input]}


async def closed(url: str, asks: Sequence[Ask], clients: int) -> tuple[float, list[Answer]]:
    """All of some requests, by so many clients at a time: seconds from first to last, and the answers in order."""
    left: Iterator[tuple[int, Ask]] = iter(enumerate(asks))
    found: dict[int, Answer] = {}

    async def client() -> None:
        connection = Connection(url)
        for at, ask in left:
            found[at] = await connection.ask("POST", "/v1/predict", body_of(ask))
        await connection.close()

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return time.perf_counter() - began, [found[at] for at in range(len(asks))]


async def opened(url: str, asks: Sequence[Ask], rate: float, seed: int) -> list[Answer]:
    """Requests that come by themselves, so many a second on average, whether the last were answered or not."""
    draws = random.Random(seed)
    free: list[Connection] = []

    async def one(ask: Ask, due: float) -> Answer:
        connection = free.pop() if free else Connection(url)
        found = await connection.ask("POST", "/v1/predict", body_of(ask), since=due)
        free.append(connection)
        return found

    due = time.perf_counter()
    tasks = []
    for ask in asks:
        due += draws.expovariate(rate)
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.create_task(one(ask, due)))
    found = await asyncio.gather(*tasks)
    for connection in free:
        await connection.close()
    return found


def check(answers: Sequence[Answer]) -> None:
    """Refuse to count answers that are none."""
    for answer in answers:
        if answer.status != 200:
            raise SystemExit(f"a request was answered {answer.status}: {answer.body}")


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that so large a share of all does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, round(share * len(ordered) + 0.5) - 1))]

"""Servers to measure, each a process of its own on a free port of loopback, which it writes on its first line.

    python benchmarks/serving_servers.py weft FOLDER

Peers stand behind the simplest app that is right: one lock, or a queue of which one thread takes what waits.
"""

import argparse
import asyncio
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from serving_experts import COUNTS
from serving_peers import Onnx, Peer, Peft, Pipeline
from weft.serving import Engine, Limits, Room, Shelf
from weft.serving.app import create_app
from weft.serving.http.settings import ServerSettings
from weft.tasks.contract import Prediction

MANY = (
    "peft, one at a time",
    "peft, adapter_names",
    *(["polylora"] if find_spec("polylora") else []),
)
"""Peers of many experts; PolyLoRA where it is installed."""
ALONE = ("pipeline", "onnx")
"""Peers of one expert."""
WEFT = "weft"


class Body(BaseModel):
    """As weft's `/v1/predict` takes it."""

    expert: str
    inputs: list[dict[str, Any]]


@dataclass(eq=False)
class Waiting:
    """A request that waits."""

    task: str
    rows: list[tuple[str, dict[str, Any]]]
    answer: "asyncio.Future[list[Prediction]]" = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class Line:
    """Requests in the order they came; one thread takes the first, and with it those of its set.

    Args:
        peer: Who answers.
    """

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._waiting: deque[Waiting] = deque()
        self._thread = ThreadPoolExecutor(1)
        self._work: asyncio.Task[None] | None = None

    async def answer(self, body: Body) -> list[Prediction]:
        """The answers to one request."""
        own = Waiting(body.expert.rpartition("-")[0], [(body.expert, row) for row in body.inputs])
        self._waiting.append(own)
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._serve())
        return await own.answer

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            taken = self._taken()
            rows = [row for one in taken for row in one.rows]
            found = await loop.run_in_executor(self._thread, self._peer.answer, taken[0].task, rows)
            said = iter(found)
            for one in taken:
                one.answer.set_result([next(said) for _ in one.rows])

    def _taken(self) -> list[Waiting]:
        task, taken, kept = self._waiting[0].task, list[Waiting](), deque[Waiting]()
        for one in self._waiting:
            fits = one.task == task and len(taken) < self._peer.most
            (taken if fits else kept).append(one)
        self._waiting = kept
        return taken


def peer_app(peer: Peer) -> FastAPI:
    """A peer behind FastAPI."""
    app = FastAPI()
    line = Line(peer)

    @app.post("/v1/predict")
    async def predict(body: Body) -> dict[str, Any]:
        return {"predictions": await line.answer(body)}

    return app


def weft_app(made: Path, limits: Limits, residents: int) -> FastAPI:
    """The server of weft over the shelf of a folder."""
    room = Room(experts=residents)
    roots = [folder for folder in (made / "shelf", made / "other") if folder.is_dir()]
    shelf = Shelf(folders=roots[:1], roots=roots, room=room, device="cpu")
    return create_app(Engine(shelf, limits), ServerSettings())


def app_of(name: str, made: Path, options: argparse.Namespace) -> FastAPI:
    """The app of a server."""
    if name == WEFT:
        return weft_app(made, Limits(waiting_seconds=options.waiting), options.residents)
    makers = {
        MANY[0]: lambda: Peft(made / "shelf", mixed=False),
        MANY[1]: lambda: Peft(made / "shelf", mixed=True),
        "polylora": lambda: _polylora(made / "shelf"),
        ALONE[0]: lambda: Pipeline(made),
        ALONE[1]: lambda: Onnx(made, options.threads),
    }
    return peer_app(makers[name]())


def _polylora(shelf: Path) -> Peer:
    from serving_polylora import PolyLora

    return PolyLora(shelf)


@dataclass(frozen=True)
class Running:
    """A server under way."""

    url: str
    pid: int

    @property
    def processor_seconds(self) -> float:
        """What it has computed so far, in all its threads; idle ones do not count, nor do other programs."""
        said = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(said[11]) + int(said[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def resident_mib(self) -> float:
        """Its memory now."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@contextmanager
def running(name: str, made: Path, threads: int, *more: str) -> Iterator[Running]:
    """A server while the block lasts."""
    command = [sys.executable, __file__, name, str(made), "--threads", str(threads), *more]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        line = process.stdout.readline().strip()
        if not line.startswith("http"):
            raise SystemExit(f"the server {name} did not start: {line}")
        yield Running(line, process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
        process.stdout.close()


class Server(uvicorn.Server):
    """Says where it is once it listens."""

    async def startup(self, sockets: Any = None) -> None:
        """Listen, then tell."""
        await super().startup(sockets)
        port = self.servers[0].sockets[0].getsockname()[1]
        print(f"http://127.0.0.1:{port}", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until asked to stop."""
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=[WEFT, *MANY, *ALONE])
    parser.add_argument("made", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--waiting", type=float, default=Limits().waiting_seconds)
    parser.add_argument("--residents", type=int, default=sum(COUNTS.values()) + 1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    app = app_of(options.name, options.made, options)
    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=0,
        log_config=None,
        access_log=False,
        ws="none",
        http="h11",
        timeout_graceful_shutdown=5,
        # Clients keep their connections while other servers have their turn.
        timeout_keep_alive=120,
    )
    Server(config).run()


if __name__ == "__main__":
    main()

"""What a thousand experts cost a server: listed, loaded one after another, held in memory, and until it is ready."""

import asyncio
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from serving_clients import Connection
from serving_experts import names_of
from serving_servers import running
from weft.base.loading import load_base
from weft.serving import Engine, Room, Shelf

EXPERTS, LOADED = 1000, 500
BESIDE = 5
"""Loads whose median counts as the 5th and as the last."""
_BASE_ALONE = (
    "from weft.base.loading import load_base; load_base('minilm'); print('ready', flush=True)"
)


def many(made: Path, count: int) -> Path:
    """A folder of many experts: links to the files of one, so that disk is not what is measured."""
    folder = made / f"many-{count}" / "shelf"
    if not folder.is_dir():
        source = made / "shelf" / names_of("wnut17")[0]
        for at in range(count):
            shutil.copytree(source, folder / f"n{at:04}", copy_function=os.link)
    return folder


async def listed(made: Path, count: int, rounds: int) -> dict[str, Any]:
    """Seconds to list so many experts: by the engine, and by HTTP."""
    engine = Engine(Shelf(folders=[many(made, count)], device="cpu"))
    taken = {"engine": list[float](), "HTTP": list[float]()}
    with running("weft", many(made, count).parent, 1) as server:
        connection = Connection(server.url)
        for _ in range(rounds):
            began = time.perf_counter()
            assert len(await engine.experts()) == count
            taken["engine"].append(time.perf_counter() - began)
            found = await connection.ask("GET", "/v1/experts")
            assert len(found.body["experts"]) == count
            taken["HTTP"].append(found.seconds)
        await connection.close()
    engine.shelf.close()
    return {name: statistics.median(own) for name, own in taken.items()} | {"experts": count}


async def loaded(made: Path, count: int) -> dict[str, Any]:
    """Seconds of each load of so many that stay, and the bytes of one."""
    folder = many(made, count)
    names = sorted(path.name for path in folder.iterdir())
    taken = []
    # One more, so that nothing is evicted.
    shelf = Shelf(folders=[folder], room=Room(experts=count + 1), device="cpu")
    await shelf.open()
    async with shelf.leased(names[-1:]):
        pass
    before = _resident_bytes()
    for name in names[: count - 1]:
        began = time.perf_counter()
        async with shelf.leased([name]):
            taken.append(time.perf_counter() - began)
    grown = (_resident_bytes() - before) / len(taken)
    own = shelf.bytes / count
    shelf.close()
    base = sum(value.nbytes for value in load_base("minilm").trunk.parameters())
    early, late = statistics.median(taken[:BESIDE]), statistics.median(taken[-BESIDE:])
    return {
        "loads": len(taken),
        "first": early,
        "last": late,
        "times": late / early,
        "bytes_counted": own,
        "bytes_grown": grown,
        "base_bytes": base,
        "share_of_base": grown / base,
    }


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def ready(made: Path, count: int, rounds: int) -> dict[str, Any]:
    """Seconds from the command to a server that is ready, and to a process that has loaded the base, in turns."""
    serve = ["-m", "weft", "serve", "--experts", str(many(made, count)), "--port"]
    taken = {"server": list[float](), "base alone": list[float]()}
    for _ in range(rounds):
        taken["base alone"].append(_base_alone())
        taken["server"].append(_until_ready(serve))
    medians = {name: statistics.median(own) for name, own in taken.items()}
    beyond = medians["server"] - medians["base alone"]
    return {**medians, "beyond": beyond, "experts": count, "rounds": taken}


def _base_alone() -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", _BASE_ALONE], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def _until_ready(command: Sequence[str]) -> float:
    port = _free_port()
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *command, str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while True:
            if process.poll() is not None:
                raise SystemExit(f"weft serve ended with {process.returncode}")
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5)
                return time.perf_counter() - began
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.02)
    finally:
        process.terminate()
        process.wait(timeout=60)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def measure(made: Path, experts: int, loads: int, rounds: int) -> dict[str, Any]:
    """All of it."""
    return {
        "listed": asyncio.run(listed(made, experts, rounds)),
        "loads": asyncio.run(loaded(made, loads)),
        "ready": ready(made, experts, rounds),
    }

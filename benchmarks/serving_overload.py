"""A server at a share of what it can do, and at several times that: latency, refusals, memory, recovery."""

import asyncio
import statistics
import time
from pathlib import Path
from typing import Any

from serving_clients import Answer, Connection, body_of, check, closed, opened, percentile
from serving_experts import Ask, every, traffic
from serving_servers import WEFT, Running, running
from weft.serving import Limits

CLIENTS = 64
"""In the closed loop that saturates it."""
CALM, FLOOD = 0.7, 3.0
"""Of the saturated rate."""
FLOOD_SHARE = 0.4
"""Of the seconds that calm traffic lasts."""
WAITING = {"as it comes": Limits().waiting_seconds, "for a second": 1.0}
"""Seconds of work that may wait: the server's own limit, and one."""


def overload(
    made: Path, rows: dict[str, list[dict[str, Any]]], threads: int, seconds: float
) -> dict[str, Any]:
    """Both, on a fresh server for each limit."""
    with running(WEFT, made, threads) as server:
        rate = saturated(server, rows, seconds)
        calm = calm_of(server, rows, rate, seconds)
    found: dict[str, Any] = {"saturated_per_second": rate, "calm": calm}
    for name, limit in WAITING.items():
        with running(WEFT, made, threads, "--waiting", str(limit)) as server:
            own = flooded(server, rows, rate, FLOOD_SHARE * seconds)
        found[name] = {"waiting_seconds": limit, **own}
        print(name, found[name], flush=True)
    return found


def saturated(server: Running, rows: dict[str, list[dict[str, Any]]], seconds: float) -> float:
    """Requests a second in a closed loop: twice, of which the first warms up and tells how many the second takes."""
    asks = [*every(rows, seed=7), *traffic(rows, 4 * CLIENTS, seed=7)]
    taken, answers = asyncio.run(closed(server.url, asks, CLIENTS))
    check(answers)
    count = max(2 * CLIENTS, round(len(asks) / taken * seconds / 2))
    taken, answers = asyncio.run(closed(server.url, traffic(rows, count, seed=8), CLIENTS))
    check(answers)
    return count / taken


def calm_of(
    server: Running, rows: dict[str, list[dict[str, Any]]], rate: float, seconds: float
) -> dict[str, Any]:
    """Latency below saturation."""
    asks = traffic(rows, max(20, round(CALM * rate * seconds)), seed=9)
    answers = asyncio.run(opened(server.url, asks, CALM * rate, seed=9))
    check(answers)
    own = [answer.seconds for answer in answers]
    p50, p99 = percentile(own, 0.5), percentile(own, 0.99)
    return {"share": CALM, "requests": len(own), "p50": p50, "p99": p99, "times": p99 / p50}


def flooded(
    server: Running,
    rows: dict[str, list[dict[str, Any]]],
    rate: float,
    seconds: float,
) -> dict[str, Any]:
    """Far above saturation, and after it."""
    asyncio.run(_warmed(server, rows))
    before = server.resident_mib
    asks = traffic(rows, round(FLOOD * rate * seconds), seed=10)
    return asyncio.run(_flood(server, asks, rate, before))


async def _warmed(server: Running, rows: dict[str, list[dict[str, Any]]]) -> None:
    # One at a time: nothing waits, so nothing is refused while the server does not know yet how fast it is.
    asks = [*every(rows, seed=11), *traffic(rows, 2 * CLIENTS, seed=11)]
    _, answers = await closed(server.url, asks, 1)
    check(answers)


async def _flood(server: Running, asks: list[Ask], rate: float, before: float) -> dict[str, Any]:
    alone = statistics.median([(await _probe(server, asks[0])).seconds for _ in range(5)])
    memory: list[float] = []
    watching = asyncio.create_task(_watch(server, memory))
    began = time.perf_counter()
    flood = asyncio.create_task(opened(server.url, asks, FLOOD * rate, seed=12))
    # Until the last has been sent; what is under way then is what it has to recover from.
    await asyncio.sleep(len(asks) / (FLOOD * rate))
    sent = time.perf_counter()
    well = await _recovered(server, asks[0], 3 * alone, sent)
    answers = await flood
    watching.cancel()
    statuses = {status: sum(a.status == status for a in answers) for status in (200, 429)}
    others = len(answers) - sum(statuses.values())
    if others:
        raise SystemExit(f"{others} requests were answered neither 200 nor 429")
    done = [a.ended for a in answers if a.status == 200 and a.ended <= sent]
    held = len(done) / (sent - began)
    return {
        "share": FLOOD,
        "requests": len(answers),
        "refused": statuses[429] / len(answers),
        "per_second": held,
        "times_saturated": held / rate,
        "resident_mib": {"before": before, "most": max(memory), "after": server.resident_mib},
        "recovered_seconds": well,
        "alone_seconds": alone,
    }


async def _probe(server: Running, ask: Ask) -> Answer:
    connection = Connection(server.url)
    found = await connection.ask("POST", "/v1/predict", body_of(ask))
    await connection.close()
    return found


async def _recovered(server: Running, ask: Ask, bound: float, since: float) -> float:
    """Seconds until one more request is answered about as soon as on an idle server."""
    while True:
        found = await _probe(server, ask)
        if found.status == 200 and found.seconds <= bound:
            return found.ended - found.seconds - since
        await asyncio.sleep(0.02)


async def _watch(server: Running, memory: list[float]) -> None:
    while True:
        memory.append(server.resident_mib)
        await asyncio.sleep(0.1)

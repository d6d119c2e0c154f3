"""Serving many experts from one process, beside what else could serve them, on loopback.

    python benchmarks/serving.py --data ../shared/data --made build/serving

Experts of three kinds on the embedded base (`serving_experts.py`; time does not depend on what they learned) are asked
real rows, one a request, by clients in a process of their own. Every server is a process, too, behind FastAPI and
uvicorn (`serving_servers.py`), and computes with so many threads. All servers stand at once; only one is asked at a
time, in turns within every round; ratios are taken round by round, and medians are over rounds. `--parts` measures some
of them; the result file, written after each, keeps the others.

traffic     the same requests: to 25 experts; to one expert for each kind, kind after kind; to PEFT; to PolyLoRA
            (the runtime behind GLiNER's adapters) where it is installed
one         one expert of one kind: transformers' pipeline, ONNX Runtime
overload    by Poisson's clock at 0.7 and at 3 times the saturated rate
exact       every answer is the offline one, while experts come and go
shelf       a thousand experts
"""

import argparse
import asyncio
import json
import statistics
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import serving_shelf
from machine import machine
from serving_clients import body_of, check, closed
from serving_exact import Exchange, Offline, differs
from serving_experts import COUNTS, Ask, every, make, names_of, rows_of, to_one, traffic
from serving_overload import overload
from serving_servers import ALONE, MANY, WEFT, Running, running
from weft.atomic import write_text

RESULT = Path("results") / "serving-cpu.json"
ONE = "weft, one expert for each kind"
TASK = "wnut17"
"""The set of the expert that is served alone."""
RESIDENTS = 8
"""Experts in memory while answers are checked, fewer than are asked."""


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        made: Folder of experts.
        rows: Inputs by set.
        threads: Of every server.
        clients: At a time, in a closed loop.
        requests: Of one side in one round.
        rounds: Of all sides.
        seconds: Of traffic by Poisson's clock.
        exact: Requests whose answers are checked.
    """

    made: Path
    rows: dict[str, list[dict[str, Any]]]
    threads: int
    clients: int
    requests: int
    rounds: int
    seconds: float
    exact: int


Side = tuple[Running, Sequence[Ask]]


def in_turns(
    plan: Plan, sides: Callable[[int], dict[str, Side]], count: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Requests a second of every side, and a second of processor time, by round; a first round warms them up.

    Args:
        plan: How much.
        sides: What each side is asked in a round, by its number.
        count: Requests of a side.
    """
    taken: dict[str, list[float]] = {}
    spent: dict[str, list[float]] = {}
    for number in range(plan.rounds + 1):
        for name, (server, asks) in sides(number).items():
            own = asks if number else asks[:: max(1, count // 40)]
            before = server.processor_seconds
            seconds, answers = asyncio.run(closed(server.url, own, plan.clients))
            check(answers)
            if number:
                taken.setdefault(name, []).append(len(own) / seconds)
                spent.setdefault(name, []).append(len(own) / (server.processor_seconds - before))
        for rates in (taken, spent):
            print(number, {name: round(own[-1], 1) for name, own in rates.items()}, flush=True)
    return taken, spent


def ratios(taken: dict[str, list[float]], of: str) -> dict[str, float]:
    """The median over rounds of one side's rate over every other's."""
    return {
        name: statistics.median(a / b for a, b in zip(taken[of], own, strict=True))
        for name, own in taken.items()
        if name != of
    }


def compared(taken: dict[str, list[float]], spent: dict[str, list[float]]) -> dict[str, Any]:
    """Rates and ratios as they are written."""
    return {
        "per_second": {name: statistics.median(own) for name, own in taken.items()},
        "times": ratios(taken, WEFT),
        "per_processor_second": {name: statistics.median(own) for name, own in spent.items()},
        "times_by_processor": ratios(spent, WEFT),
        "rounds": taken,
        "rounds_by_processor": spent,
    }


def mixed(plan: Plan) -> dict[str, Any]:
    """25 experts of three kinds, beside one of each kind and beside PEFT."""
    with ExitStack() as stack:
        servers = {
            name: stack.enter_context(running(name, plan.made, plan.threads))
            for name in (WEFT, *MANY)
        }
        # All of them are in memory from here on.
        agree(plan, servers, every(plan.rows, seed=99))

        def sides(number: int) -> dict[str, Side]:
            asks = traffic(plan.rows, plan.requests, seed=number)
            found: dict[str, Side] = {name: (server, asks) for name, server in servers.items()}
            return {WEFT: found.pop(WEFT), ONE: (servers[WEFT], to_one(asks)), **found}

        return compared(*in_turns(plan, sides, plan.requests))


def alone(plan: Plan) -> dict[str, Any]:
    """One expert of one kind, beside what serves no other."""
    with ExitStack() as stack:
        servers = {
            name: stack.enter_context(running(name, plan.made, plan.threads))
            for name in (WEFT, *ALONE)
        }
        name = names_of(TASK)[0]

        def asks_of(seed: int, count: int) -> list[Ask]:
            return [Ask(TASK, name, ask.input) for ask in traffic(plan.rows, count, seed, [TASK])]

        agree(plan, {key: servers[key] for key in (WEFT, ALONE[1])}, asks_of(99, 20))
        found = in_turns(
            plan,
            lambda number: {
                key: (server, asks_of(number, 2 * plan.requests)) for key, server in servers.items()
            },
            2 * plan.requests,
        )
        return {"task": TASK, **compared(*found)}


def agree(plan: Plan, servers: dict[str, Running], asks: Sequence[Ask]) -> None:
    """Refuse to time servers that answer otherwise."""
    said = {}
    for name, server in servers.items():
        _, answers = asyncio.run(closed(server.url, asks, plan.clients))
        check(answers)
        said[name] = [
            {**answer.body["predictions"][0], "id": str(at)} for at, answer in enumerate(answers)
        ]
    for name, own in said.items():
        for ask, one, other in zip(asks, said[WEFT], own, strict=True):
            if differs(one, other):
                raise SystemExit(f"{name} answers {body_of(ask)} otherwise: {other}, not {one}")


def exact(plan: Plan) -> dict[str, Any]:
    """Every answer beside the offline one."""
    few = {task: own[:12] for task, own in plan.rows.items()}
    offline = Offline(plan.made, few)
    more = ("--residents", str(RESIDENTS))
    with running(WEFT, plan.made, plan.threads, *more) as server:
        tally = asyncio.run(Exchange(server.url, offline).run(plan.exact, 64, seed=0))
    print(f"{tally.equal:,} of {tally.asked:,} equal, {tally.puts:,} puts", flush=True)
    return {
        "clients": 64,
        "asked": tally.asked,
        "equal": tally.equal,
        "taken_away": tally.refused,
        "wrong": tally.wrong[:20],
        "puts": tally.puts,
        "versions": len(tally.versions),
        "residents": RESIDENTS,
        "by": dict(tally.by.most_common()),
    }


def main() -> None:
    """Measure what the command line asks for and write the result file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=Path("..") / "shared" / "data")
    parser.add_argument(
        "--made", type=Path, help="Folder for the experts, kept; by default none is."
    )
    parser.add_argument("--parts", nargs="*", default=list(PARTS), choices=PARTS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="Of every server.")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--per-round", type=int, default=240, help="Requests of a side in a round.")
    parser.add_argument("--requests", type=int, default=2000, help="Whose answers are checked.")
    parser.add_argument("--seconds", type=float, default=40.0, help="Of traffic at a given rate.")
    parser.add_argument("--rows", type=int, default=60, help="Different inputs of a set.")
    parser.add_argument("--experts", type=int, default=serving_shelf.EXPERTS)
    parser.add_argument("--loads", type=int, default=serving_shelf.LOADED)
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as scratch:
        made = (arguments.made or Path(scratch) / "made").resolve()
        make(arguments.data.resolve(), made)
        plan = Plan(
            made=made,
            rows=rows_of(arguments.data.resolve(), arguments.rows),
            threads=arguments.threads,
            clients=arguments.clients,
            requests=arguments.per_round,
            rounds=arguments.rounds,
            seconds=arguments.seconds,
            exact=arguments.requests,
        )
        for part in arguments.parts:
            own = PARTS[part](plan, arguments)
            put(arguments.out, part, {"settings": settings_of(plan, arguments), **own})


def settings_of(plan: Plan, given: argparse.Namespace) -> dict[str, Any]:
    """What a part was measured with."""
    return {
        "experts": COUNTS,
        "threads": plan.threads,
        "clients": plan.clients,
        "requests": plan.requests,
        "rounds": plan.rounds,
        "seconds": plan.seconds,
        "rows": given.rows,
    }


def put(path: Path, part: str, found: dict[str, Any]) -> None:
    """Write a part into the result file; the others stay as they were measured."""
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    parts = {**before, part: {**found, "machine": machine("cpu")}}
    ordered = {name: parts[name] for name in PARTS if name in parts}
    result = {"script": "benchmarks/serving.py", **ordered}
    write_text(path, json.dumps(result, indent=1) + "\n")
    print(f"{path}: {part}", flush=True)


PARTS: dict[str, Callable[[Plan, argparse.Namespace], dict[str, Any]]] = {
    "traffic": lambda plan, _: mixed(plan),
    "one": lambda plan, _: alone(plan),
    "overload": lambda plan, _: overload(plan.made, plan.rows, plan.threads, plan.seconds),
    "exact": lambda plan, _: exact(plan),
    "shelf": lambda plan, given: serving_shelf.measure(
        plan.made, given.experts, given.loads, plan.rounds
    ),
}


if __name__ == "__main__":
    main()

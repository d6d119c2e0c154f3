"""Whether a server mixes anything up: many clients, while experts are replaced, taken away and evicted under them.

Every answer is compared with the offline one of the version that it names; each request has an id of its own, which
its answer has to bear.
"""

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import weft
from serving_clients import Answer, Connection
from serving_experts import COUNTS, REPLACED, names_of
from weft.answering.automatic import predict_auto
from weft.answering.prediction import predict, predict_mixed
from weft.lowrank.pool import scaled
from weft.storage.loading import ground_of, load_mixture_model, load_onto
from weft.tasks.contract import Prediction

TOLERANCE = 1e-4
"""Of probabilities: single precision, six layers deep, in batches of other shapes; labels, places, texts are equal."""
CONFIDENCE = 2e-3
"""Of how sure a mixture is of a task, which `auto` says: its recogniser is a linear map of 768 features with weights of
some hundreds here, where it learned from few rows. Rounding of 1e-6 in each makes about sqrt(768) x 1e-4 = 3e-3 of a
logit, a quarter of that of a probability; alone or in company, offline differs as much."""
CHANGED = [name for task in COUNTS for name in names_of(task)[:REPLACED]]
"""Experts that are replaced meanwhile; the last of them is also taken away and brought back."""
KEPT = [name for task in COUNTS for name in names_of(task)[REPLACED:]]
MIXED = "mixed"
WEIGHED = {"wnut17-03": 0.7, "wnut17-04": 0.3}
PREDICT = "/v1/predict"


@dataclass
class Tally:
    """What was asked, and what came."""

    asked: int = 0
    equal: int = 0
    refused: int = 0
    """404: the expert had been taken away."""
    wrong: list[str] = field(default_factory=list)
    by: Counter[str] = field(default_factory=Counter)
    """Answers by who was asked."""
    versions: set[str] = field(default_factory=set)
    puts: int = 0


class Offline:
    """What is right, for inputs of each set: by name and version.

    Args:
        made: Folder of `make`.
        rows: Inputs by set.
    """

    def __init__(self, made: Path, rows: dict[str, list[dict[str, Any]]]) -> None:
        self._made, self.rows = made, rows
        self.single: dict[tuple[str, str], list[Prediction]] = {}
        for name in [*KEPT, *CHANGED]:
            for folder in self.folders(name):
                key = name, folder.parent.name
                self.single[key] = weft.predict(folder, rows[task_of(name)], device="cpu")
        mixture = load_mixture_model(made / "shelf" / MIXED, device="cpu")
        self.named = {task: predict(mixture.runs[task], own) for task, own in rows.items()}
        self.auto = {task: predict_auto(mixture, own) for task, own in rows.items()}
        self.weighed = self._weighed()

    def folders(self, name: str) -> list[Path]:
        """Where an expert's versions lie."""
        found = [self._made / "shelf" / name, self._made / "other" / name]
        return [folder for folder in found if folder.is_dir()]

    def _weighed(self) -> list[Prediction]:
        """Of experts weighed: a sum of changes, answered by the heaviest's head."""
        shelf = self._made / "shelf"
        ground = ground_of(shelf / next(iter(WEIGHED)), device="cpu")
        runs = [load_onto(shelf / name, ground, name=name) for name in WEIGHED]
        held = ground.model.snapshot
        extra = {}
        for run, weight in zip(runs, WEIGHED.values(), strict=True):
            own = held.resident(run.name)
            woven = scaled(own.woven, weight)
            extra[f"{run.name}*"] = type(own)(own.expert, woven, None)
        both = type(held)(held.base, held.trunk, {**held.residents, **extra}, held.is_decoder)
        head = runs[0]
        return predict_mixed(
            both,
            {head.name: head.task},
            [(head.name, value) for value in self.rows[head.task.spec.name]],
            members={head.name: tuple(extra)},
            device="cpu",
        )


def task_of(name: str) -> str:
    """The set of an expert."""
    return name.rpartition("-")[0]


def differs(one: Any, other: Any, bound: float = TOLERANCE) -> bool:
    """Whether two answers are not the same but for rounding."""
    if isinstance(one, dict):
        return one.keys() != other.keys() or any(
            differs(value, other[key], CONFIDENCE if key == "confidence" else bound)
            for key, value in one.items()
        )
    if isinstance(one, list):
        return len(one) != len(other) or any(map(differs, one, other, [bound] * len(one)))
    if isinstance(one, float):
        return abs(one - other) > bound
    return one != other


class Exchange:
    """Clients, and who changes experts under them.

    Args:
        url: The server.
        offline: What is right.
    """

    def __init__(self, url: str, offline: Offline) -> None:
        self._url, self._offline = url, offline
        self._versions: dict[tuple[str, str], str] = {}
        self.tally = Tally()

    async def run(self, requests: int, clients: int, seed: int) -> Tally:
        """So many requests by so many clients."""
        control = Connection(self._url)
        for name in CHANGED:
            for folder in self._offline.folders(name):
                await self._put(control, name, folder)
        changing = asyncio.create_task(self._changes(control))
        left = iter(range(requests))
        try:
            await asyncio.gather(*(self._client(left, seed + at) for at in range(clients)))
        finally:
            changing.cancel()
            await asyncio.wait([changing])
            await control.close()
        if not changing.cancelled():
            changing.result()
        return self.tally

    async def _put(self, control: Connection, name: str, folder: Path) -> None:
        found = await control.ask("PUT", f"/v1/experts/{name}", {"folder": str(folder)})
        if found.status not in (200, 201):
            raise SystemExit(f"PUT {name} was answered {found.status}: {found.body}")
        self._versions[name, found.body["version"]] = folder.parent.name
        self.tally.puts += 1

    async def _changes(self, control: Connection) -> None:
        for turn in itertools.count():
            for name in CHANGED:
                folders = self._offline.folders(name)
                if name == CHANGED[-1]:
                    found = await control.ask("DELETE", f"/v1/experts/{name}")
                    if found.status != 204:
                        raise SystemExit(f"DELETE was answered {found.status}: {found.body}")
                await self._put(control, name, folders[turn % len(folders)])

    async def _client(self, left: Any, seed: int) -> None:
        draws, connection = random.Random(seed), Connection(self._url)
        for number in left:
            expert, task = self._choice(draws)
            at = draws.randrange(len(self._offline.rows[task]))
            row = {**self._offline.rows[task][at], "id": f"request-{number}"}
            self.tally.asked += 1
            found = await connection.ask("POST", PREDICT, {"expert": expert, "inputs": [row]})
            expected = partial(self._expected, expert, task, at)
            self._count(expert, row["id"], expected, found)
        await connection.close()

    def _choice(self, draws: random.Random) -> tuple[Any, str]:
        """Who is asked, and for which set."""
        what = draws.random()
        if what < 0.7:
            name = draws.choice([*KEPT, *CHANGED])
            return name, task_of(name)
        if what < 0.8:
            return WEIGHED, "wnut17"
        task = draws.choice(list(COUNTS))
        return (f"{MIXED}/{task}" if what < 0.9 else "auto"), task

    def _expected(self, expert: Any, task: str, at: int, version: str) -> Prediction | None:
        """What is right; None if no such version was ever there."""
        if isinstance(expert, dict):
            return self._offline.weighed[at]
        if expert == "auto":
            return self._offline.auto[task][at]
        if "/" in expert:
            return self._offline.named[task][at]
        which = self._versions.get((expert, version)) if expert in CHANGED else "shelf"
        return None if which is None else self._offline.single[expert, which][at]

    def _count(
        self,
        expert: Any,
        number: str,
        expected: Callable[[str], Prediction | None],
        found: Answer,
    ) -> None:
        """One answer, beside what is right for the version that it names."""
        said = "weighed" if isinstance(expert, dict) else expert
        if found.status == 404 and expert == CHANGED[-1]:
            self.tally.refused += 1
            return
        if found.status != 200:
            self.tally.wrong.append(f"{said}: {found.status} {found.body}")
            return
        version = found.body["version"]
        right = expected(version)
        [own] = found.body["predictions"]
        if right is None or differs({**right, "id": number}, own):
            self.tally.wrong.append(f"{said} {version}, {number}: {own}, not {right}")
            return
        self.tally.equal += 1
        self.tally.by[said] += 1
        self.tally.versions.add(f"{said} {version}")

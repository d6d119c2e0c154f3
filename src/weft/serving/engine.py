"""Requests in, answers out: `weft serve` without HTTP.

    request ─ lease experts ─ encode (a pool) ─ queue ─ one forward a batch (one thread) ─ decode (a pool) ─> answers

All state is the event loop's; threads are given values and hand values back. Answers are those of `weft predict`: the
steps are the same functions, a batch with the same rows is the same batch, and in other company a row's numbers move by
rounding alone.
"""

import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from weft.answering.generation import Generation
from weft.answering.inputs import Input
from weft.serving.computing.batches import Group, Reading, gate
from weft.serving.computing.scheduler import Scheduler
from weft.serving.embedding import READER, Embedded, embedding_task
from weft.serving.entries import Entry
from weft.serving.errors import BadInput
from weft.serving.gates import Gates, layer_of
from weft.serving.load import Load
from weft.serving.names import AUTO
from weft.serving.request.asking import Asked, Speaker, asked_of, speaker
from weft.serving.request.call import Call
from weft.serving.request.door import Door
from weft.serving.request.rows import decoded
from weft.serving.settings import Limits, Options
from weft.serving.shelf import Shelf
from weft.serving.streaming import Delta, Message, Tell, relayed, write
from weft.tasks.contract import Prediction

NO_OPTIONS = Options()
BASE = "."
"""What requests to the bare base count for; no expert has such a name."""


@dataclass(frozen=True)
class Answers:
    """What a request is answered with."""

    predictions: list[Prediction]
    """As of `weft predict`, in order."""
    expert: str
    """Who answered: a name, or names and weights."""
    version: str
    """Of who answered: the first digits of the SHA-256 over its files; of experts that were weighed, all of them."""
    tokens: int
    """Read for it, and written."""
    seconds: float
    """From asking to answer."""


class Engine:
    """Answers requests for the experts of a shelf.

    Requests may be made before it is entered; they wait.

    Args:
        shelf: The experts.
        limits: How much it takes on.
    """

    def __init__(self, shelf: Shelf, limits: Limits | None = None) -> None:
        self.shelf = shelf
        self.limits = limits or Limits()
        self._scheduler = Scheduler(self.limits)
        self._door = Door(self.limits, self._scheduler.overload)
        self._texts = ThreadPoolExecutor(max(1, (os.cpu_count() or 2) // 2), "weft-text")

    async def __aenter__(self) -> Self:
        await self.shelf.open()
        self._scheduler.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.drain(self.limits.patience)
        await self._scheduler.stop()
        self._texts.shutdown(wait=True, cancel_futures=True)
        self.shelf.close()

    async def predict(
        self,
        expert: str | Mapping[str, float],
        inputs: Sequence[Input],
        *,
        options: Options = NO_OPTIONS,
        deadline: float | None = None,
    ) -> Answers:
        """What an expert says of each input, in order; inputs without an `id` are numbered from 0.

        Args:
            expert: A name; `NAME/TASK`, one of several experts or a task of a mixture; a mixture's name, `NAME/auto` or
                `auto`: whichever task it takes each input for; or weights by name: the experts' changes, each times its
                weight, add up, and the head of the heaviest answers, or that of `options.task`.
            inputs: Texts, or mappings of the task's columns.
            options: What the request sets.
            deadline: Seconds after which no answer is wanted any more; None takes the engine's patience.

        Raises:
            ServingError: One of them, where there is no answer.
        """
        began = time.perf_counter()
        asked = asked_of(expert, options, self.shelf.auto)
        async with self._call(asked, len(inputs), deadline) as call:
            found, tokens = await call.predictions(inputs, options.generation)
            name, version = call.who
        return Answers(found, name, version, tokens, time.perf_counter() - began)

    async def embed(
        self,
        texts: Sequence[str],
        expert: str | None = None,
        *,
        normalize: bool = True,
        deadline: float | None = None,
    ) -> Embedded:
        """A vector of each text: the mean of its last states.

        Args:
            texts: The texts.
            expert: Who speaks in the trunk; None is the bare base.
            normalize: Whether vectors have length 1.
            deadline: As of `predict`.

        Raises:
            ServingError: One of them, where there is no answer.
        """
        asked = None if expert is None else asked_of(expert, Options(), self.shelf.auto)
        async with self._call(asked, len(texts), deadline) as call:
            task = embedding_task(call.ground.model.base, normalize=normalize)
            reader = Speaker(task, READER, ())
            if call.residents:
                own = next(iter(call.own.runs.values()))
                reader = Speaker(task, READER, own.members, states=call.own.states)
            speakers = [reader] * len(texts)
            rows = await call.encoded(speakers, [{"text": text} for text in texts], None)
            outputs = await call.read(rows)
            found = await call.in_pool(partial(decoded, rows, outputs))
            name, version = call.who
        vectors = [one["vector"] for one in found]
        return Embedded(vectors, name, version, sum(row.tokens for row in rows))

    async def gates(
        self,
        expert: str,
        value: Input,
        *,
        options: Options = NO_OPTIONS,
        deadline: float | None = None,
    ) -> Gates:
        """What a mixture's gates say of one input, token by token.

        Args:
            expert: The mixture, with or without a task.
            value: The input.
            options: What the request sets.
            deadline: As of `predict`.

        Raises:
            BadInput: If it is no mixture, or the input is not what the task takes.
            ServingError: Others, where there is no answer.
        """
        asked = asked_of(expert, options, self.shelf.auto)
        async with self._call(asked, 1, deadline) as call:
            own = call.own
            if own.mixture is None:
                raise BadInput(f"{own.name} is one expert and has no gates; name a mixture")
            task = asked.task
            if task in (None, AUTO):
                [(_, task)] = await call.recognised([value])
            [row] = await call.encoded([speaker(own, task)], [value], None)
            if row.writes:
                raise BadInput(
                    "gates are shown of inputs that are read; this task's are written on"
                )
            [found] = await call.done([Reading(row.item)], Group(gate, own.ground))
            names = {name for sequence in found for name in sequence.gates}
            return Gates(
                expert=own.name,
                version=own.version,
                task=str(task),
                experts=tuple(own.mixture.mix.mixture.experts),
                sequences=found,
                layers={name: layer_of(name) for name in sorted(names)},
            )

    def stream(
        self,
        expert: str | Mapping[str, float],
        text: str | Sequence[Message],
        *,
        options: Options = NO_OPTIONS,
        deadline: float | None = None,
    ) -> AsyncGenerator[Delta]:
        """What an expert writes behind a text, or in answer to messages, as it is written.

        The pieces together are the continuation of `predict`; where a text cannot be written in company, there is one.

        Args:
            expert: As of `predict`.
            text: The prompt, or messages with `role` and `content`.
            options: What the request sets.
            deadline: As of `predict`.

        Raises:
            BadInput: If the expert writes no text.
            ServingError: Others, where there is no answer.
        """
        return relayed(partial(self._write, expert, text, options, deadline))

    async def experts(self) -> list[Entry]:
        """All there is on the shelf, by name."""
        return await self.shelf.entries()

    async def entry(self, name: str) -> Entry:
        """One of them; see `Shelf.entry`."""
        return await self.shelf.entry(name)

    async def put(self, name: str, folder: str | Path) -> Entry:
        """Let a name mean the expert in a folder; see `Shelf.put`."""
        return await self.shelf.put(name, folder)

    async def remove(self, name: str) -> None:
        """Let a name mean nothing; see `Shelf.remove`."""
        await self.shelf.remove(name)

    async def point(self, folders: Mapping[str, Path | None]) -> None:
        """Let names mean folders, unread; see `Shelf.point`."""
        await self.shelf.point(folders)

    async def drain(self, seconds: float) -> None:
        """Take nothing new; wait for what is under way, and after so many seconds refuse what is left."""
        await self._door.drain(seconds)

    def load(self) -> Load:
        """How busy it is."""
        return self._scheduler.meter.load(
            waiting=self._scheduler.queue.lengths(),
            rows=self._door.rows,
            writing=self._scheduler.writing,
            residents=len(self.shelf.residents),
            bytes=self.shelf.bytes,
            draining=self._door.draining,
        )

    @asynccontextmanager
    async def _call(
        self, asked: Asked | None, rows: int, deadline: float | None
    ) -> AsyncIterator[Call]:
        """A request under way, its experts in memory; None asks the bare base."""
        flow = BASE if asked is None else asked.flow
        async with (
            self._door.admitted(flow, rows, deadline) as until,
            self.shelf.leased(asked.names if asked else ()) as residents,
        ):
            yield Call(
                scheduler=self._scheduler,
                texts=self._texts,
                ground=residents[0].ground if residents else self.shelf.ground,
                asked=asked,
                residents=residents,
                flow=flow,
                until=until,
                most=self.limits.row_tokens,
            )

    async def _write(
        self,
        expert: str | Mapping[str, float],
        text: str | Sequence[Message],
        options: Options,
        deadline: float | None,
        tell: Tell,
    ) -> None:
        asked = asked_of(expert, options, self.shelf.auto)
        async with self._call(asked, 1, deadline) as call:
            await write(call, text, options.generation or Generation(), tell)

"""Requests in, answers out: `weft serve` without HTTP.

    request ─ lease experts ─ encode (a pool) ─ queue ─ one forward a batch (one thread) ─ decode (a pool) ─> answers

All state is the event loop's; threads are given values and hand values back. Answers are those of `weft predict`: the
steps are the same functions, a batch with the same rows is the same batch, and in other company a row's numbers move by
rounding alone.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Self

from weft.answering.inference import Filling, order_of, units_of, whole
from weft.answering.prediction import Input, checked_input, refuse_generation
from weft.base.tokens import check_tokens
from weft.model.batching import Item
from weft.registry import said_by
from weft.serving.batches import answered
from weft.serving.entries import Entry
from weft.serving.errors import BadInput, DeadlinePassed, Draining, Failed, ServingError, TooLarge
from weft.serving.load import Load, Meter
from weft.serving.queue import Job, Queue, Unit, jobs_of
from weft.serving.resident import Resident
from weft.serving.settings import Limits, Options
from weft.serving.shelf import Shelf
from weft.storage.loading import Ground, LoadedRun
from weft.tasks.contract import Example, Prediction, Record

NO_OPTIONS = Options()


@dataclass(frozen=True)
class Answers:
    """What a request is answered with."""

    predictions: list[Prediction]
    """As of `weft predict`, in order."""
    expert: str
    """Who answered."""
    version: str
    """Of who answered."""
    tokens: int
    """Read and written for it."""
    seconds: float
    """From asking to answer."""


@dataclass(frozen=True)
class Row:
    """An input on its way: who answers it, and its two forms."""

    run: LoadedRun
    example: Example
    record: Record


class Waiting(Job):
    """A request in the queue, and what has been said of its units so far."""

    def __init__(self, flow: str, deadline: float) -> None:
        super().__init__(flow, deadline)
        self.answer: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._found: dict[int, Any] = {}
        self._count = 0

    def hold(self, units: Sequence[tuple[Any, Any, int]]) -> None:
        """Take units: what is to be done, its group, its tokens."""
        for place, (work, group, tokens) in enumerate(units):
            self.units.append(Unit(self, place, work, group, tokens))
        self._count = len(self.units)

    def give(self, place: int, output: Any) -> None:
        """What came of a unit; the last one answers the request."""
        self._found[place] = output
        if len(self._found) == self._count and not self.answer.done():
            self.answer.set_result([self._found[at] for at in range(self._count)])

    def refuse(self, error: ServingError) -> None:
        self.gone = True
        if not self.answer.done():
            self.answer.set_exception(error)


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
        self._queue = Queue(self.limits.quantum, self.limits.waiting_tokens)
        self._work = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._texts = ThreadPoolExecutor(max(1, (os.cpu_count() or 2) // 2), "weft-text")
        self._forward = ThreadPoolExecutor(1, "weft-forward")
        self._rows = 0
        self._requests: set[asyncio.Task[Any]] = set()
        self._meter = Meter()
        self._draining = False
        self._loop: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self.shelf.open()
        self._loop = asyncio.create_task(self._serve(), name="weft-engine")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.drain(self.limits.patience)
        assert self._loop is not None
        self._loop.cancel()
        await asyncio.wait([self._loop])
        for pool in (self._texts, self._forward):
            pool.shutdown(wait=True, cancel_futures=True)
        self.shelf.close()

    async def predict(
        self,
        expert: str | Mapping[str, float],
        inputs: Sequence[Input],
        *,
        options: Options = NO_OPTIONS,
        deadline: float | None = None,
    ) -> Answers:
        """What an expert says of each input, in order.

        Args:
            expert: Its name.
            inputs: Texts, or mappings of the task's columns.
            options: What the request sets.
            deadline: Seconds after which no answer is wanted any more; None takes the engine's patience.

        Raises:
            ServingError: One of them, where there is no answer.
        """
        assert isinstance(expert, str)
        async with self._request(expert, len(inputs), deadline) as until:
            began = time.perf_counter()
            async with self.shelf.leased([expert]) as [resident]:
                rows = await self._in_pool(partial(_encoded, resident, inputs, options))
                raw = await self._answered(resident, rows, until)
                predictions = await self._in_pool(partial(_decoded, rows, raw))
            tokens = sum(_tokens(row.record) for row in rows)
            seconds = time.perf_counter() - began
            return Answers(predictions, resident.name, resident.version, tokens, seconds)

    async def experts(self) -> list[Entry]:
        """All there is on the shelf."""
        return await self.shelf.entries()

    async def entry(self, name: str) -> Entry:
        """One of them."""
        return await self.shelf.entry(name)

    async def put(self, name: str, folder: str) -> Entry:
        """Let a name mean the expert in a folder; see `Shelf.put`."""
        return await self.shelf.put(name, folder)

    async def remove(self, name: str) -> None:
        """Let a name mean nothing; see `Shelf.remove`."""
        await self.shelf.remove(name)

    async def drain(self, seconds: float) -> None:
        """Take nothing new; wait for what is under way, and after `seconds` refuse what is left."""
        self._draining = True
        if self._requests:
            await asyncio.wait(self._requests, timeout=seconds)

    def load(self) -> Load:
        """How busy it is."""
        return self._meter.load(
            waiting=self._queue.lengths(),
            rows=self._rows,
            residents=len(self.shelf.residents),
            bytes=self.shelf.bytes,
            draining=self._draining,
        )

    @asynccontextmanager
    async def _request(self, flow: str, rows: int, deadline: float | None) -> AsyncIterator[float]:
        """A request under way: counted, refused where there is too much, given up when its time is over."""
        if self._draining:
            raise Draining("the server is about to end and takes nothing new; ask another")
        if rows > self.limits.rows:
            raise TooLarge(
                f"{rows:,} inputs in one request, over the {self.limits.rows:,} that it may hold; send several"
            )
        if self._rows + rows > self.limits.waiting_rows and self._rows:
            raise self._queue.overload(flow, self._meter.seconds_for(self._queue.tokens))
        patience = self.limits.patience if deadline is None else deadline
        until = asyncio.get_running_loop().time() + patience
        task = asyncio.current_task()
        assert task is not None
        self._requests.add(task)
        self._rows += rows
        try:
            async with asyncio.timeout_at(until) as scope:
                yield until
        except TimeoutError:
            if not scope.expired():
                raise
            raise DeadlinePassed(
                f"no answer in the {patience:g} s that the request gave; ask again with more, or fewer inputs at a time"
            ) from None
        finally:
            self._rows -= rows
            self._requests.discard(task)

    async def _answered(self, own: Resident, rows: Sequence[Row], until: float) -> list[Any]:
        """What the heads say of rows, when their turn has come."""
        units = [(at, unit) for at, row in enumerate(rows) for unit in units_of(_item(row))]
        if not units:
            return []
        job = Waiting(own.name, until)
        order = order_of([unit for _, unit in units])
        job.hold([(units[at][1], own.ground, _tokens(units[at][1].record)) for at in order])
        said = dict(zip(order, await self._waited(job), strict=True))
        parts: list[list[Any]] = [[] for _ in rows]
        for at, (row, _) in enumerate(units):
            parts[row].append(said[at])
        return [whole(one) for one in parts]

    async def _waited(self, job: Waiting) -> list[Any]:
        self._queue.put(job, self._meter.seconds_for(self._queue.tokens))
        self._work.set()
        try:
            return await job.answer
        finally:
            # Answered, refused, or whoever asked has left: nothing of it stays.
            self._queue.discard(job)

    async def _serve(self) -> None:
        """One batch after another, for as long as the engine is open."""
        while True:
            await self._work.wait()
            self._work.clear()
            while self._queue:
                await self._batch()

    async def _batch(self) -> None:
        # The largest vocabulary of all bases: it matters to language models alone.
        vocabulary = max(own.model.base.config.vocab_size for own in self.shelf.grounds)
        units = self._queue.take(Filling(self.limits.batch_tokens, vocabulary))
        if not units:
            return
        ground = units[0].group
        assert isinstance(ground, Ground)
        began = time.perf_counter()
        # Taken here: whoever is leased now is in it, whatever happens before the thread begins.
        call = partial(
            answered,
            ground.model.snapshot,
            [unit.work for unit in units],
            device=ground.device,
            precision=ground.precision,
        )
        done = asyncio.get_running_loop().run_in_executor(self._forward, call)
        await asyncio.wait([done])
        error = done.exception()
        if error is not None:
            for job in jobs_of(units):
                job.refuse(_failed(error))  # type: ignore[arg-type]
            return
        self._meter.ran(sum(unit.tokens for unit in units), time.perf_counter() - began)
        for unit, output in zip(units, done.result(), strict=True):
            unit.job.give(unit.place, output)  # type: ignore[attr-defined]

    async def _in_pool(self, call: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._texts, call)


def _failed(error: BaseException) -> Failed:
    return Failed(
        f"the forward pass failed: {type(error).__name__}: {error}; the server goes on, ask again"[
            :400
        ]
    )


def _encoded(resident: Resident, inputs: Sequence[Input], options: Options) -> list[Row]:
    """Inputs as the expert's task has them."""
    run = next(iter(resident.runs.values()))
    try:
        refuse_generation(run.task, options.generation)
        examples = [checked_input(run.task, value, at) for at, value in enumerate(inputs)]
        base = run.model.base
        records = [run.task.encode(example, base.tokenizer) for example in examples]
        check_tokens(base, records)
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(said_by(error)) from error
    return [Row(run, example, record) for example, record in zip(examples, records, strict=True)]


def _decoded(rows: Sequence[Row], raw: Sequence[Any]) -> list[Prediction]:
    return [
        row.run.task.decode(row.example, row.record, output)
        for row, output in zip(rows, raw, strict=True)
    ]


def _item(row: Row) -> Item:
    run = row.run
    return Item(run.name, run.task.spec.kind, run.members, row.record)


def _tokens(record: Record) -> int:
    return sum(len(ids) for ids in record["input_ids"])

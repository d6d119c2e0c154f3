"""What is computed next: a batch of whatever waits, then a token of every text that is being written, and again.

One thread computes. The loop forms a batch only when the thread is free, so that a batch holds all that came meanwhile,
and a request that leaves before costs nothing.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from weft.answering.inference import Filling, tokens_for
from weft.model.batching import SMALL_TOKENS, SPREAD
from weft.serving.computing.batches import Group, Reading
from weft.serving.computing.queue import Job, Queue, Unit, jobs_of
from weft.serving.computing.waiting import Waiting
from weft.serving.computing.writing import Chunk, Writer
from weft.serving.errors import Failed, Overloaded
from weft.serving.load import Meter
from weft.serving.settings import Limits
from weft.storage.loading import Ground

Heard = Callable[[], None]
"""Called after every token of a text that somebody listens to."""


class Scheduler:
    """Computes what waits.

    Args:
        limits: How much at a time.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.meter = Meter()
        self.queue = Queue(limits.quantum, limits.waiting_tokens)
        self._writers: dict[Ground, Writer] = {}
        self._written: dict[int, Unit] = {}
        self._jobs: set[Waiting] = set()
        self._heard: dict[int, Heard] = {}
        self._work = asyncio.Event()
        self._forward = ThreadPoolExecutor(1, "weft-forward")
        self._task: asyncio.Task[None] | None = None

    @property
    def writing(self) -> int:
        """Texts that are being written."""
        return sum(writer.count for writer in self._writers.values())

    def start(self) -> None:
        """Begin to compute."""
        self._task = asyncio.create_task(self._serve(), name="weft-scheduler")
        self._task.add_done_callback(self._stopped)

    async def stop(self) -> None:
        """End after the batch under way."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._forward.shutdown(wait=True, cancel_futures=True)

    def _stopped(self, task: "asyncio.Task[None]") -> None:
        """Nobody waits for what will not be computed."""
        error = None if task.cancelled() else task.exception()
        for job in list(self._jobs):
            job.refuse(Failed(f"the server computes no more: {type(error).__name__}: {error}"))

    def writer(self, ground: Ground) -> Writer:
        """The writer of a model."""
        if ground not in self._writers:
            self._writers[ground] = Writer(ground)
        return self._writers[ground]

    async def done(self, job: Waiting, heard: Heard | None = None) -> list[Any]:
        """What comes of a job's works, in order.

        Args:
            job: The job.
            heard: Called on the loop after every token of the texts it writes.

        Raises:
            Overloaded: If there is no room for it, or it is put out for another's.
            Failed: If computing it failed.
        """
        if not job.units:
            return []
        if self._task is not None and self._task.done():
            raise Failed("the server computes no more; start it again")
        chunks = [unit.work for unit in job.units if isinstance(unit.work, Chunk)]
        most = min(self.limits.waiting_tokens, self.meter.tokens_in(self.limits.waiting_seconds))
        self.queue.most = int(most)
        self.queue.put(job, self.meter.seconds_for(self.queue.tokens))
        self._jobs.add(job)
        if heard is not None:
            self._heard |= {id(chunk): heard for chunk in chunks}
        self._work.set()
        try:
            return await job.answer
        finally:
            # Answered, refused, or whoever asked has left: nothing of it stays.
            self._jobs.discard(job)
            self.queue.discard(job)
            for chunk in chunks:
                chunk.gone = True
                self._heard.pop(id(chunk), None)

    def overload(self, flow: str) -> Overloaded:
        """The refusal of what finds no room."""
        return self.queue.overload(flow, self.meter.seconds_for(self.queue.tokens))

    async def _serve(self) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            while self.queue or any(writer.chunks for writer in self._writers.values()):
                await self._batch()
                for writer in list(self._writers.values()):
                    if writer.chunks:
                        await self._step(writer)

    async def _batch(self) -> None:
        batch = _Filled(self.limits, self._writers.values())
        units = self.queue.take(batch)
        if not units:
            return
        group = units[0].group
        assert isinstance(group, Group)
        found = await self._computed(group.call([unit.work for unit in units]), units)
        for unit, output in zip(units, found or (), strict=False):
            if isinstance(unit.work, Chunk):
                self._written[id(unit.work)] = unit
            else:
                _give(unit, output)
        self._tell(units)

    async def _step(self, writer: Writer) -> None:
        before = list(writer.chunks)
        units = [self._written[id(c)] for c in before if id(c) in self._written]
        # Taken here: whoever is leased now is in it, whatever happens before the thread begins.
        call = partial(writer.step, writer.ground.model.snapshot)
        await self._computed(call, units, tokens=writer.count)
        self._tell(units)

    def _tell(self, units: Sequence[Unit]) -> None:
        """Pass on what was written, and answer for what has ended."""
        for unit in units:
            chunk = unit.work
            if not isinstance(chunk, Chunk) or id(chunk) not in self._written:
                continue
            if heard := self._heard.get(id(chunk)):
                heard()
            if chunk.ended:
                del self._written[id(chunk)]
                if not chunk.gone:
                    _give(unit, chunk)

    async def _computed(
        self, call: Callable[[], Any], units: Sequence[Unit], tokens: int | None = None
    ) -> Any:
        """What the thread makes of it; None if it failed, and then all that were in it are refused."""
        began = time.perf_counter()
        done = asyncio.get_running_loop().run_in_executor(self._forward, call)
        await asyncio.wait([done])
        error = done.exception()
        if error is not None:
            said = f"the forward pass failed: {type(error).__name__}: {error}"[:300]
            for job in jobs_of(units):
                assert isinstance(job, Waiting)
                job.refuse(Failed(f"{said}; the server goes on, ask again"))
            for unit in units:
                if isinstance(unit.work, Chunk):
                    unit.work.gone = True
            return None
        count = sum(unit.tokens for unit in units) if tokens is None else tokens
        self.meter.ran(count, time.perf_counter() - began)
        return done.result()


class _Filled:
    """A batch that takes works of any group while there is room.

    Rows of several requests share it where they are about as long: else they would be mostly padding.
    """

    def __init__(self, limits: Limits, writers: Iterable[Writer]) -> None:
        self._limits = limits
        self._filling: Filling | None = None
        self._lengths: list[int] = []
        self._jobs: set[Job] = set()
        writers = list(writers)
        self._lines = sum(writer.count for writer in writers)
        self._columns = sum(writer.columns for writer in writers)

    def allows(self, unit: Unit) -> bool:
        """Whether a work may be the next: a text where there is a place for it, a row that is about as long."""
        work = unit.work
        if isinstance(work, Chunk):
            return self._fits(work)
        if not isinstance(work, Reading) or not self._lengths or unit.job in self._jobs:
            return True
        lengths = [*self._lengths, work.item.length]
        padded = len(lengths) * max(lengths)
        return padded <= SMALL_TOKENS or max(lengths) <= SPREAD * min(lengths)

    def takes(self, unit: Unit) -> bool:
        """Whether there is room for it, which is then taken."""
        work, group = unit.work, unit.group
        assert isinstance(group, Group)
        if isinstance(work, Chunk):
            self._lines += len(work.lines)
            self._columns += work.columns
            return True
        if not isinstance(work, Reading):
            # What is written in one go goes alone.
            free = self._filling is None
            self._filling = Filling(0, 1)
            return free
        if self._filling is None:
            vocabulary = group.ground.model.base.config.vocab_size
            most = self._limits.batch_tokens or tokens_for(group.ground.device)
            self._filling = Filling(most, vocabulary)
        if not self._filling.takes(work.item):
            return False
        self._jobs.add(unit.job)
        self._lengths.append(work.item.length)
        return True

    def _fits(self, chunk: Chunk) -> bool:
        lines = self._lines + len(chunk.lines)
        columns = self._columns + chunk.columns
        most = self._limits
        return not self._lines or (lines <= most.sequences and columns <= most.cached_tokens)


def _give(unit: Unit, output: Any) -> None:
    assert isinstance(unit.job, Waiting)
    unit.job.give(unit.place, output)

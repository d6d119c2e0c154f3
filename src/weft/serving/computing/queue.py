"""What waits for a forward pass: fair by expert, urgent first within one, bounded.

Deficit round robin (Shreedhar and Varghese 1996, doi:10.1109/90.502236): in each round every expert that has rows
waiting is given so many tokens to spend, and keeps what it does not spend while it has rows. So a flood for one expert
takes its share of every batch and no more, whatever the lengths of rows. Within an expert the request whose deadline
comes first goes first, and its rows longest first, as offline: a request alone is cut into the same batches.
"""

import heapq
from collections import OrderedDict, deque
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Protocol

from weft.serving.errors import Overloaded


class Batch(Protocol):
    """What units join while it has room."""

    def allows(self, unit: "Unit") -> bool:
        """Whether a unit can be the next at all."""
        ...

    def takes(self, unit: "Unit") -> bool:
        """Whether there is room for a unit, which is then taken."""
        ...


@dataclass(eq=False)
class Unit:
    """What is computed as one.

    Attributes:
        job: The request that it is of.
        place: Its number in the request.
        work: What is to be done.
        group: Units of one group can share a batch.
        tokens: What it costs.
    """

    job: "Job"
    place: int
    work: Any
    group: Hashable
    tokens: int


@dataclass(eq=False)
class Job:
    """What one request has waiting.

    Attributes:
        flow: The expert that it is for.
        deadline: When it is of no use any more, on the loop's clock.
    """

    flow: str
    deadline: float
    units: deque[Unit] = field(default_factory=deque)
    number: int = 0
    gone: bool = False

    @property
    def tokens(self) -> int:
        """Of what waits."""
        return sum(unit.tokens for unit in self.units)

    def refuse(self, error: Overloaded) -> None:
        """Called where the job is put out for others; it has left the queue."""
        raise NotImplementedError


@dataclass(eq=False)
class _Flow:
    """The jobs of one expert, the most urgent first."""

    name: str
    heap: list[tuple[float, int, Job]] = field(default_factory=list)
    tokens: int = 0
    deficit: int = 0

    def head(self) -> Unit | None:
        while self.heap:
            job = self.heap[0][2]
            if job.units and not job.gone:
                return job.units[0]
            heapq.heappop(self.heap)
        return None

    def pop(self) -> Unit:
        unit = self.heap[0][2].units.popleft()
        self.tokens -= unit.tokens
        self.deficit -= unit.tokens
        return unit

    def last(self) -> Job | None:
        """The job that would be served last."""
        alive = [entry for entry in self.heap if entry[2].units and not entry[2].gone]
        return max(alive)[2] if alive else None


class Queue:
    """Units by expert.

    Args:
        quantum: Tokens that an expert is given in a round.
        most: Tokens that may wait in all; may be changed, and holds for what comes.
    """

    def __init__(self, quantum: int, most: int) -> None:
        self._quantum, self.most = quantum, most
        self._flows: OrderedDict[str, _Flow] = OrderedDict()
        self._numbers = count()
        self.tokens = 0

    def __bool__(self) -> bool:
        return any(flow.head() is not None for flow in self._flows.values())

    def lengths(self) -> dict[str, int]:
        """Tokens that wait, by expert."""
        return {name: flow.tokens for name, flow in self._flows.items() if flow.tokens}

    def put(self, job: Job, retry_after: float) -> None:
        """Let a job wait. Where there is no room, the last of the expert that has most waiting is put out for it.

        Raises:
            Overloaded: If the job's own expert is that one.
        """
        tokens = job.tokens
        # What was let in before the bound fell stays: a newcomer takes no more than its own place.
        most = max(self.most, self.tokens)
        while self.tokens and self.tokens + tokens > most:
            own = self._flows.get(job.flow)
            mine = tokens + (own.tokens if own else 0)
            heaviest = max(self._flows.values(), key=lambda flow: flow.tokens)
            victim = heaviest.last()
            if mine >= heaviest.tokens or victim is None:
                raise self.overload(job.flow, retry_after)
            self.discard(victim)
            victim.refuse(self.overload(victim.flow, retry_after))
        job.number = next(self._numbers)
        flow = self._flows.setdefault(job.flow, _Flow(job.flow))
        heapq.heappush(flow.heap, (job.deadline, job.number, job))
        flow.tokens += tokens
        self.tokens += tokens

    def overload(self, flow: str, retry_after: float) -> Overloaded:
        """The sentence for a job that finds no room."""
        own = self._flows.get(flow)
        return Overloaded(
            f"{self.tokens:,} tokens wait, {own.tokens if own else 0:,} of them for {flow}, and {self.most:,} may; "
            f"ask again in {retry_after:.1f} s, or fewer at a time",
            retry_after,
        )

    def discard(self, job: Job) -> None:
        """Take what a job has waiting out."""
        tokens = job.tokens
        flow = self._flows.get(job.flow)
        if flow is not None and not job.gone:
            flow.tokens -= tokens
            self.tokens -= tokens
        job.gone = True
        job.units.clear()

    def take(self, batch: Batch) -> list[Unit]:
        """Units of one group that the batch has room for, fair by expert.

        Who has to wait for another batch keeps its place in front of those who were served, so that the next batch is
        its own.
        """
        taken: list[Unit] = []
        while True:
            waits = True
            for flow in list(self._flows.values()):
                unit = flow.head()
                if unit is None:
                    del self._flows[flow.name]
                elif (not taken or unit.group == taken[0].group) and batch.allows(unit):
                    waits = False
                    if not self._serve(flow, unit.group, batch, taken):
                        return taken
            if waits:
                return taken

    def _serve(self, flow: _Flow, group: Hashable, batch: Batch, taken: list[Unit]) -> bool:
        """The turn of a flow; False where the batch has no more room."""
        head = flow.head()
        assert head is not None
        # No more than it could want at once: what a full batch has kept from it is no debt for later.
        flow.deficit = min(flow.deficit + self._quantum, self._quantum + head.tokens)
        served, room = 0, True
        for unit in self._spent(flow, group):
            if taken and not batch.allows(unit):
                break
            if not batch.takes(unit):
                room = False
                break
            taken.append(flow.pop())
            self.tokens -= unit.tokens
            served += 1
        if served or room:
            self._turn(flow)
        return room

    def _spent(self, flow: _Flow, group: Hashable) -> Iterator[Unit]:
        """The next units of a flow, while it can pay for them."""
        while (unit := flow.head()) is not None:
            if unit.group != group or unit.tokens > flow.deficit:
                return
            yield unit

    def _turn(self, flow: _Flow) -> None:
        """The flow has had its turn."""
        if flow.head() is None:
            del self._flows[flow.name]
        else:
            self._flows.move_to_end(flow.name)


def jobs_of(units: Sequence[Unit]) -> list[Job]:
    """The requests that units are of, each once."""
    return list(dict.fromkeys(unit.job for unit in units))

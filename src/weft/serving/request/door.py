"""Requests under way: counted, refused at the door where there is too much, given up when their time is over."""

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from weft.serving.errors import BadInput, DeadlinePassed, Draining, Overloaded, TooLarge
from weft.serving.settings import Limits


class Door:
    """What is under way.

    Args:
        limits: How much may be.
        overload: The refusal of what finds no room, for an expert.
    """

    def __init__(self, limits: Limits, overload: Callable[[str], Overloaded]) -> None:
        self._limits, self._overload = limits, overload
        self._rows: Counter[str] = Counter()
        self._scopes: set[asyncio.Timeout] = set()
        self._none = asyncio.Event()
        self._none.set()
        self.draining = False
        self._ended = False

    @property
    def rows(self) -> int:
        """Inputs under way."""
        return self._rows.total()

    @asynccontextmanager
    async def admitted(self, flow: str, rows: int, deadline: float | None) -> AsyncIterator[float]:
        """A request under way; gives the time at which it is given up, on the loop's clock.

        Args:
            flow: The expert that it counts for.
            rows: Inputs.
            deadline: Seconds from now; None takes the engine's patience.

        Raises:
            BadInput, Draining, TooLarge, Overloaded: At the door.
            DeadlinePassed: When its time is over.
        """
        patience = self._limits.patience if deadline is None else deadline
        if not 0 <= patience < math.inf:
            raise BadInput(f"a deadline is a number of seconds from now, got {deadline!r:.40}")
        self._check(flow, rows)
        until = asyncio.get_running_loop().time() + patience
        scope = asyncio.timeout_at(until)
        self._rows[flow] += rows
        self._scopes.add(scope)
        self._none.clear()
        try:
            async with scope:
                yield until
        except TimeoutError:
            if not scope.expired():
                raise
            if self._ended:
                raise Draining("the server ended before there was an answer; ask another") from None
            raise DeadlinePassed(
                f"no answer in the {patience:g} s that the request gave; give it more, or fewer inputs at a time"
            ) from None
        finally:
            self._rows[flow] -= rows
            if not self._rows[flow]:
                del self._rows[flow]
            self._scopes.discard(scope)
            if not self._scopes:
                self._none.set()

    async def drain(self, seconds: float) -> None:
        """Take nothing new; wait for what is under way, and after so many seconds refuse what is left."""
        self.draining = True
        try:
            async with asyncio.timeout(seconds):
                await self._none.wait()
        except TimeoutError:
            self._ended = True
            now = asyncio.get_running_loop().time()
            for scope in self._scopes:
                if not scope.expired():
                    scope.reschedule(now)
            await self._none.wait()

    def _check(self, flow: str, rows: int) -> None:
        if self.draining:
            raise Draining("the server is about to end and takes nothing new; ask another")
        if rows > self._limits.rows:
            raise TooLarge(
                f"{rows:,} inputs in one request, over the {self._limits.rows:,} that it may hold; send several"
            )
        most = self._limits.waiting_rows
        if self.rows + rows > most and self._rows:
            # Whoever has less than an equal share is let in: a flood for one expert shuts the door for that one alone.
            flows = len(self._rows.keys() | {flow})
            if self._rows[flow] + rows > most // flows:
                raise self._overload(flow)

"""A request in the queue, and what has come of its works so far."""

import asyncio
from collections.abc import Sequence
from typing import Any

from weft.serving.computing.batches import Group
from weft.serving.computing.queue import Job, Unit
from weft.serving.errors import ServingError


class Waiting(Job):
    """Works of one request that wait together.

    Args:
        flow: The expert that they are for.
        deadline: When nobody wants them any more, on the loop's clock.
        works: What is to be done, in which group, and its tokens; in the order in which it is to be done.
    """

    def __init__(self, flow: str, deadline: float, works: Sequence[tuple[Any, Group, int]]) -> None:
        super().__init__(flow, deadline)
        self.answer: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._found: dict[int, Any] = {}
        self._count = len(works)
        for place, (work, group, tokens) in enumerate(works):
            self.units.append(Unit(self, place, work, group, tokens))

    def give(self, place: int, output: Any) -> None:
        """What came of a work; the last one answers."""
        self._found[place] = output
        if len(self._found) == self._count and not self.answer.done():
            self.answer.set_result([self._found[at] for at in range(self._count)])

    def refuse(self, error: ServingError) -> None:
        """No answer but this."""
        self.gone = True
        if not self.answer.done():
            self.answer.set_exception(error)

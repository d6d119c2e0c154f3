"""Which experts are in memory: pinned while they answer, and out, the longest unasked first, when room is needed."""

import asyncio
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from weft.serving.errors import ExpertRefused, TooLarge
from weft.serving.resident import Resident
from weft.serving.settings import Room


class Memory:
    """Residents by key.

    Args:
        room: How much there is.
    """

    def __init__(self, room: Room) -> None:
        self.room = room
        self._residents: OrderedDict[str, Resident] = OrderedDict()
        self._leaving: set[Resident] = set()
        self._freed = asyncio.Event()
        self.bytes = 0
        """Of all that is in memory, replaced experts that still answer with them, and what is being loaded."""

    def __contains__(self, key: str) -> bool:
        return key in self._residents

    @property
    def residents(self) -> tuple[Resident, ...]:
        """What is in memory and answers, the longest unasked first."""
        return tuple(self._residents.values())

    def get(self, key: str) -> Resident | None:
        """What is there by a key."""
        return self._residents.get(key)

    def of(self, name: str) -> list[Resident]:
        """What is there of an expert: itself, those of its tasks, and of its users."""
        own = self._residents.get(name)
        below = (f"{name}/", f"{name}@")
        rest = [one for key, one in self._residents.items() if key.startswith(below)]
        return rest if own is None else [own, *rest]

    def pin(self, key: str) -> Resident:
        """Keep what is there by a key until it is released as often as it was pinned."""
        resident = self._residents[key]
        resident.users += 1
        self._residents.move_to_end(key)
        return resident

    def release(self, resident: Resident) -> None:
        """Undo a pin."""
        resident.users -= 1
        if not resident.users:
            if resident.gone:
                self._leaving.discard(resident)
                self._drop(resident)
            self._freed.set()

    def add(self, resident: Resident) -> None:
        """Let what was loaded answer by its key."""
        self._residents[resident.name] = resident
        self.bytes += resident.bytes

    def retire(self, name: str) -> None:
        """Take whatever answers by a name out, as soon as nobody is answered by it."""
        for resident in self.of(name):
            del self._residents[resident.name]
            resident.gone = True
            if resident.users:
                self._leaving.add(resident)
            else:
                self._drop(resident)
                self._freed.set()

    @contextmanager
    def reserved(self, need: int) -> Iterator[None]:
        """Count what is being loaded."""
        self.bytes += need
        try:
            yield
        finally:
            self.bytes -= need

    async def make_room(self, key: str, need: int, held: Sequence[Resident]) -> None:
        """Evict what nobody asks until so many bytes are free; wait where all is in use.

        Args:
            key: What the room is for.
            need: Bytes.
            held: What whoever waits has pinned.

        Raises:
            ExpertRefused: If there is not so much room at all.
            TooLarge: If nothing is in use but what whoever waits has pinned.
        """
        if need > self.room.bytes:
            raise ExpertRefused(
                f"{key} takes {need:,} bytes in memory, and there are {self.room.bytes:,} for all experts; raise the "
                "limit"
            )
        while self._is_full(need):
            idle = next((one for one in self._residents.values() if not one.users), None)
            if idle is not None:
                del self._residents[idle.name]
                self._drop(idle)
                continue
            others = {*self._residents.values(), *self._leaving} - set(held)
            if held and not others:
                raise TooLarge(
                    f"the experts of this request do not fit into {self.room.bytes:,} bytes or {self.room.experts} "
                    "places together; ask fewer at a time"
                )
            self._freed.clear()
            await self._freed.wait()

    def _is_full(self, need: int) -> bool:
        count = len(self._residents) + len(self._leaving)
        return self.bytes + need > self.room.bytes or count >= self.room.experts

    def _drop(self, resident: Resident) -> None:
        self.bytes -= resident.bytes
        resident.leave()

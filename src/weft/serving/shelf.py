"""Experts by name: all of them on disk, those that are asked in memory, as many as there is room for.

Everything here runs on the event loop but the loading itself. A request pins what it is answered by until it has its
answer; what nobody pins leaves when its room is needed, the longest unasked first. Only one request at a time waits for
room, and none that has all it needs does, so no two ever wait for each other.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path

from weft.registry import said_by, unknown
from weft.serving.embedding import add_reader
from weft.serving.entries import Entry, Place, stored_bytes
from weft.serving.errors import (
    BadInput,
    ExpertInUse,
    ExpertRefused,
    TooLarge,
    UnknownExpert,
)
from weft.serving.names import checked, plain
from weft.serving.places import Places
from weft.serving.resident import Resident, Wanted, load
from weft.serving.settings import Room
from weft.storage.card import read_card
from weft.storage.loading import Ground, ground_of

IN_MEMORY = 2
"""Bytes in memory for one on disk, until it is loaded and counted: as it is stored, and its exact factors."""


class Shelf:
    """Experts on one or few bases.

    Args:
        experts: Run folders by name.
        folders: Folders of which every run folder is an expert by its own name.
        roots: Further folders below which `put` may find experts.
        room: How much of them is in memory, and what is let in.
        device: auto, cpu, cuda or mps.
        precision: fp32, bf16, fp16 or fp64, of all answers; None takes that of the run that brings the base.

    Raises:
        NameRefused: If no expert can have one of the names.
        ExpertRefused: If a folder is no finished run, or a folder of experts is none.
    """

    def __init__(
        self,
        experts: Mapping[str, str | Path] | None = None,
        *,
        folders: Sequence[str | Path] = (),
        roots: Sequence[str | Path] = (),
        room: Room | None = None,
        device: str = "auto",
        precision: str | None = None,
    ) -> None:
        self.room = room or Room()
        self.auto: str | None = None
        """The mixture that `auto` alone means: the only one there was when the shelf was last looked through."""
        self._places = Places(experts or {}, folders, roots)
        self._device, self._precision = device, precision
        self._grounds: dict[str, Ground] = {}
        self._residents: OrderedDict[str, Resident] = OrderedDict()
        self._leaving: set[Resident] = set()
        self._loads: dict[str, asyncio.Future[None]] = {}
        self._changing: set[str] = set()
        self._reserved = 0
        self._numbers = count(1)
        self._door = asyncio.Lock()
        self._freed = asyncio.Event()
        self._loader = ThreadPoolExecutor(1, "weft-load")
        self._lister = ThreadPoolExecutor(1, "weft-list")

    async def open(self) -> None:
        """Bring the base: that of the first expert, by name, which can be read."""
        entries = await self._look()
        fit = [entry.name for entry in entries if entry.state != "refused"]
        if fit and not self._grounds:
            place = self._places.place(fit[0])
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._loader, self._ground_of, place)

    async def _look(self) -> list[Entry]:
        """All there is, and whether `auto` means one of it."""
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._lister, self._places.entries)
        mixtures = [one.name for one in found if one.kind == "mixture" and one.state != "refused"]
        self.auto = mixtures[0] if len(mixtures) == 1 else None
        return found

    def close(self) -> None:
        """Let the threads end."""
        for pool in (self._loader, self._lister):
            pool.shutdown(wait=True, cancel_futures=True)

    @property
    def grounds(self) -> tuple[Ground, ...]:
        """The bases in memory, each with its model, first come first."""
        return tuple(self._grounds.values())

    @property
    def ground(self) -> Ground:
        """The first of them.

        Raises:
            UnknownExpert: If there is none yet.
        """
        if not self._grounds:
            raise UnknownExpert("no base is in memory yet; put an expert on the shelf first")
        return self.grounds[0]

    @property
    def residents(self) -> tuple[Resident, ...]:
        """What is in memory, the longest unasked first."""
        return tuple(self._residents.values())

    @property
    def bytes(self) -> int:
        """Of all that is in memory, replaced experts that still answer with them."""
        own = sum(one.bytes for one in self._residents.values())
        return own + sum(one.bytes for one in self._leaving) + self._reserved

    @asynccontextmanager
    async def leased(self, names: Sequence[str]) -> AsyncIterator[list[Resident]]:
        """What answers by these names, in their order, in memory until the block ends.

        Raises:
            UnknownExpert, NameRefused, ExpertRefused, BadInput: As the name or its folder is.
            TooLarge: If there is not room for all of them together.
        """
        keys = [self._key(name) for name in names]
        if all(key in self._residents for key in keys):
            held = [self._pin(self._residents[key]) for key in keys]
        else:
            held = await self._brought(keys)
        try:
            yield held
        finally:
            for one in held:
                self._release(one)

    async def entries(self) -> list[Entry]:
        """All there is, by name."""
        return [self._with_state(one) for one in await self._look()]

    async def entry(self, name: str) -> Entry:
        """One of them.

        Raises:
            UnknownExpert, NameRefused, ExpertRefused: As the name or its folder is.
        """
        own, _ = checked(name)
        place = self._places.place(own)
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._lister, self._places.entry, own, place.folder)
        return self._with_state(found)

    async def put(self, name: str, folder: str | Path) -> Entry:
        """Let a name mean the expert in a folder, from now on; requests under way are answered by what they began with.

        Raises:
            NameRefused: If no expert can have the name.
            ExpertRefused: If the folder is not allowed, damaged or too large; the name means what it meant before.
            ExpertInUse: If the name is being put at the moment.
        """
        own = plain(name)
        place = self._places.allowed(folder)
        if own in self._changing:
            raise ExpertInUse(f"{own} is being replaced at the moment; ask again")
        self._changing.add(own)
        work = asyncio.ensure_future(self._put(own, place))
        work.add_done_callback(lambda _: self._changing.discard(own))
        # Whoever asked may leave; what has begun is done whole.
        await asyncio.shield(work)
        await self._look()
        return await self.entry(own)

    async def remove(self, name: str) -> None:
        """Let a name mean nothing; its files stay, and requests under way are answered.

        Raises:
            UnknownExpert, NameRefused: As the name is.
            ExpertInUse: If it is being put at the moment.
        """
        own, _ = checked(name)
        if own in self._changing:
            raise ExpertInUse(f"{own} is being replaced at the moment; ask again")
        self._places.remove(own)
        self._retire(own)
        await self._look()

    def _key(self, name: str) -> str:
        """What is in memory by a name: one of several by its task, all else by its own."""
        own, task = checked(name)
        resident = self._residents.get(own)
        if name in self._residents or (resident is not None and resident.mixture is not None):
            return name if name in self._residents else own
        place = self._places.place(own)
        if place.form == "mixture":
            return own
        if place.form == "several":
            if task is None:
                listed = ", ".join(f"{own}/{one}" for one in place.cards)
                raise BadInput(f"{own} holds several experts; name one of {listed}")
            if task not in place.cards:
                raise UnknownExpert(unknown("task", task, place.cards))
            return name
        if task is not None:
            raise UnknownExpert(f"{own} is one expert and has no tasks to choose from; name {own}")
        return own

    def _pin(self, resident: Resident) -> Resident:
        resident.users += 1
        if not resident.gone:
            self._residents.move_to_end(resident.name)
        return resident

    def _release(self, resident: Resident) -> None:
        resident.users -= 1
        if not resident.users:
            if resident.gone:
                self._leaving.discard(resident)
                resident.leave()
            self._freed.set()

    async def _brought(self, keys: Sequence[str]) -> list[Resident]:
        """All of them, pinned; those that are not there are loaded one after another."""
        held: list[Resident] = []
        async with self._door:
            try:
                for key in keys:
                    while key not in self._residents:
                        await self._bring(key, held)
                    held.append(self._pin(self._residents[key]))
            except BaseException:
                for one in held:
                    self._release(one)
                raise
        return held

    async def _bring(self, key: str, held: Sequence[Resident]) -> None:
        work = self._loads.get(key)
        if work is None:
            work = self._loads[key] = asyncio.ensure_future(self._enter(key, held))
            work.add_done_callback(lambda _: self._loads.pop(key, None))
        # Whoever asked may leave; what has begun is done whole.
        await asyncio.shield(work)

    async def _enter(self, key: str, held: Sequence[Resident]) -> None:
        own, task = checked(key)
        place = self._places.place(own)
        resident = await self._load(key, place, task, held)
        if key in self._residents or not self._places.means(own, place):
            # Put or removed meanwhile: whoever waits looks again.
            resident.leave()
        else:
            self._residents[key] = resident

    async def _put(self, name: str, place: Place) -> None:
        if place.form == "several":
            self._places.put(name, place)
            self._retire(name)
            return
        async with self._door:
            resident = await self._load(name, place, None, ())
        self._places.put(name, place)
        self._retire(name)
        self._residents[name] = resident

    async def _load(
        self, key: str, place: Place, task: str | None, held: Sequence[Resident]
    ) -> Resident:
        loop = asyncio.get_running_loop()
        task = task if place.form == "several" else None
        stored = await loop.run_in_executor(self._loader, stored_bytes, place, task, self.room)
        need = stored * IN_MEMORY
        await self._make_room(key, need, held)
        self._reserved += need
        wanted = Wanted(key, f"{key}#{next(self._numbers)}", place, task)
        try:
            return await loop.run_in_executor(self._loader, self._read, wanted)
        finally:
            self._reserved -= need

    def _read(self, wanted: Wanted) -> Resident:
        return load(wanted, self._ground_of(wanted.place))

    def _ground_of(self, place: Place) -> Ground:
        """The model for an expert's base, loaded the first time; in the loading thread."""
        try:
            card = read_card(next(iter(place.cards.values())))
            if card.digest not in self._grounds:
                if len(self._grounds) >= self.room.bases:
                    names = ", ".join(own.model.base.name for own in self._grounds.values())
                    raise ExpertRefused(
                        f"{place.folder} was trained on {card.base} (digest {card.digest[:12]}); this server answers "
                        f"on {names}: serve it by another, or raise the number of bases"
                    )
                ground = ground_of(place.folder, device=self._device, precision=self._precision)
                add_reader(ground)
                self._precision = ground.precision
                self._grounds[card.digest] = ground
            return self._grounds[card.digest]
        except (OSError, ValueError, KeyError) as error:
            raise ExpertRefused(said_by(error)) from error

    async def _make_room(self, key: str, need: int, held: Sequence[Resident]) -> None:
        """Evict what nobody asks until so many bytes are free; wait where all is in use."""
        if need > self.room.bytes:
            raise ExpertRefused(
                f"{key} takes {need:,} bytes in memory, and there are {self.room.bytes:,} for all experts; raise the "
                "limit"
            )
        while self._is_full(need):
            idle = next((one for one in self._residents.values() if not one.users), None)
            if idle is not None:
                del self._residents[idle.name]
                idle.leave()
                continue
            mine = sum(one.bytes for one in set(held))
            if mine and mine >= self.bytes - self._reserved:
                raise TooLarge(
                    f"the experts of this request do not fit into {self.room.bytes:,} bytes together; ask fewer at "
                    "a time"
                )
            self._freed.clear()
            await self._freed.wait()

    def _is_full(self, need: int) -> bool:
        count = len(self._residents) + len(self._leaving)
        return self.bytes + need > self.room.bytes or count >= self.room.experts

    def _retire(self, name: str) -> None:
        """Take whatever answers by a name out, as soon as nobody is answered by it."""
        for key in [key for key in self._residents if key.partition("/")[0] == name]:
            resident = self._residents.pop(key)
            resident.gone = True
            if resident.users:
                self._leaving.add(resident)
            else:
                resident.leave()
                self._freed.set()

    def _with_state(self, entry: Entry) -> Entry:
        own = [one for one in self._residents.values() if one.name.partition("/")[0] == entry.name]
        if not own or entry.state == "refused":
            return entry
        version = own[0].version if own[0].name == entry.name else None
        size = sum(one.bytes for one in own)
        return replace(entry, resident=True, version=version, bytes=size, state="resident")

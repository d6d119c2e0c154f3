"""Experts by name: all of them on disk, those that are asked in memory, as many as there is room for.

Everything here runs on the event loop but the loading itself. A request pins what it is answered by until it has its
answer; what nobody pins leaves when its room is needed, the longest unasked first. Only one request at a time waits for
room, and none that has all it needs does, so no two ever wait for each other.
"""

import asyncio
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
    UnknownExpert,
)
from weft.serving.memory import Memory
from weft.serving.names import checked, owner, plain, whole
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
        self.memory = Memory(room or Room())
        self.auto: str | None = None
        """The mixture that `auto` alone means: the only one there was when the shelf was last looked through."""
        self._places = Places(experts or {}, folders, roots)
        self._device, self._precision = device, precision
        self._grounds: dict[str, Ground] = {}
        self._loads: dict[str, asyncio.Future[None]] = {}
        self._changing: set[str] = set()
        self._numbers = count(1)
        self._door = asyncio.Lock()
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
    def room(self) -> Room:
        """How much there is."""
        return self.memory.room

    @property
    def residents(self) -> tuple[Resident, ...]:
        """What is in memory, the longest unasked first."""
        return self.memory.residents

    @property
    def bytes(self) -> int:
        """Of all that is in memory."""
        return self.memory.bytes

    @asynccontextmanager
    async def leased(self, names: Sequence[str]) -> AsyncIterator[list[Resident]]:
        """What answers by these names, in their order, in memory until the block ends.

        Raises:
            UnknownExpert, NameRefused, ExpertRefused, BadInput: As the name or its folder is.
            TooLarge: If there is not room for all of them together.
        """
        keys = [self._key(name) for name in names]
        if all(key in self.memory for key in keys):
            held = [self.memory.pin(key) for key in keys]
        else:
            held = await self._brought(keys)
        try:
            yield held
        finally:
            for one in held:
                self.memory.release(one)

    async def entries(self) -> list[Entry]:
        """All there is, by name."""
        found = await self._look()
        held: dict[str, list[Resident]] = {}
        for one in self.memory.residents:
            held.setdefault(owner(checked(one.name)[0])[0], []).append(one)
        return [_with_state(entry, held.get(entry.name, [])) for entry in found]

    async def entry(self, name: str) -> Entry:
        """One of them.

        Raises:
            UnknownExpert, NameRefused, ExpertRefused: As the name or its folder is.
        """
        own = owner(checked(name)[0])[0]
        place = self._places.place(own)
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._lister, self._places.entry, own, place.folder)
        return _with_state(found, self.memory.of(own))

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

    async def point(self, folders: Mapping[str, Path | None]) -> None:
        """Let names mean folders that were put on another shelf, or nothing; they are read when they are asked."""
        for name, folder in folders.items():
            self._places.point(name, folder)
            self.memory.retire(name)
        await self._look()

    async def remove(self, name: str) -> None:
        """Let a name mean nothing; its files stay, and requests under way are answered.

        Raises:
            UnknownExpert, NameRefused: As the name is; the task of an expert cannot be removed.
            ExpertInUse: If it is being put at the moment.
        """
        own = whole(name)
        if own in self._changing:
            raise ExpertInUse(f"{own} is being replaced at the moment; ask again")
        self._places.remove(own)
        self.memory.retire(own)
        await self._look()

    def _key(self, name: str) -> str:
        """What is in memory by a name: one of several by its task, all else by its own."""
        own, task = checked(name)
        if name in self.memory:
            return name
        if owner(own)[1] is not None:
            return self._places.answering(own)
        resident = self.memory.get(own)
        if resident is not None and resident.mixture is not None:
            return own
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

    async def _brought(self, keys: Sequence[str]) -> list[Resident]:
        """All of them, pinned; those that are not there are loaded one after another."""
        held: list[Resident] = []
        async with self._door:
            try:
                for key in keys:
                    while key not in self.memory:
                        await self._bring(key, held)
                    held.append(self.memory.pin(key))
            except BaseException:
                for one in held:
                    self.memory.release(one)
                raise
        return held

    async def _bring(self, key: str, held: Sequence[Resident]) -> None:
        work = self._loads.get(key)
        if work is None:
            work = self._loads[key] = asyncio.ensure_future(self._enter(key, held))
            work.add_done_callback(lambda done: self._ended(key, done))
        # Whoever asked may leave; what has begun is done whole.
        await asyncio.shield(work)

    def _ended(self, key: str, work: "asyncio.Future[None]") -> None:
        self._loads.pop(key, None)
        if not work.cancelled():
            # Looked at here: whoever waited may have left.
            work.exception()

    async def _enter(self, key: str, held: Sequence[Resident]) -> None:
        own, task = checked(key)
        place = self._places.place(own)
        resident = await self._load(key, place, task, held)
        if key in self.memory or not self._places.means(own, place):
            # Put or removed meanwhile: whoever waits looks again.
            resident.leave()
        else:
            self.memory.add(resident)

    async def _put(self, name: str, place: Place) -> None:
        if place.form == "several":
            self._places.put(name, place)
            self.memory.retire(name)
            return
        async with self._door:
            resident = await self._load(name, place, None, ())
        self._places.put(name, place)
        self.memory.retire(name)
        self.memory.add(resident)

    async def _load(
        self, key: str, place: Place, task: str | None, held: Sequence[Resident]
    ) -> Resident:
        loop = asyncio.get_running_loop()
        task = task if place.form == "several" else None
        try:
            stored = await loop.run_in_executor(self._loader, stored_bytes, place, task, self.room)
            need = stored * IN_MEMORY
            await self.memory.make_room(key, need, held)
            wanted = Wanted(key, f"{key}#{next(self._numbers)}", place, task)
            with self.memory.reserved(need):
                return await loop.run_in_executor(self._loader, self._read, wanted)
        except ExpertRefused as error:
            raise error.told(owner(checked(key)[0])[0], place.folder) from error

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


def _with_state(entry: Entry, held: Sequence[Resident]) -> Entry:
    """The entry of an expert of which this is in memory."""
    if not held or entry.state == "refused":
        return entry
    version = held[0].version if held[0].name == entry.name else None
    size = sum(one.bytes for one in held)
    return replace(entry, resident=True, version=version, bytes=size, state="resident")

"""Engines in many processes as one: requests go to a replica that holds the expert, and once more if it dies.

    request ─ door (counted, its deadline) ─ Ray Serve ─ replica ─ engine ─> answer

Whatever the HTTP app knows of requests, keys, limits and drains, stays in this process; replicas only answer.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ray.exceptions import ObjectLostError, RayActorError, WorkerCrashedError  # pyright: ignore[reportMissingImports] - an extra
from ray.serve.exceptions import DeploymentUnavailableError  # pyright: ignore[reportMissingImports]
from ray.serve.handle import DeploymentHandle  # pyright: ignore[reportMissingImports]

from weft.answering.inputs import Input
from weft.serving.cluster.changes import Ledger
from weft.serving.cluster.replica import Behind, Refused, State
from weft.serving.embedding import Embedded
from weft.serving.engine import BASE, NO_OPTIONS, Answers
from weft.serving.entries import Entry
from weft.serving.errors import LOG, ExpertInUse, Overloaded, ReplicaLost
from weft.serving.gates import Gates
from weft.serving.load import Load, summed
from weft.serving.names import AUTO, checked, owner, plain, whole
from weft.serving.places import Places
from weft.serving.request.asking import asked_of
from weft.serving.request.door import Door
from weft.serving.settings import Limits, Options
from weft.serving.streaming import Delta, Message, Tell, relayed

RETRIES = 1
"""How often a request is asked again whose replica died."""
_LOOK_S = 1.0
"""Seconds between two looks at how busy the replicas are."""
_BUSY_S = 1.0
_LOST = (RayActorError, WorkerCrashedError, ObjectLostError)
"""What Ray says where a process or a machine died."""


class Replicas:
    """An engine for the HTTP app, of many in other processes.

    Args:
        places: The experts' names, as every replica has them at its start.
        deploy: Starts the replicas and gives Ray Serve's handle; may take long.
        limits: Of each replica's engine.
        most: Replicas at most, which all limits on what is under way are taken times.
    """

    def __init__(
        self, places: Places, deploy: Callable[[], DeploymentHandle], limits: Limits, most: int = 1
    ) -> None:
        self._places, self._deploy = places, deploy
        self._patience = limits.patience
        whole_limits = {"waiting_rows": limits.waiting_rows * most}
        self._door = Door(limits.model_copy(update=whole_limits), self._overload)
        self._ledger = Ledger()
        self._changing: set[str] = set()
        self._one_change = asyncio.Lock()
        self._handle: DeploymentHandle | None = None
        self._states: list[State] = []
        self._watching: asyncio.Future[None] | None = None
        self.retries = 0

    async def __aenter__(self) -> Self:
        self._handle = await asyncio.to_thread(self._deploy)
        await self._look()
        self._watching = asyncio.ensure_future(self._watch())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._door.drain(self._patience)
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])

    async def predict(
        self,
        expert: str | Mapping[str, float],
        inputs: Sequence[Input],
        *,
        options: Options = NO_OPTIONS,
        deadline: float | None = None,
    ) -> Answers:
        """What an expert says of each input; see `Engine.predict`."""
        key = self._key(expert)
        return await self._ask(
            "predict", key, len(inputs), deadline, expert, inputs, options=options
        )

    async def embed(
        self,
        texts: Sequence[str],
        expert: str | None = None,
        *,
        normalize: bool = True,
        deadline: float | None = None,
    ) -> Embedded:
        """A vector of each text; see `Engine.embed`."""
        key = "" if expert is None else self._key(expert)
        return await self._ask(
            "embed", key, len(texts), deadline, texts, expert, normalize=normalize
        )

    async def gates(
        self,
        expert: str,
        value: Input,
        *,
        options: Options = NO_OPTIONS,
        deadline: float | None = None,
    ) -> Gates:
        """What a mixture's gates say of one input; see `Engine.gates`."""
        key = self._key(expert)
        return await self._ask("gates", key, 1, deadline, expert, value, options=options)

    def stream(
        self,
        expert: str | Mapping[str, float],
        text: str | Sequence[Message],
        *,
        options: Options = NO_OPTIONS,
        deadline: float | None = None,
    ) -> AsyncGenerator[Delta]:
        """What an expert writes, as it is written; see `Engine.stream`.

        A text of which a piece was told is not begun anew: another replica's rounding might go on in other words.

        Raises:
            ReplicaLost: If the replica dies then.
        """
        return relayed(partial(self._write, expert, text, options, deadline))

    async def experts(self) -> list[Entry]:
        """All there is, by name; in memory is what any replica has there."""
        shelves = await self.each("ask", "experts")
        found: dict[str, Entry] = {}
        for entry in (one for shelf in shelves for one in shelf):
            if entry.name not in found or entry.resident:
                found[entry.name] = entry
        return [found[name] for name in sorted(found)]

    async def entry(self, name: str) -> Entry:
        """One of them, as a replica has it that is asked for it."""
        return await self._told(self._at(self._key(name)).ask, "entry", name)

    async def put(self, name: str, folder: str | Path) -> Entry:
        """Let a name mean the expert in a folder: one replica reads it, and all others when they are asked for it.

        What is asked once this has returned is answered by it. See `Shelf.put` for what is refused.

        Raises:
            ReplicaLost: If nobody was there to read it; the name means what it meant before.
            ServingError: As of `Shelf.put`.
        """
        own = plain(name)
        place = self._places.allowed(folder)
        if own in self._changing:
            raise ExpertInUse(f"{own} is being replaced at the moment; ask again")
        self._changing.add(own)
        work = asyncio.ensure_future(self._put(own, place.folder))
        work.add_done_callback(lambda _: self._changing.discard(own))
        # Whoever asked may leave; what has begun is done whole.
        return await asyncio.shield(work)

    async def remove(self, name: str) -> None:
        """Let a name mean nothing for whatever is asked from now on; see `Shelf.remove`."""
        own = whole(name)
        if own in self._changing:
            raise ExpertInUse(f"{own} is being replaced at the moment; ask again")
        async with self._one_change:
            # A replica says what else there is, where there is nothing of that name.
            await self.entry(own)
            self._places.remove(own)
            self._ledger.note(own, None)

    def load(self) -> Load:
        """How busy all replicas were within the last second or two."""
        loads = [one.load for one in self._states]
        return summed(
            loads, rows=self._door.rows, draining=self._door.draining, retries=self.retries
        )

    async def each(self, method: str, *args: Any) -> list[Any]:
        """What every replica says, in no order: each is told what it has missed, and one that dies says nothing.

        Args:
            method: Of `Replica`.
            args: Behind the changes.

        Raises:
            ReplicaLost: If there is none.
            ServingError: As one of them refused.
        """
        said = await self._broadcast(method, self._ledger.revision, *args)
        if any(isinstance(one, Behind) for one in said):
            said = await self._broadcast(method, 0, *args)
        found = []
        for one in said:
            if isinstance(one, Refused):
                raise one.error
            if isinstance(one, BaseException) and not isinstance(one, _LOST):
                raise one
            if not isinstance(one, Behind | BaseException):
                found.append(one)
        if not found:
            raise ReplicaLost("no replica answers at the moment; ask again later")
        return found

    @property
    def states(self) -> tuple[State, ...]:
        """The replicas that answered when they were last looked at."""
        return tuple(self._states)

    def _key(self, expert: str | Mapping[str, float]) -> str:
        """What Ray routes by: the expert that counts most; nothing for a name that nobody has, which it would keep.

        Raises:
            NameRefused, BadInput: As names and weights are.
        """
        named = isinstance(expert, str)
        own = owner(checked(expert)[0])[0] if named else asked_of(expert, NO_OPTIONS, None).flow
        return own if own == AUTO or self._places.folder(own) is not None else ""

    def _at(self, key: str, *, stream: bool = False) -> Any:
        """The handle of requests for an expert."""
        if self._handle is None:
            raise ReplicaLost("no replica has been started yet; ask again later")
        return self._handle.options(multiplexed_model_id=key, stream=stream)

    async def _ask(
        self,
        verb: str,
        key: str,
        rows: int,
        deadline: float | None,
        *args: Any,
        **options: Any,
    ) -> Any:
        """What a replica's engine answers; a request under way."""
        async with self._door.admitted(key or BASE, rows, deadline) as until:
            return await self._told(self._at(key).ask, verb, *args, until=until, **options)

    async def _told(
        self, method: Any, *args: Any, until: float | None = None, **options: Any
    ) -> Any:
        """What a replica says, asked again with what it has missed, and once more where it dies.

        Args:
            method: Of Ray Serve's handle.
            args: Behind the changes.
            until: The loop's time at which nobody waits any more; None: no deadline is passed on.
            options: By name.
        """
        known, losses = self._ledger.revision, 0
        while True:
            response = method.remote(self._ledger.since(known), *args, **options, **_left(until))
            try:
                found = await response
            except asyncio.CancelledError:
                response.cancel()
                raise
            except (*_LOST, DeploymentUnavailableError) as error:
                losses = self._lost(losses, error)
                continue
            if isinstance(found, Refused):
                raise found.error
            if not isinstance(found, Behind):
                return found
            known = found.revision

    async def _write(
        self,
        expert: str | Mapping[str, float],
        text: str | Sequence[Message],
        options: Options,
        deadline: float | None,
        tell: Tell,
    ) -> None:
        key = self._key(expert)
        async with self._door.admitted(key or BASE, 1, deadline) as until:
            known, losses = self._ledger.revision, 0
            while True:
                method, changes = self._at(key, stream=True).stream, self._ledger.since(known)
                pieces = method.remote(changes, expert, text, options=options, **_left(until))
                begun = False
                try:
                    async for piece in pieces:
                        if isinstance(piece, Refused):
                            raise piece.error
                        if isinstance(piece, Behind):
                            known = piece.revision
                            break
                        begun = True
                        tell(piece)
                    else:
                        return
                except asyncio.CancelledError:
                    pieces.cancel()
                    raise
                except (*_LOST, DeploymentUnavailableError) as error:
                    losses = self._lost(RETRIES if begun else losses, error)

    def _lost(self, losses: int, error: Exception) -> int:
        """One more loss of a request's replica.

        Raises:
            ReplicaLost: If it is not asked again.
        """
        is_last = losses >= RETRIES
        LOG.warning("replica lost", extra={"fields": {"asked_again": not is_last}})
        if is_last:
            raise ReplicaLost(
                "the process that was to answer died, and nothing is known of what it did; ask again"
            ) from error
        self.retries += 1
        return losses + 1

    async def _put(self, name: str, folder: Path) -> Entry:
        async with self._one_change:
            before, number = self._places.folder(name), self._ledger.number()
            try:
                entry = await self._told(self._at(name).put, name, folder, number)
            except ReplicaLost:
                # A replica that only its answer was lost of may have it: it is told to go back.
                self._ledger.note(name, before)
                raise
            self._places.point(name, folder)
            self._ledger.note(name, folder, number)
            return entry

    async def _broadcast(self, method: str, known: int, *args: Any) -> list[Any]:
        if self._handle is None:
            return []
        asked = self._handle.broadcast(method, self._ledger.since(known), *args)
        try:
            return await asked.results_async(timeout_s=self._patience, return_exceptions=True)
        except DeploymentUnavailableError:
            return []
        except TimeoutError:
            raise ReplicaLost(
                f"a replica has said nothing for {self._patience:g} s; ask again later"
            ) from None

    async def _look(self) -> None:
        try:
            self._states = await self.each("state")
        except ReplicaLost:
            self._states = []

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            await self._look()

    def _overload(self, flow: str) -> Overloaded:
        return Overloaded(
            f"{self._door.rows:,} inputs are under way, as many as all replicas take; ask again later",
            _BUSY_S,
        )


def _left(until: float | None) -> dict[str, float]:
    """The deadline to pass on: what is left of a request's time."""
    if until is None:
        return {}
    return {"deadline": max(0.0, until - asyncio.get_running_loop().time())}

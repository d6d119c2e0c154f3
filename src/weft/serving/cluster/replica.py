"""One engine in a process of a Ray cluster: what `replicas` asks, as Ray Serve calls it."""

import asyncio
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ray import serve  # pyright: ignore[reportMissingImports] - an extra

from weft.serving.cluster.changes import Changes
from weft.serving.engine import Engine
from weft.serving.errors import ServingError
from weft.serving.load import Load
from weft.serving.streaming import Delta

MOST_NAMES = 1024
"""Experts that a replica is known to hold; of more the longest unasked are forgotten, and may be asked anywhere."""


@dataclass(frozen=True)
class Behind:
    """In place of an answer: changes that a replica has not heard of go before it.

    Attributes:
        revision: Number of the last that it knows of.
    """

    revision: int


@dataclass(frozen=True)
class Refused:
    """In place of an answer: a refusal. As a value, for Ray writes its traces into exceptions."""

    error: ServingError


@dataclass(frozen=True)
class State:
    """A replica at one moment.

    Attributes:
        name: Ray Serve's.
        pid: Of its process, on its machine.
        load: Its engine's.
    """

    name: str
    pid: int
    load: Load


class Replica:
    """A deployment of Ray Serve: an engine, and how far it has followed the changes.

    Args:
        make: Makes the engine.
        folder: Where the server was started; relative paths of bases are read from there.
        threads: For arithmetic.
        start: The server's start that it belongs to.
    """

    async def __init__(
        self, make: Callable[[], Engine], folder: str, threads: int, start: str = ""
    ) -> None:
        os.chdir(folder)
        torch.set_num_threads(threads)
        self._engine = make()
        self._start = start
        self._revision = 0
        self._following = asyncio.Lock()
        await self._engine.__aenter__()

    async def __del__(self) -> None:
        await self._engine.__aexit__(None, None, None)

    @serve.multiplexed(max_num_models_per_replica=MOST_NAMES)
    async def _holds(self, name: str) -> str:
        """Let Ray send requests for an expert here. What is in memory is for the engine's shelf to say."""
        return name

    async def ask(self, changes: Changes, verb: str, *args: Any, **options: Any) -> Any:
        """What the engine's method of a name answers; else `Behind` or `Refused`."""
        if not await self._followed(changes):
            return Behind(self._revision)
        await self._hold()
        try:
            return await getattr(self._engine, verb)(*args, **options)
        except ServingError as error:
            return Refused(error)

    async def stream(
        self, changes: Changes, *args: Any, **options: Any
    ) -> AsyncGenerator[Delta | Behind | Refused]:
        """What the engine writes, as `Engine.stream`."""
        if not await self._followed(changes):
            yield Behind(self._revision)
            return
        await self._hold()
        try:
            async with aclosing(self._engine.stream(*args, **options)) as deltas:
                async for delta in deltas:
                    yield delta
        except ServingError as error:
            yield Refused(error)

    async def put(self, changes: Changes, name: str, folder: Path, number: int) -> Any:
        """Put an expert on this shelf, as the first; the change has a number already, and this replica knows it now."""
        async with self._following:
            if not await self._follow(changes):
                return Behind(self._revision)
            try:
                entry = await self._engine.put(name, folder)
            except ServingError as error:
                return Refused(error)
            self._revision = number
        await self._hold()
        return entry

    async def state(self, changes: Changes) -> State | Behind:
        """How busy it is."""
        if not await self._followed(changes):
            return Behind(self._revision)
        name = serve.get_replica_context().replica_tag
        return State(name, os.getpid(), self._engine.load())

    async def _hold(self) -> None:
        if name := serve.get_multiplexed_model_id():
            await self._holds(name)  # pyright: ignore[reportCallIssue] - Ray's decorator has no types

    async def _followed(self, changes: Changes) -> bool:
        """Whether all changes are made, now or before."""
        if self._revision >= changes.revision:
            return True
        async with self._following:
            return await self._follow(changes)

    async def _follow(self, changes: Changes) -> bool:
        if self._revision >= changes.revision:
            return True
        if self._revision < changes.after:
            return False
        await self._engine.point(changes.folders)
        self._revision = changes.revision
        return True

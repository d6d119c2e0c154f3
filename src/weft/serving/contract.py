"""What stands behind the HTTP app: whatever answers as an engine does, in this process or in many."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from weft.answering.inputs import Input
from weft.serving.embedding import Embedded
from weft.serving.engine import NO_OPTIONS, Answers
from weft.serving.entries import Entry
from weft.serving.gates import Gates
from weft.serving.load import Load
from weft.serving.settings import Options
from weft.serving.streaming import Delta, Message


class Answering(Protocol):
    """An engine, or many of them; each method is `Engine`'s of its name."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    async def predict(
        self,
        expert: str | Mapping[str, float],
        inputs: Sequence[Input],
        *,
        options: Options = NO_OPTIONS,
        deadline: float | None = None,
    ) -> Answers:
        """What an expert says of each input."""
        ...

    async def embed(
        self,
        texts: Sequence[str],
        expert: str | None = None,
        *,
        normalize: bool = True,
        deadline: float | None = None,
    ) -> Embedded:
        """A vector of each text."""
        ...

    async def gates(
        self,
        expert: str,
        value: Input,
        *,
        options: Options = NO_OPTIONS,
        deadline: float | None = None,
    ) -> Gates:
        """What a mixture's gates say of one input."""
        ...

    def stream(
        self,
        expert: str | Mapping[str, float],
        text: str | Sequence[Message],
        *,
        options: Options = NO_OPTIONS,
        deadline: float | None = None,
    ) -> AsyncGenerator[Delta]:
        """What an expert writes, as it is written."""
        ...

    async def experts(self) -> list[Entry]:
        """All there is, by name."""
        ...

    async def entry(self, name: str) -> Entry:
        """One of them."""
        ...

    async def put(self, name: str, folder: str | Path) -> Entry:
        """Let a name mean the expert in a folder."""
        ...

    async def remove(self, name: str) -> None:
        """Let a name mean nothing."""
        ...

    def load(self) -> Load:
        """How busy it is."""
        ...

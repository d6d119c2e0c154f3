"""A context variable that holds a value inside a block and what it held before outside; who listens to a block."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import TypeVar

Value = TypeVar("Value")


@contextmanager
def scoped(variable: ContextVar[Value], value: Value) -> Iterator[Value]:
    """`variable` is `value` inside the block, in this thread or task alone."""
    token = variable.set(value)
    try:
        yield value
    finally:
        variable.reset(token)


Listener = Callable[[str], None]

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)
_speaker: ContextVar[Listener | None] = ContextVar("speaker", default=None)


def listening(listener: Listener) -> AbstractContextManager[Listener | None]:
    """Whatever is told inside the block is told to `listener`."""
    return scoped(_listener, listener)


def speaking(speaker: Listener) -> AbstractContextManager[Listener | None]:
    """Whatever is announced inside the block is put out by `speaker`."""
    return scoped(_speaker, speaker)


def tell(what: str, done: int | None = None, total: int | None = None) -> None:
    """Say what begins now and may take a while, to whoever listens; any depth may say it, and nobody need listen.

    Args:
        what: In a few words: `reading swag`.
        done: How many of `total` are done, where they are counted.
        total: Of the same.
    """
    listener = _listener.get()
    if listener is not None:
        listener(what if total is None else f"{what} {done or 0:,}/{total:,}")


def announce(what: str) -> None:
    """Say at once what a user is to know before it costs time; where nobody speaks, it is told like anything else."""
    (_speaker.get() or tell)(what)

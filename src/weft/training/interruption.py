"""Asking a training to stop: signals are noted and acted on between two steps, when its state can be saved."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from weft.system import stop_signals


class Interrupted(KeyboardInterrupt):
    """Training was asked to stop; its state is on disk. The message says how to go on."""


@contextmanager
def interrupts() -> Iterator[list[int]]:
    """Signals that ask training to stop are noted, so that it stops between two steps with its state saved."""
    asked: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        asked.append(number)

    try:
        former = {number: signal.signal(number, note) for number in stop_signals()}
    except ValueError:  # not the main thread: whoever started the thread handles signals
        yield asked
        return
    try:
        yield asked
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)

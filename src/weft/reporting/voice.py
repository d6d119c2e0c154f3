"""A command that takes long is never silent: what it does is said soon, and again after every silence.

Lines go to stderr, whether or not that is a terminal. What is said is whatever `weft.scoped.tell` was last told, at any
depth, so no command and no loop has to see to it.
"""

import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Any, Self

from weft.scoped import listening, speaking

FIRST_S = 5.0
"""How long a command may run before it says what it does; most have ended by then."""
EVERY_S = 20.0
"""How long it may be silent after that."""
BEAT_S = 0.5
"""How often that is looked at."""
BEGINNING = "starting"

_current: ContextVar["Voice | None"] = ContextVar("voice", default=None)


class Voice:
    """Says what a command does, for as long as it is entered.

    Args:
        name: What stands in front of each line.
        write: Puts out a line; None is stderr.
        first: Seconds of silence before the first line.
        every: Seconds of silence before any other.
        clock: Tells the time in seconds.
        beat: Seconds between looks at the clock; None never looks by itself (`beat()` does).
    """

    def __init__(
        self,
        name: str,
        *,
        write: Callable[[str], None] | None = None,
        first: float = FIRST_S,
        every: float = EVERY_S,
        clock: Callable[[], float] = time.monotonic,
        beat: float | None = BEAT_S,
    ) -> None:
        self.name = name
        self.first = first
        self.every = every
        self.clock = clock
        self._write = write or _to_stderr
        self._words = BEGINNING
        self._began = self._last = clock()
        self._said = False
        self._shown: Callable[[str], None] | None = None
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = None
        if beat is not None:
            self._thread = threading.Thread(target=self._watch, args=(beat,), daemon=True)

    def __enter__(self) -> Self:
        self._token: Token[Voice | None] = _current.set(self)
        self._scopes = ExitStack()
        self._scopes.enter_context(listening(self.hear))
        self._scopes.enter_context(speaking(self.say))
        if self._thread is not None:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        self._scopes.close()
        _current.reset(self._token)

    def hear(self, words: str) -> None:
        """Remember what is being done now; a bar that is drawn shows it at once."""
        with self._lock:
            self._words = words
            shown = self._shown
        if shown is not None:
            shown(words)

    def say(self, words: str) -> None:
        """Put out a line now."""
        with self._lock:
            self._words = words
            self._put(words)

    def drawn_by(self, show: Callable[[str], None] | None) -> None:
        """Leave speaking to whoever draws in the terminal; None takes it back."""
        with self._lock:
            self._shown = show
            self._last = self.clock()

    def beat(self) -> None:
        """Put out a line if it has been silent for too long."""
        with self._lock:
            silent = self.clock() - self._last
            if self._shown is None and silent >= (self.every if self._said else self.first):
                self._put(f"{self._words}  ({self.clock() - self._began:.0f} s so far)")

    def _put(self, words: str) -> None:
        self._said = True
        self._last = self.clock()
        self._write(f"{self.name} {words}")

    def _watch(self, seconds: float) -> None:
        while not self._ended.wait(seconds):
            self.beat()


def current() -> Voice | None:
    """The voice of the command that runs, if it has one."""
    return _current.get()


def _to_stderr(line: str) -> None:
    # Looked up now: whoever catches a command's output has put another in its place.
    stream: Any = sys.stderr
    stream.write(f"{line}\n")
    stream.flush()

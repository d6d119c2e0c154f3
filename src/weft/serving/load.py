"""How busy an engine is: counted as it works, read for metrics and for the page."""

import math
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WINDOW = 30.0
"""Seconds that rates look back."""


@dataclass(frozen=True)
class Load:
    """An engine at one moment."""

    waiting: Mapping[str, int]
    """Tokens that wait, by expert."""
    rows: int
    """Inputs under way, encoded, waiting or computed."""
    writing: int
    """Texts that are being written."""
    residents: int
    """Experts in memory."""
    bytes: int
    """Of their tensors."""
    batches: int
    """Forward passes so far."""
    tokens: int
    """Read and written so far, padding not counted."""
    tokens_per_second: float
    """Over the last half minute, while there was work."""
    busy: float
    """Share of the last half minute in which the model computed, 0 to 1."""
    draining: bool
    replicas: int = 1
    """Processes that answer."""
    retries: int = 0
    """Requests that were asked once more, since the process that was to answer had died."""


def summed(loads: Sequence[Load], *, rows: int, draining: bool, retries: int) -> Load:
    """Loads as one: amounts add up, and of shares the mean is taken.

    Args:
        loads: Of each replica.
        rows: Inputs under way in all of them, on their way to one, or waiting for one.
        draining: Whether nothing new is taken.
        retries: Requests that were asked once more.
    """
    waiting: Counter[str] = Counter()
    for load in loads:
        waiting.update(load.waiting)
    return Load(
        waiting=waiting,
        rows=rows,
        writing=sum(load.writing for load in loads),
        residents=sum(load.residents for load in loads),
        bytes=sum(load.bytes for load in loads),
        batches=sum(load.batches for load in loads),
        tokens=sum(load.tokens for load in loads),
        tokens_per_second=sum(load.tokens_per_second for load in loads),
        busy=sum(load.busy for load in loads) / max(1, len(loads)),
        draining=draining,
        replicas=len(loads),
        retries=retries,
    )


class Meter:
    """Counts batches, tokens and time."""

    def __init__(self) -> None:
        self.batches = self.tokens = 0
        self._recent: deque[tuple[float, int, float]] = deque()
        # Every request asks for it, so it is summed up when a batch has run and not when it is asked.
        self._rate = 0.0
        self._began = time.monotonic()

    def ran(self, tokens: int, seconds: float) -> None:
        """A forward pass of so many tokens took so long."""
        self.batches += 1
        self.tokens += tokens
        self._recent.append((time.monotonic(), tokens, seconds))
        self._forget()

    def rate(self) -> float:
        """Tokens per second of computing; 0 before there was any."""
        return self._rate

    def seconds_for(self, tokens: int) -> float:
        """How long so many tokens take, at least a tenth of a second; one where nothing is known."""
        rate = self.rate()
        return max(0.1, tokens / rate) if rate else 1.0

    def tokens_in(self, seconds: float) -> float:
        """How many tokens are computed in a time; no end of them where nothing is known."""
        return self.rate() * seconds or math.inf

    def load(
        self,
        *,
        waiting: Mapping[str, int],
        rows: int,
        residents: int,
        bytes: int,
        draining: bool,
        writing: int = 0,
    ) -> Load:
        """All of it."""
        self._forget()
        span = min(WINDOW, max(time.monotonic() - self._began, 1e-9))
        busy = min(1.0, sum(own for _, _, own in self._recent) / span)
        return Load(
            waiting=waiting,
            rows=rows,
            writing=writing,
            residents=residents,
            bytes=bytes,
            batches=self.batches,
            tokens=self.tokens,
            tokens_per_second=self.rate(),
            busy=busy,
            draining=draining,
        )

    def _forget(self) -> None:
        before = time.monotonic() - WINDOW
        while self._recent and self._recent[0][0] < before:
            self._recent.popleft()
        seconds = sum(own for _, _, own in self._recent)
        self._rate = sum(own for _, own, _ in self._recent) / seconds if seconds else 0.0

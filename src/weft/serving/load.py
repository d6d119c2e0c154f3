"""How busy an engine is: counted as it works, read for metrics and for the page."""

import math
import time
from collections import deque
from collections.abc import Mapping
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


class Meter:
    """Counts batches, tokens and time."""

    def __init__(self) -> None:
        self.batches = self.tokens = 0
        self._recent: deque[tuple[float, int, float]] = deque()
        self._began = time.monotonic()

    def ran(self, tokens: int, seconds: float) -> None:
        """A forward pass of so many tokens took so long."""
        self.batches += 1
        self.tokens += tokens
        self._recent.append((time.monotonic(), tokens, seconds))
        self._forget()

    def rate(self) -> float:
        """Tokens per second of computing; 0 before there was any."""
        seconds = sum(own for _, _, own in self._recent)
        return sum(own for _, own, _ in self._recent) / seconds if seconds else 0.0

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

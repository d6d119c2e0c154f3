"""The contract of a kind of input that is no text: a file is checked by its header, and read as a sequence of vectors.

    file ─ steps ─> how many vectors (before long work)
    file ─ features ─> (steps, size), float32: what an encoder of the same name (`model/encoders/`) reads

Plain numpy: nothing here is learnt.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import Field

from weft.config import Settings

MOST_KEPT = 8192
"""Files whose vectors stay in memory, the last that were used; three seconds of sound have some 50 KiB."""


class InputSettings(Settings):
    """What every kind of input can set: the size of its encoder; a kind adds how its files are read."""

    width: int = Field(default=64, ge=1)
    """Width of the encoder's states."""
    layers: int = Field(default=2, ge=0)
    """Convolutions in time, each with a connection around it; 0 leaves a linear map of every vector."""
    kernel: int = Field(default=5, ge=1)
    """Vectors that a convolution looks at; odd."""


class Input(ABC):
    """How files of one kind are read.

    Args:
        settings: Checked settings of `settings_type`.
    """

    settings_type: ClassVar[type[InputSettings]]

    def __init__(self, settings: InputSettings) -> None:
        if settings.kernel % 2 == 0:
            raise ValueError(
                f"kernel must be odd, so that it has a middle, got {settings.kernel}; take {settings.kernel + 1}"
            )
        self.settings = settings

    @property
    @abstractmethod
    def size(self) -> int:
        """Numbers in a vector."""

    @abstractmethod
    def steps(self, path: Path, where: str) -> int:
        """How many vectors a file has, by its header alone.

        Raises:
            ValueError: If it is absent or cannot be read; starts with `where`.
        """

    @abstractmethod
    def features(self, path: Path) -> np.ndarray:
        """The file's vectors in order, float32 (steps, size)."""

    def kept(self, path: str, stamp: str) -> np.ndarray:
        """`features`, from memory where they were read before.

        Args:
            path: The file.
            stamp: As `stamp_of` found it: another one is another file.
        """
        # Frozen settings are hashable.
        return _kept(type(self), self.settings, path, stamp)  # pyright: ignore[reportArgumentType]


@lru_cache(maxsize=MOST_KEPT)
def _kept(kind: type[Input], settings: InputSettings, path: str, stamp: str) -> np.ndarray:
    found = kind(settings).features(Path(path))
    found.flags.writeable = False
    return found


def stamp_of(path: Path) -> str:
    """What tells a file from another of its name: its size and when it was written."""
    state = path.stat()
    return f"{state.st_size}-{state.st_mtime_ns}"


def pooled_steps(steps: int, rate: int) -> int:
    """Vectors that are left of so many when each `rate` of them become their mean; a shorter rest has its own."""
    return -(-steps // rate)


def rate_at(name: str, rates: Sequence[int], *, seed: int, step: int) -> int:
    """The rate at which a kind of input is pooled in one training step, uniform over `rates`.

    A function of its arguments alone: the same for every row, task and process of a step, and after a resume.
    """
    return int(np.random.default_rng([seed, step, *name.encode()]).choice(np.asarray(rates)))


def rates_of(said: Sequence[str] | None) -> dict[str, int] | None:
    """Rates by input from `audio=16` and its like; None where nothing is said.

    Raises:
        ValueError: If one is not of that form.
    """
    if not said:
        return None
    found: dict[str, int] = {}
    for one in said:
        name, _, rate = one.partition("=")
        if not (name and rate.isascii() and rate.isdigit()):
            raise ValueError(f"--at {one!r}: expected an input and its rate, e.g. audio=16")
        found[name] = int(rate)
    return found

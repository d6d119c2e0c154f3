"""What a GGUF file says of itself, walked once within its bounds before any library allocates for it.

The format: ggml-org/ggml, docs/gguf.md (versions 2 and 3). A file is data and nothing in it is run, but its counts and
lengths are somebody else's: each is held against the bytes that are there.
"""

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weft import guard

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
"""Struct's letters of the types of a value that have one size, by the format's number."""
_STRING, _ARRAY = 8, 9
_MOST_DIMENSIONS = 4
"""GGML_MAX_DIMS of ggml.h."""
_LONGEST_NAME = 65535
"""Bytes of a key, as the format has it."""


@dataclass(frozen=True)
class Header:
    """What a file says of itself; its arrays by their lengths."""

    metadata: Mapping[str, Any]
    """Values by key: numbers, texts, and of an array how many it holds."""
    shapes: Mapping[str, tuple[int, ...]]
    """Shapes of the tensors by the format's names, as torch counts: rows first."""
    types: Mapping[str, str]
    """How ggml calls the form that a tensor's numbers are stored in: F32, Q4_1, ..."""

    @property
    def architecture(self) -> str:
        """How the format calls the kind of model."""
        return self.metadata["general.architecture"]

    @property
    def numbers(self) -> int:
        """How many numbers all tensors hold together."""
        return sum(math.prod(shape) for shape in self.shapes.values())


def read_header(path: Path) -> Header:
    """The header of a GGUF file, every length in it checked.

    Raises:
        ValueError: If it is no GGUF file, of another version, cut short, or says what cannot be.
    """
    size = guard.check_file(path)
    with guard.opened(path) as file:
        if file.read(4) != _MAGIC:
            raise ValueError(f"{path} is no GGUF file: it does not begin with {_MAGIC.decode()}")
        if size < 24:
            raise ValueError(f"{path} is cut short: it has {size} bytes; copy or download it again")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Walk(path, data).header()


class _Walk:
    """A place in the file that only moves on, and never behind its end."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path, self.data, self.size, self.at = path, data, len(data), 4

    def header(self) -> Header:
        version = self.number("I")
        if version not in _VERSIONS:
            # Read the other way round, the version of a file for big machines is a great number.
            other = " (or it is big-endian)" if version > 0xFFFF else ""
            raise self.wrong(f"it is of version {version}{other}, expected 2 or 3")
        tensors, values = self.number("Q"), self.number("Q")
        metadata: dict[str, Any] = {}
        for _ in range(values):
            key = self.text(_LONGEST_NAME)
            if key in metadata:
                raise self.wrong(f"it says {key!r:.80} twice")
            metadata[key] = self.value(self.number("I"))
        architecture = metadata.get("general.architecture")
        if not isinstance(architecture, str) or not architecture:
            raise self.wrong("it does not say its `general.architecture`")
        placed: dict[str, tuple[tuple[int, ...], str, int]] = {}
        ends: list[int] = []
        for _ in range(tensors):
            name, shape, kind, start, nbytes = self.tensor()
            if name in placed:
                raise self.wrong(f"it holds the tensor {name!r:.80} twice")
            placed[name] = shape, kind, start
            ends.append(start + nbytes)
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise self.wrong(f"its alignment is {alignment!r:.40}, expected a power of two")
        if any(start % alignment for _, _, start in placed.values()):
            raise self.wrong(f"a tensor does not begin at a multiple of {alignment} bytes")
        first = -(-self.at // alignment) * alignment
        expected = first + max(ends, default=0)
        if not placed or expected > self.size:
            raise self.wrong(f"its header describes {expected} bytes, the file has {self.size}")
        return Header(
            metadata,
            {name: shape for name, (shape, _, _) in placed.items()},
            {name: kind for name, (_, kind, _) in placed.items()},
        )

    def tensor(self) -> tuple[str, tuple[int, ...], str, int, int]:
        """Name, shape, type, offset among the tensors, and bytes of the tensor described here."""
        from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

        name = self.text(_LONGEST_NAME)
        count = self.number("I")
        if not 1 <= count <= _MOST_DIMENSIONS:
            raise self.wrong(f"tensor {name!r:.80} has {count} dimensions, expected 1 to 4")
        sizes = [self.number("Q") for _ in range(count)]
        kind, start = self.number("I"), self.number("Q")
        try:
            known = GGMLQuantizationType(kind)
            block, nbytes = GGML_QUANT_SIZES[known]
        except (ValueError, KeyError):
            raise self.wrong(
                f"tensor {name!r:.80} is of a type that is not known, {kind}"
            ) from None
        if sizes[0] % block or not all(sizes):
            raise self.wrong(f"tensor {name!r:.80} is {sizes}, not in blocks of {block}")
        # The format counts what lies side by side first.
        return name, tuple(reversed(sizes)), known.name, start, math.prod(sizes) // block * nbytes

    def value(self, kind: int) -> Any:
        """The value here, of this type; of an array its length."""
        if kind in _SCALARS:
            return self.number(_SCALARS[kind])
        if kind == _STRING:
            return self.text(self.size)
        if kind != _ARRAY:
            raise self.wrong(f"a value is of a type that is not known, {kind}")
        inner, count = self.number("I"), self.number("Q")
        if inner in _SCALARS:
            self.skip(count * struct.calcsize(_SCALARS[inner]))
        elif inner == _STRING:
            for _ in range(count):
                self.skip(self.number("Q"))
        else:
            raise self.wrong(f"an array holds values of type {inner}, expected numbers or texts")
        return count

    def text(self, most: int) -> str:
        length = self.number("Q")
        if length > most:
            raise self.wrong(f"a name is {length} bytes long")
        start = self.at
        self.skip(length)
        try:
            return self.data[start : self.at].decode()
        except UnicodeDecodeError:
            raise self.wrong("a text is not UTF-8") from None

    def number(self, letter: str) -> Any:
        start = self.at
        self.skip(struct.calcsize(letter))
        return struct.unpack_from(f"<{letter}", self.data, start)[0]

    def skip(self, count: int) -> None:
        if count > self.size - self.at:
            raise self.wrong(f"{count} bytes should follow byte {self.at}, it has {self.size}")
        self.at += count

    def wrong(self, why: str) -> ValueError:
        return ValueError(f"{self.path} is damaged or cut short: {why}; copy or download it again")

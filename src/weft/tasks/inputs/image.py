"""Pictures: grey patches in columns from left to right, each column from its top, as a line of writing is read.

A patch of p by p pixels is a vector of p^2 brightnesses between -1 and 1 (Dosovitskiy et al. 2020, arXiv:2010.11929,
section 3.1, whose patches run along rows). Files: whatever Pillow opens, and `.npy` of (height, width) or (height,
width, channels), whole numbers 0 to 255 or fractions 0 to 1. A picture of another height is scaled to the set one, its
form kept; the right edge is filled up with black to a whole patch.
"""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from weft.tasks.inputs import contract


class Settings(contract.InputSettings):
    """Settings of pictures."""

    height: int = Field(default=32, ge=1)
    """Pixels that pictures are high."""
    patch: int = Field(default=8, ge=1)
    """Pixels that a patch is wide and high; `height` is a multiple of it."""


class Image(contract.Input):
    """Pictures as files of Pillow's or numpy's."""

    settings_type: ClassVar[type[contract.InputSettings]] = Settings
    settings: Settings

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        if settings.height % settings.patch:
            raise ValueError(
                f"height {settings.height} is no multiple of patch {settings.patch}; change one of them"
            )

    @property
    def rows(self) -> int:
        """Patches in a column."""
        return self.settings.height // self.settings.patch

    @property
    def size(self) -> int:
        return self.settings.patch**2

    def steps(self, path: Path, where: str) -> int:
        try:
            shape = _shape(path)
        except FileNotFoundError:
            raise ValueError(
                f"{where}: no picture {path}; paths are relative to the data's folder"
            ) from None
        except (OSError, ValueError, SyntaxError) as error:
            raise ValueError(f"{where}: {path} cannot be read as a picture ({error})") from None
        return self.rows * -(-self._width(shape) // self.settings.patch)

    def features(self, path: Path) -> np.ndarray:
        pixels = _grey(path)
        if pixels.shape[0] != self.settings.height:
            from PIL import Image as Pictures

            size = self._width(pixels.shape), self.settings.height
            pixels = np.asarray(Pictures.fromarray(pixels).resize(size))
        return self.of_pixels(pixels)

    def of_pixels(self, pixels: np.ndarray) -> np.ndarray:
        """The vectors of a picture in memory: (height, width), brightness 0 to 1."""
        side = self.settings.patch
        pixels = np.pad(pixels, ((0, 0), (0, -pixels.shape[1] % side)))
        patches = pixels.reshape(self.rows, side, -1, side).transpose(2, 0, 1, 3)
        return (2 * patches.reshape(-1, self.size) - 1).astype(np.float32)

    def _width(self, shape: tuple[int, ...]) -> int:
        height, width = shape[:2]
        return max(1, round(width * self.settings.height / height))


def _opened(path: Path) -> Any:
    try:
        from PIL import Image as Pictures
    except ModuleNotFoundError:
        raise ValueError(
            "pictures are read by Pillow: pip install 'weft[inputs]', or give .npy"
        ) from None
    return Pictures.open(path)


def _shape(path: Path) -> tuple[int, ...]:
    """(height, width, ...), by the header alone."""
    if path.suffix == ".npy":
        shape = np.load(path, mmap_mode="r", allow_pickle=False).shape
        if len(shape) not in (2, 3) or not all(shape):
            raise ValueError(
                f"its shape is {shape}; expected (height, width) or (height, width, channels)"
            )
        return shape
    with _opened(path) as picture:
        return picture.height, picture.width


def _grey(path: Path) -> np.ndarray:
    """(height, width), float32 from 0 to 1."""
    if path.suffix != ".npy":
        with _opened(path) as picture:
            return np.asarray(picture.convert("L"), dtype=np.float32) / 255
    values = np.load(path, allow_pickle=False)
    scale = 255.0 if np.issubdtype(values.dtype, np.integer) else 1.0
    values = values.astype(np.float32) / np.float32(scale)
    return values if values.ndim == 2 else values.mean(2)

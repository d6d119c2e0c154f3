"""Words in figures and their files: short numbers, wrapped and safe names, numbers beside points without overlap."""

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from weft.reporting.tables import is_fraction

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

LONGEST = 24
"""Letters in a line of a name."""
_STEPS = {1e9: "G", 1e6: "M", 1e3: "k"}
_AROUND = [(7, 0), (0, 8), (-7, 0), (0, -8), (7, 7), (-7, 7), (7, -7), (-7, -7)]
_AROUND = _AROUND + [(2 * x, 2 * y) for x, y in _AROUND]
"""Where a number may stand, in points from what it names; the first free place is taken."""
_ROOM = (9.0, 8.0)
"""Width and height of a number, in points."""


def scale_of(metric: str) -> float:
    """What a score is multiplied by to be in the unit that figures show."""
    return 100.0 if is_fraction(metric) else 1.0


def compact(value: float) -> str:
    """A number in few letters: 78.7k, 22.7M, 0.05."""
    for step, letter in _STEPS.items():
        if abs(value) >= step:
            return f"{value / step:.3g}{letter}"
    return f"{value:.3g}"


def safe_name(words: str) -> str:
    """Words as a part of file names and addresses: ASCII letters, digits, hyphens and underscores."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in words)


def wrapped(name: str) -> str:
    """A name in at most two lines."""
    lines = textwrap.wrap(name, LONGEST)
    if len(lines) > 2:
        lines = [lines[0], f"{lines[1][: LONGEST - 1]}…"]
    return "\n".join(lines)


def place_numbers(
    drawn: "Canvas", own: "Axes", points: Sequence[tuple[float, float]], numbers: Sequence[str]
) -> None:
    """Write a number beside each point, where no other point or number is as far as there is room."""
    # Scales and sizes must be settled before distances on the page mean anything.
    drawn.draw_without_rendering()
    places = [tuple(own.transData.transform(point) * 72 / drawn.dpi) for point in points]
    taken = list(places)
    for at, place in enumerate(places):
        others = [spot for index, spot in enumerate(taken) if index != at]
        spots = [(place[0] + x, place[1] + y) for x, y in _AROUND]
        crowds = [sum(map(_close, [spot] * len(others), others)) for spot in spots]
        shift = _AROUND[crowds.index(min(crowds))]
        taken.append((place[0] + shift[0], place[1] + shift[1]))
        own.annotate(
            numbers[at],
            points[at],
            xytext=shift,
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=7.5,
        )


def _close(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(abs(a - b) < room for a, b, room in zip(one, other, _ROOM, strict=True))

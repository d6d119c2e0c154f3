"""A figure of numbers with their intervals, a line each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from weft.reporting.document import Figure
from weft.reporting.drawing import INK, MARKERS, PALETTE, WIDTH, axes, draw

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

LINE, FRAME = 0.21, 0.95
"""Inches of a line, and of title and axis."""


@dataclass(frozen=True)
class Point:
    """A number in the unit of the axis."""

    name: str
    value: float
    low: float
    high: float
    kind: str = ""
    """Points of one kind look alike; "" is a kind of its own."""


def points_figure(
    name: str,
    points: Sequence[Point],
    *,
    title: str,
    axis: str,
    caption: str,
    mark: float | None = None,
) -> Figure:
    """Lines from top to bottom in their order.

    Args:
        name: Of the figure's file.
        points: A line each.
        title: Above all of them.
        axis: What is drawn across, with its unit.
        caption: What it shows and how to read it.
        mark: A number to read the others against: a line from top to bottom.
    """
    kinds = list(dict.fromkeys(point.kind or point.name for point in points))

    def paint(drawn: "Canvas") -> None:
        own = axes(drawn, title, axis, "")
        if mark is not None:
            own.axvline(mark, color=INK, linewidth=0.8, linestyle=":")
        for place, point in enumerate(reversed(points)):
            number = kinds.index(point.kind or point.name)
            colour = PALETTE[number % len(PALETTE)]
            own.hlines(place, point.low, point.high, colors=colour, linewidth=1.6, alpha=0.55)
            marker = MARKERS[number % len(MARKERS)]
            own.plot(point.value, place, marker=marker, color=colour, markersize=4.5)
        own.set_yticks(range(len(points)), [point.name for point in reversed(points)])
        own.set_ylim(-0.7, len(points) - 0.3)

    said = ", ".join(f"{point.name} {point.value:.1f}" for point in points)
    height = FRAME + LINE * len(points)
    alt = f"{title}, {axis}: {said}."
    return draw(name, height, caption, alt, paint, width=1.3 * WIDTH)

"""The drawings of answers: values by layer, cells of two names, and clouds of points."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from weft.reporting.document import Figure
from weft.reporting.drawing import INK, MARKERS, PALETTE, axes, draw, wrapped

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

COLOURED = 6
"""Lines with a colour of their own; the others are grey."""
NUMBERED = 150
"""Cells that have room for their numbers."""
_STYLES = ("-", "--", "-.")


@dataclass(frozen=True)
class Line:
    """Values along an axis."""

    name: str
    points: tuple[tuple[float, float], ...]
    chance: bool = False
    """Whether it says what chance gives."""
    spread: tuple[float, ...] = ()
    """How far runs of several seeds are apart at each point, their deviation; () of one run."""


@dataclass(frozen=True)
class Words:
    """What is written on and below a figure."""

    name: str
    """Of its file: letters, digits and hyphens."""
    title: str
    x: str
    y: str
    caption: str


def lines(
    words: Words,
    found: Sequence[Line],
    *,
    logarithmic: bool = False,
    along: Literal["linear", "log"] = "linear",
) -> Figure:
    """Lines with a colour, a marker and a style each; chance is dotted, in the text's colour.

    Args:
        words: What is written.
        found: The lines.
        logarithmic: Whether values rise by factors.
        along: How places rise: whole numbers evenly, or by factors.
    """
    own = [line for line in found if not line.chance]
    chance = [line for line in found if line.chance]

    def paint(drawn: "Canvas") -> None:
        from matplotlib.ticker import MaxNLocator, ScalarFormatter

        plot = axes(drawn, words.title, words.x, words.y)
        for at, line in enumerate(own):
            coloured = at < COLOURED
            plot.plot(
                *zip(*line.points, strict=True),
                color=PALETTE[at] if coloured else INK,
                marker=MARKERS[at] if coloured else None,
                linestyle=_STYLES[at % len(_STYLES)] if coloured else "-",
                alpha=0.95 if coloured else 0.2,
                linewidth=1.2 if coloured else 0.8,
                markersize=4,
                label=wrapped(line.name) if coloured else None,
            )
            if coloured and line.spread:
                x, y = zip(*line.points, strict=True)
                pairs = list(zip(y, line.spread, strict=True))
                low, high = ([v + side * s for v, s in pairs] for side in (-1, 1))
                plot.fill_between(x, low, high, color=PALETTE[at], alpha=0.15, linewidth=0)
        for at, line in enumerate(chance):
            plot.plot(
                *zip(*line.points, strict=True),
                color=INK,
                linestyle=":",
                linewidth=1.4,
                alpha=0.8,
                label="chance" if at == 0 else None,
            )
        if logarithmic:
            plot.set_yscale("log")
        if along == "log":
            plot.set_xscale("log", base=2)
            plot.xaxis.set_major_formatter(ScalarFormatter())
        else:
            plot.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
        drawn.legend(loc="outside lower center", ncols=2)

    values = [value for line in own for _, value in line.points if math.isfinite(value)]
    alt = f"{words.title}: {words.y} against {words.x}, {len(own)} lines. "
    alt += "; ".join(_said(line) for line in own[:COLOURED])
    if chance:
        level = [value for line in chance for _, value in line.points if math.isfinite(value)]
        if level:
            alt += f". Chance: {min(level):.3g} to {max(level):.3g}"
    alt += f". All lie between {min(values):.3g} and {max(values):.3g}." if values else "."
    caption = words.caption
    if any(line.spread for line in own):
        caption += " A band is one standard deviation over seeds."
    if len(own) > COLOURED:
        caption += f" The first {COLOURED} have colours, the other {len(own) - COLOURED} are grey."
    height = 3.0 + 0.13 * min(len(own) + bool(chance), COLOURED + 1)
    return draw(words.name, height, caption, alt, paint)


def _said(line: Line) -> str:
    known = [point for point in line.points if math.isfinite(point[1])]
    if not known:
        return f"{line.name} has no value"
    top = max(known, key=lambda point: point[1])
    return f"{line.name} from {known[0][1]:.3g} to {known[-1][1]:.3g}, highest at {top[0]:g}"


def cells(
    words: Words,
    rows: Sequence[str],
    columns: Sequence[str],
    values: Mapping[tuple[str, str], float],
    *,
    limits: tuple[float, float] | None = None,
) -> Figure:
    """A heat map; where there are few cells each has its number. Below 0 it has two hues, else one.

    Args:
        words: Its `y` is what rows are; the unit of the values is in the title.
        rows: Their names, from the top.
        columns: Their names.
        values: By row and column; what is not there, or no number, is left empty.
        limits: Ends of the colours; None takes those of the values, and 0.
    """
    known = {place: value for place, value in values.items() if math.isfinite(value)}
    low, high = limits or (
        min([0.0, *known.values()]),
        max([0.0, *known.values()]) or 1.0,
    )
    if low < 0:
        high = max(-low, high)
        low = -high

    def paint(drawn: "Canvas") -> None:
        import numpy as np
        from matplotlib import colormaps
        from matplotlib.colors import Normalize

        plot = axes(drawn, words.title, words.x, words.y)
        grid = np.array([[known.get((r, c), math.nan) for c in columns] for r in rows])
        colours, norm = colormaps["viridis" if low == 0 else "PuOr"], Normalize(low, high)
        mesh = plot.pcolormesh(np.ma.masked_invalid(grid), cmap=colours, norm=norm)
        if grid.size <= NUMBERED:
            for (row, column), value in np.ndenumerate(grid):
                if math.isfinite(value):
                    red, green, blue, _ = colours(norm(value))
                    dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
                    plot.text(
                        column + 0.5,
                        row + 0.5,
                        f"{value:.0f}" if abs(value) >= 100 else f"{value:.2g}",
                        ha="center",
                        va="center",
                        fontsize=7,
                        color="#ffffff" if dark else "#000000",
                    )
        plot.set_xticks([at + 0.5 for at in range(len(columns))], [wrapped(c) for c in columns])
        if sum(len(column) + 2 for column in columns) > 45:
            for label in plot.get_xticklabels():
                label.set(rotation=40, ha="right")
        plot.set_yticks([at + 0.5 for at in range(len(rows))], [wrapped(row) for row in rows])
        plot.invert_yaxis()
        plot.grid(visible=False)
        plot.tick_params(length=0)
        bar = drawn.colorbar(mesh, ax=plot, location="bottom", aspect=40, shrink=0.8)
        bar.outline.set_visible(False)  # type: ignore[operator]

    alt = f"Heat map: {words.title}, {len(rows)} by {len(columns)} cells."
    if known:
        top, least = max(known, key=known.__getitem__), min(known, key=known.__getitem__)
        alt += (
            f" Largest {known[top]:.3g} at {top[0]}, {top[1]}; smallest {known[least]:.3g} at {least[0]}, "
            f"{least[1]}."
        )
    return draw(words.name, 1.9 + 0.24 * len(rows), words.caption, alt, paint)


@dataclass(frozen=True)
class Cloud:
    """Points of one kind, before and after."""

    name: str
    before: tuple[tuple[float, float], ...]
    after: tuple[tuple[float, float], ...]


def clouds(words: Words, found: Sequence[Cloud]) -> Figure:
    """Two maps with the same axes side by side; a kind has a colour and a marker."""

    def paint(drawn: "Canvas") -> None:
        first = None
        for at, side in enumerate(("before", "after"), 1):
            plot = axes(drawn, f"{words.title}, {side}", words.x, words.y, at=(1, 2, at))
            for number, cloud in enumerate(found):
                points = cloud.before if side == "before" else cloud.after
                plot.scatter(
                    *zip(*points, strict=True),
                    s=9,
                    alpha=0.55,
                    linewidths=0,
                    color=PALETTE[number % len(PALETTE)],
                    marker=MARKERS[number % len(MARKERS)],
                    label=cloud.name if at == 1 else None,
                )
            if first is None:
                first = plot
            else:
                plot.sharex(first)
                plot.sharey(first)
        if first is not None:
            first.autoscale()
        drawn.legend(loc="outside lower center", ncols=4)

    def centre(points: Sequence[tuple[float, float]]) -> str:
        x, y = (sum(axis) / len(points) for axis in zip(*points, strict=True))
        return f"({x:.2g}, {y:.2g})"

    moves = "; ".join(
        f"{cloud.name} from {centre(cloud.before)} to {centre(cloud.after)}" for cloud in found
    )
    alt = f"{words.title}: two maps of the same tokens on the same axes. Centres: {moves}."
    return draw(words.name, 3.4, words.caption, alt, paint, width=7.2)


def points(words: Words, found: Sequence[Line]) -> Figure:
    """Points of kinds, each with a colour and a marker; where an axis has no number there is none."""
    known = [
        Line(one.name, tuple(p for p in one.points if math.isfinite(p[0] + p[1]))) for one in found
    ]

    def paint(drawn: "Canvas") -> None:
        plot = axes(drawn, words.title, words.x, words.y)
        for at, one in enumerate(known):
            if one.points:
                plot.scatter(
                    *zip(*one.points, strict=True),
                    s=22,
                    alpha=0.8,
                    linewidths=0,
                    color=PALETTE[at % len(PALETTE)],
                    marker=MARKERS[at % len(MARKERS)],
                    label=wrapped(one.name),
                )
        drawn.legend(loc="outside lower center", ncols=3)

    said = "; ".join(
        f"{one.name} " + ", ".join(f"({x:.2g}, {y:.2g})" for x, y in one.points[:6])
        for one in known
        if one.points
    )
    alt = f"{words.title}: {sum(len(one.points) for one in known)} points. {said}."
    return draw(words.name, 3.2, words.caption, alt, paint)

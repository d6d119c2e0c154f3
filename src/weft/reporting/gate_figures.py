"""Heat maps of a mixture's gates: adapted maps down, experts across, one figure for each task."""

from typing import TYPE_CHECKING

from weft.reporting.drawing import Figure, axes, draw
from weft.reporting.mixtures import GateTable, Grid, MixtureRun, column_means
from weft.reporting.numbers import safe_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap, Normalize
    from matplotlib.figure import Figure as Canvas

NUMBERED = 8
"""Columns up to which every cell has its number in it."""
LEVELS = 40
"""Colours of a scale; of 50 and more matplotlib makes a picture of dots, which an SVG embeds."""
NAMED = 24
"""Columns up to which each has its name below it."""


def gate_figures(mixture: MixtureRun) -> list[Figure]:
    """Mean gates of every task on one scale; and the share of tokens by expert, where gates leave some out."""
    values = [v for table in mixture.gates for row in table.gates for v in row if v is not None]
    found = []
    for table in mixture.gates:
        found.append(_heat(mixture, table, table.gates, "mean gate", _range(values)))
        if table.is_sparse:
            found.append(
                _heat(mixture, table, table.selected, "share of tokens selected", (0.0, 1.0))
            )
    return found


def _range(values: list[float]) -> tuple[float, float]:
    """From 0, or as far below as above it, to the largest gate."""
    top = max(map(abs, values), default=1.0) or 1.0
    return (-top if min(values, default=0.0) < 0 else 0.0), top


def _heat(
    mixture: MixtureRun, table: GateTable, cells: Grid, what: str, limits: tuple[float, float]
) -> Figure:
    share = what.startswith("share")

    def paint(drawn: "Canvas") -> None:
        import numpy as np
        from matplotlib import colormaps
        from matplotlib.colors import Normalize

        title = f"{mixture.method} on {table.task}: {what}"
        own = axes(drawn, title, "expert", "adapted map (layer.module)")
        grid = [[np.nan if value is None else value for value in row] for row in cells]
        norm = Normalize(*limits)
        # One hue for sizes, two where gates go below 0; both are even in lightness.
        colors = colormaps["viridis" if limits[0] == 0 else "PuOr"].resampled(LEVELS)
        mesh = own.pcolormesh(np.ma.masked_invalid(grid), cmap=colors, norm=norm)
        if len(table.columns) <= NUMBERED:
            _write(own, cells, colors, norm)
        _name_columns(own, table)
        own.set_yticks([at + 0.5 for at in range(len(table.maps))], table.maps)
        own.invert_yaxis()
        own.grid(visible=False)
        own.tick_params(length=0)
        unit = "share of tokens (0 to 1)" if share else "mean gate (no unit)"
        bar = drawn.colorbar(mesh, ax=own, label=unit, location="bottom", aspect=40, shrink=0.8)
        bar.outline.set_visible(False)  # type: ignore[operator]

    filled = [
        (value, name, column)
        for row, name in zip(cells, table.maps, strict=True)
        for value, column in zip(row, table.columns, strict=True)
        if value is not None
    ]
    top = max(filled, default=(0.0, "", ""))
    averages = ", ".join(
        f"{name} {value or 0.0:.2f}"
        for name, value in zip(table.columns, column_means(cells), strict=True)
    )
    said = averages if len(table.columns) <= NUMBERED else f"{len(table.columns)} columns"
    alt = (
        f"Heat map of the {what} by adapted map and expert, {mixture.run} on {table.task}. Means over maps: {said}. "
        f"Largest: {top[0]:.2f}, {top[2]} on {top[1]}."
    )
    caption = (
        f"{mixture.run}: {what} over {table.tokens:,} tokens of {table.task} ({table.split}). "
        + (
            "1 means that every token selects the expert."
            if share
            else "All tasks share one colour scale."
        )
        + (
            ""
            if all(value is not None for row in cells for value in row)
            else " Empty cells: the map has no such expert."
        )
    )
    kind = "selected" if share else "gates"
    # The last hyphen but one ends the mixture's part of the name: that has hyphens too.
    task = safe_name(table.task).replace("-", "_")
    height = 1.7 + 0.17 * len(table.maps)
    return draw(f"{mixture.key}-{task}-{kind}", height, caption, alt, paint)


def _name_columns(own: "Axes", table: GateTable) -> None:
    """Experts below the map; of many, a few."""
    step = 1 if len(table.columns) <= NAMED else len(table.columns) // 8
    shown = range(0, len(table.columns), step)
    names = [table.columns[at] for at in shown]
    is_long = sum(len(name) + 2 for name in names) > 50
    own.set_xticks([at + 0.5 for at in shown], names)
    for label in own.get_xticklabels() if is_long else ():
        label.set(rotation=40, ha="right")


def _write(own: "Axes", cells: Grid, colors: "Colormap", norm: "Normalize") -> None:
    """Each cell's number, black or white, whichever its colour carries."""
    for row, values in enumerate(cells):
        for column, value in enumerate(values):
            if value is None:
                continue
            red, green, blue, _ = colors(norm(value))
            light = 0.299 * red + 0.587 * green + 0.114 * blue > 0.5
            own.text(
                column + 0.5,
                row + 0.5,
                f"{value:.2f}",
                ha="center",
                va="center",
                fontsize=7,
                color="#000000" if light else "#ffffff",
            )

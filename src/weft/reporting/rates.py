"""The figure of a comparison's search: held-out score by learning rate, a line for each recipe."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weft.atomic import write_text, writing
from weft.comparison.grid import label_of
from weft.reporting.document import Figure
from weft.reporting.drawing import MARKERS, PALETTE, WIDTH, axes, draw, number_logarithmic, save_png
from weft.reporting.numbers import scale_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

NAME = "learning-rates"
DASHES = ("-", "--", ":", "-.")
ACROSS = 3
"""Panels beside each other, and names of the legend."""


@dataclass(frozen=True)
class Picture:
    """A figure on disk and its words."""

    svg: str
    png: str
    caption: str
    alt: str

    def as_json(self) -> dict[str, str]:
        return asdict(self)


def rates_figure(board: Mapping[str, Any], name: str = NAME) -> Figure | None:
    """A panel for each base and task of a board; None if nothing was searched.

    Args:
        board: What `leaderboard` returned.
        name: Of the figure.

    Raises:
        ValueError: If matplotlib is not installed.
    """
    rows = [row for row in board["rows"] if row["search"]]
    if not rows:
        return None
    width, height = _size(rows)
    caption, alt = _caption(board, rows), _alt(rows)
    return draw(name, height, caption, alt, lambda drawn: _paint(drawn, rows), width=width)


def draw_rates(board: Mapping[str, Any], out: str | Path) -> Picture | None:
    """Write `learning-rates.svg`, `.png` and `.txt`, which holds the words.

    Args:
        board: What `leaderboard` returned.
        out: Folder to write into.

    Returns:
        File names, the caption, and what to read to those who do not see the figure; None if nothing was searched.

    Raises:
        ValueError: If matplotlib is not installed.
    """
    figure = rates_figure(board)
    if figure is None:
        return None
    rows = [row for row in board["rows"] if row["search"]]
    out = Path(out)
    picture = Picture(f"{NAME}.svg", f"{NAME}.png", figure.caption, figure.alt)
    write_text(out / picture.svg, figure.file)
    about = {"Title": "Score by learning rate", "Description": figure.alt}
    with writing(out / picture.png):
        save_png(out / picture.png, _size(rows), lambda drawn: _paint(drawn, rows), about)
    write_text(out / f"{NAME}.txt", f"{picture.caption}\n\n{picture.alt}\n")
    return picture


def _panels(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((row["base"], row["task"]) for row in rows))


def _size(rows: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Inches."""
    panels, names = len(_panels(rows)), len({row["recipe"] for row in rows})
    across = min(ACROSS, panels)
    return WIDTH * across, 3.4 * -(-panels // across) + 0.25 * (1 + names // ACROSS)


def _paint(drawn: "Canvas", rows: Sequence[Mapping[str, Any]]) -> None:
    panels = _panels(rows)
    names = sorted({row["recipe"] for row in rows})
    across = min(ACROSS, len(panels))
    down = -(-len(panels) // across)
    lines: dict[str, Any] = {}
    for at, (base, task) in enumerate(panels, 1):
        own = [row for row in rows if (row["base"], row["task"]) == (base, task)]
        y = f"{own[0]['metric']}{_unit(own[0]['metric'])[1]}, held-out rows"
        x, title = "learning rate (peak; no unit)", f"{task}, {label_of(base)}"
        lines |= _panel(axes(drawn, title, x, y, at=(down, across, at)), own, names)
    drawn.legend(
        [lines[name] for name in names],
        names,
        loc="outside lower center",
        ncols=ACROSS,
    )


def _panel(axis: "Axes", rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """One task on one base; returns the lines by recipe."""
    lines = {}
    factor, _ = _unit(rows[0]["metric"])
    for row in rows:
        number = names.index(row["recipe"])
        colour = PALETTE[number % len(PALETTE)]
        rates = [point["learning_rate"] for point in row["search"]]
        values = [factor * point["value"] for point in row["search"]]
        low, high = ([factor * point[end] for point in row["search"]] for end in ("low", "high"))
        axis.vlines(rates, low, high, colors=colour, alpha=0.35, linewidth=1)
        (lines[row["recipe"]],) = axis.plot(
            rates,
            values,
            color=colour,
            marker=MARKERS[number % len(MARKERS)],
            linestyle=DASHES[number // len(PALETTE) % len(DASHES)],
            fillstyle="none",
            label=row["recipe"],
        )
        best = rates.index(row["learning_rate"])
        axis.plot(rates[best], values[best], color=colour, marker=MARKERS[number % len(MARKERS)])
    axis.set_xscale("log")
    axis.margins(x=0.08)
    tried = [point["learning_rate"] for row in rows for point in row["search"]]
    number_logarithmic(axis, tried, lambda value: f"{value:g}")
    return lines


def _unit(metric: str) -> tuple[float, str]:
    scale = scale_of(metric)
    return scale, " (no unit)" if scale == 1 else " (%)"


def _caption(board: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    counts = sorted({point["n"] for row in rows for point in row["search"]})
    n = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
    return (
        f"Score by learning rate. Each point is one run with seed {board['grid']['search_seed']}, scored on "
        f"{n} rows held out of train; vertical lines are {100 * board['level']:.0f} % bootstrap intervals over "
        "rows; the filled point is the rate taken for the final runs."
    )


def _alt(rows: Sequence[Mapping[str, Any]]) -> str:
    """Every line in words."""
    said = []
    for row in rows:
        factor, unit = _unit(row["metric"])
        points = ", ".join(
            f"{factor * point['value']:.4g} at {point['learning_rate']:g}"
            for point in row["search"]
        )
        said.append(
            f"{row['recipe']} on {row['task']}, {label_of(row['base'])}: {row['metric']}{unit} {points}; "
            f"best at {row['learning_rate']:g}."
        )
    return "Line chart with a logarithmic axis of learning rates. " + " ".join(said)

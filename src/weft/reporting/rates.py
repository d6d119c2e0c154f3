"""The figure of a comparison's search: held-out score by learning rate, a line for each recipe."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from weft.atomic import write_text, writing
from weft.comparison.grid import label_of
from weft.reporting.drawing import MARKERS, PALETTE
from weft.reporting.labels import scale_of

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


def draw_rates(board: Mapping[str, Any], out: str | Path) -> Picture | None:
    """Write `learning-rates.svg`, `.png` and `.txt`, which holds the words: a panel for each base and task.

    Args:
        board: What `leaderboard` returned.
        out: Folder to write into.

    Returns:
        File names, the caption, and what to read to those who do not see the figure; None if nothing was searched.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    rows = [row for row in board["rows"] if row["search"]]
    if not rows:
        return None
    panels = list(dict.fromkeys((row["base"], row["task"]) for row in rows))
    names = sorted({row["recipe"] for row in rows})
    across = min(ACROSS, len(panels))
    down = -(-len(panels) // across)
    picture = Picture(f"{NAME}.svg", f"{NAME}.png", _caption(board, rows), _alt(rows))
    # Text stays text, and the same numbers make the same bytes.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": NAME}):
        size = (5 * across, 3.6 * down + 0.25 * (1 + len(names) // ACROSS))
        figure = Figure(figsize=size, layout="constrained")
        axes = list(figure.subplots(down, across, squeeze=False).flat)
        drawn = {}
        for axis, panel in zip(axes, panels, strict=False):
            own = [row for row in rows if (row["base"], row["task"]) == panel]
            drawn |= _panel(axis, own, names)
        for axis in axes[len(panels) :]:
            axis.remove()
        figure.legend(
            [drawn[name] for name in names],
            names,
            loc="outside lower center",
            ncols=ACROSS,
            frameon=False,
        )
        about = {"Title": "Score by learning rate", "Description": picture.alt}
        with writing(Path(out) / picture.svg):
            figure.savefig(Path(out) / picture.svg, metadata={**about, "Date": None})
            figure.savefig(Path(out) / picture.png, metadata=about, dpi=150)
    write_text(Path(out) / f"{NAME}.txt", f"{picture.caption}\n\n{picture.alt}\n")
    return picture


def _panel(axis: Any, rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """One task on one base; returns the lines by recipe."""
    lines = {}
    factor, unit = _unit(rows[0]["metric"])
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
    axis.set_xlabel("learning rate (peak; no unit)")
    axis.set_ylabel(f"{rows[0]['metric']}{unit}, held-out rows")
    axis.set_title(f"{rows[0]['task']}, {label_of(rows[0]['base'])}")
    axis.grid(alpha=0.25)
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

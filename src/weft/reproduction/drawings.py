"""The report's figures: the gap to full fine-tuning, scores against sizes; those of the rates are in their own file."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from weft.comparison.grid import label_of
from weft.reporting.document import unit
from weft.reporting.drawing import INK, MARKERS, PALETTE, Figure, axes, draw
from weft.reporting.numbers import compact, safe_name, scale_of, wrapped
from weft.reproduction.gap import GOAL_SHARE, GapRow
from weft.reproduction.gap_tables import is_whole, rate_name
from weft.reproduction.layout import percent, scored, share
from weft.reproduction.rate_drawings import rate_figures
from weft.reproduction.result import Reproduction

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

LINE, PANEL = 0.27, 2.4
"""Inches of a line of a list, and of a panel."""


@dataclass(frozen=True)
class Drawn:
    """A figure as it stands in the page and as a file of its own."""

    name: str
    svg: str
    """For the page."""
    file: str
    caption: str
    alt: str


def drawings(found: Reproduction) -> dict[str, list[Drawn]]:
    """Every figure by the key of its section.

    Raises:
        ValueError: If matplotlib is not installed.
    """
    own = []
    for base in dict.fromkeys(map(label_of, found.outcome.plan.profile.bases)):
        rows = [row for row in found.gap if row.base == base]
        if any(row.share for row in rows):
            own.append(_gap(found, base, rows))
        if rows:
            own.append(_sizes(found, base, rows))
    drawn = [Drawn(f.name, f.svg, f.file, f.caption, f.alt) for f in own]
    rates = [Drawn(*one) for one in rate_figures(found.outcome)]
    return {"gap": [*drawn, *rates]}


def _sign(rows: list[GapRow], row: GapRow) -> tuple[str, str]:
    """Colour and marker of a recipe and rate: the same on every set."""
    at = list(dict.fromkeys(map(rate_name, rows))).index(rate_name(row))
    return PALETTE[at % len(PALETTE)], MARKERS[at % len(MARKERS)]


def _gap(found: Reproduction, base: str, rows: list[GapRow]) -> Figure:
    plan = found.outcome.plan
    lines = [row for row in rows if row.share and not is_whole(row)]

    def paint(drawn: "Canvas") -> None:
        title = f"{base}: share of full fine-tuning"
        own = axes(drawn, title, "share of its score at its own rate (%)", "set, recipe and rate")
        for at, row in enumerate(lines):
            assert row.share is not None
            color, marker = _sign(rows, row)
            own.plot([100 * row.share.low, 100 * row.share.high], [at, at], color=color, lw=1.4)
            own.plot(100 * row.share.value, at, marker=marker, color=color, markersize=5)
        own.axvline(100, color=INK, linewidth=1)
        own.axvline(100 * GOAL_SHARE, color=INK, linewidth=0.9, linestyle=":")
        names = [wrapped(f"{plan.set_name(row.task)}: {rate_name(row)}") for row in lines]
        own.set_yticks(range(len(lines)), names)
        own.set_ylim(len(lines) - 0.4, -0.6)
        own.grid(visible=False, axis="y")
        own.tick_params(axis="y", length=0)

    said = [f"{plan.set_name(row.task)}, {rate_name(row)}: {share(row.share)} %" for row in lines]
    alt = f"{base}: scores as shares of full fine-tuning at its own rate. {'; '.join(said)}."
    caption = (
        "Each recipe's score as a share of full fine-tuning's, which has a rate of its own too: the line at 100 %; "
        f"the dotted line is the goal, {percent(GOAL_SHARE, 0)} %. Bars are 95 % bootstrap intervals over rows."
    )
    height = max(2.0, 1.0 + 1.4 * LINE * len(lines))
    return draw(safe_name(f"gap-{base}"), height, caption, alt, paint)


def _sizes(found: Reproduction, base: str, rows: list[GapRow]) -> Figure:
    plan = found.outcome.plan
    tasks = list(dict.fromkeys(row.task for row in rows))

    def paint(drawn: "Canvas") -> None:
        from matplotlib.lines import Line2D

        for at, task in enumerate(tasks, 1):
            here = [row for row in rows if row.task == task]
            scale, metric = scale_of(here[0].metric), unit(here[0].metric)
            x = "trained parameters (count, logarithmic scale)"
            own = axes(drawn, f"{plan.set_name(task)}, {base}", x, metric, at=(len(tasks), 1, at))
            for row in here:
                color, marker = _sign(rows, row)
                ends = [scale * row.score.low, scale * row.score.high]
                own.plot([row.trained, row.trained], ends, color=color, linewidth=1, alpha=0.5)
                own.plot(row.trained, scale * row.score.value, marker, color=color, markersize=5)
            own.set_xscale("log")
            own.margins(x=0.08)
            own.xaxis.set_major_formatter(lambda value, _: compact(value))
            own.xaxis.set_minor_formatter(lambda value, _: "")
        signs = {rate_name(row): _sign(rows, row) for row in rows}
        handles = [
            Line2D([], [], color=color, marker=marker, ls="", label=name)
            for name, (color, marker) in signs.items()
        ]
        drawn.legend(handles=handles, loc="outside lower center", ncols=2)

    said = [
        f"{plan.set_name(row.task)}, {rate_name(row)}: {scored(row.metric, row.score)} with {compact(row.trained)}"
        for row in rows
    ]
    alt = f"{base}: score against trained parameters. {'; '.join(said)}."
    caption = (
        "Score against trained parameters, the head's included, a panel for each set; vertical lines are 95 % "
        "bootstrap intervals over rows."
    )
    height = PANEL * len(tasks) + 0.8
    return draw(safe_name(f"sizes-{base}"), height, caption, alt, paint)

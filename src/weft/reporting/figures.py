"""Figures of one section: scores with intervals, time per epoch, scores against sizes; curves are in their own file."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from weft.reporting.curve_figures import curves
from weft.reporting.document import heading, unit
from weft.reporting.drawing import INK, MARKERS, PALETTE, Figure, axes, draw
from weft.reporting.numbers import compact, place_numbers, scale_of, wrapped
from weft.reporting.sections import Entry, Section
from weft.reporting.tables import interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

FAMILIES = {
    "adapters": "low-rank adapters",
    "mixture": "mixture",
    "base": "full fine-tuning",
    "head": "head alone",
}
ROW = 0.27
"""Inches that a line of a list takes."""


def figures_of(section: Section) -> list[Figure]:
    """All figures that the section has numbers for."""
    found: list[Figure] = []
    if section.scored:
        found.append(_scores(section))
    if any(entry.cost("seconds_per_epoch") is not None for entry in section.entries):
        found.append(_times(section))
    sized = [e for e in section.scored if e.cost("trainable_parameters") is not None]
    if len(sized) > 1:
        found.append(_sizes(section))
    if any(run.loss for run in section.runs):
        found.append(curves(section, "loss"))
    if any(run.selection for run in section.runs):
        found.append(curves(section, "selection"))
    return found


def _color(entry: Entry) -> tuple[str, str]:
    """Colour and marker of what was trained."""
    at = list(FAMILIES).index(entry.family)
    return PALETTE[at], MARKERS[at]


def _scores(section: Section) -> Figure:
    scale, entries = scale_of(section.metric), section.scored

    def paint(drawn: "Canvas") -> None:
        own = axes(drawn, f"{heading(section)}: scores", unit(section.metric), "rank and method")
        for place, entry in enumerate(entries):
            color, marker = _color(entry)
            count = len(entry.runs)
            for at, run in enumerate(entry.runs):
                if run.score is None:
                    continue
                y = place + 0.5 * ((at + 0.5) / count - 0.5)
                ends = [scale * run.score[end] for end in ("low", "high")]
                own.plot(ends, [y, y], color=color, linewidth=1.2, alpha=0.6)
                own.plot(scale * run.score["value"], y, marker="|", color=color, markersize=4)
            own.plot(scale * (entry.score or 0.0), place, marker=marker, color=color, markersize=5)
        _list(own, entries)
        _legend(own, entries)

    best, last = entries[0], entries[-1]
    alt = (
        f"{heading(section)}: {unit(section.metric)} of {len(entries)} methods with 95 % intervals. "
        f"Best: {_said(section, best)}"
    )
    alt += f". Last: {_said(section, last)}." if len(entries) > 1 else "."
    caption = (
        f"{unit(section.metric)} by method, best first. Each line is one run's 95 % bootstrap interval over rows, its "
        "tick the score; the marker is the mean over seeds. Where lines overlap, chance may have made the order."
    )
    return draw(f"{section.key}-scores", _height(entries), caption, alt, paint)


def _sizes(section: Section) -> Figure:
    scale = scale_of(section.metric)
    places = {id(entry): place for place, entry in enumerate(section.entries, 1)}
    known = [e for e in section.scored if e.cost("trainable_parameters") is not None]
    points = [(e.cost("trainable_parameters") or 0.0, scale * (e.score or 0.0)) for e in known]

    def paint(drawn: "Canvas") -> None:
        x = "trained parameters (count, logarithmic scale)"
        own = axes(drawn, f"{heading(section)}: score against size", x, unit(section.metric))
        for entry, (size, score) in zip(known, points, strict=True):
            color, marker = _color(entry)
            assert entry.interval is not None
            ends = [scale * end for end in entry.interval]
            own.plot([size, size], ends, color=color, linewidth=1, alpha=0.45)
            own.plot(size, score, marker=marker, color=color, markersize=5)
        steps = _undominated(points, section.higher_is_better)
        own.plot(*zip(*steps, strict=True), color=INK, linewidth=0.9, linestyle=":", alpha=0.7)
        smallest = min((size for size, _ in points if size), default=1.0)
        if all(size for size, _ in points):
            own.set_xscale("log")
        else:
            own.set_xscale("symlog", linthresh=smallest)
        own.margins(x=0.08)
        own.xaxis.set_major_formatter(lambda value, _: compact(value))
        own.xaxis.set_minor_formatter(lambda value, _: "")
        _legend(own, known)
        place_numbers(drawn, own, points, [str(places[id(entry)]) for entry in known])

    small = min(known, key=lambda entry: entry.cost("trainable_parameters") or 0.0)
    sizes = sorted(size for size, _ in points)
    alt = (
        f"{heading(section)}: {unit(section.metric)} against trained parameters, {compact(sizes[0])} to "
        f"{compact(sizes[-1])}. Smallest: {_said(section, small)}. Best: {_said(section, known[0])}."
    )
    caption = (
        "Score against trained parameters, the head's included; numbers are ranks, vertical lines the 95 % intervals. "
        "The dotted line joins the methods that no smaller one beats."
    )
    return draw(f"{section.key}-sizes", 3.6, caption, alt, paint)


def _undominated(
    points: Sequence[tuple[float, float]], higher_is_better: bool
) -> list[tuple[float, float]]:
    """Points that are better than every smaller one, from small to large."""
    sign = 1 if higher_is_better else -1
    found: list[tuple[float, float]] = []
    for size, score in sorted(points, key=lambda point: (point[0], -sign * point[1])):
        if not found or sign * score > sign * found[-1][1]:
            found.append((size, score))
    return found


def _times(section: Section) -> Figure:
    known = [e for e in section.entries if e.cost("seconds_per_epoch") is not None]
    values = [entry.cost("seconds_per_epoch") or 0.0 for entry in known]

    def paint(drawn: "Canvas") -> None:
        title = f"{heading(section)}: time per epoch"
        own = axes(drawn, title, "seconds per epoch (s)", "rank and method")
        for place, (entry, value) in enumerate(zip(known, values, strict=True)):
            own.barh(place, value, height=0.6, color=_color(entry)[0])
            own.text(value, place, f" {value:,.1f}", va="center", ha="left", fontsize=7.5)
        own.margins(x=0.12)
        own.set_xlim(left=0)
        _list(own, known, section.entries)
        _legend(own, known)

    fast = known[values.index(min(values))]
    slow = known[values.index(max(values))]
    alt = (
        f"{heading(section)}: seconds per epoch of {len(known)} methods. Fastest: {fast.name}, {min(values):,.1f} s; "
        f"slowest: {slow.name}, {max(values):,.1f} s."
    )
    caption = "Training time of one pass over the training rows, mean over seeds, in the order of the scores."
    return draw(f"{section.key}-times", _height(known), caption, alt, paint)


def _list(own: "Axes", entries: Sequence[Entry], ranked: Sequence[Entry] | None = None) -> None:
    """Names down the left side, the best on top."""
    ranks = {id(entry): place for place, entry in enumerate(ranked or entries, 1)}
    names = [wrapped(f"{ranks[id(entry)]} {entry.name}") for entry in entries]
    own.set_yticks(range(len(entries)), names)
    own.set_ylim(len(entries) - 0.4, -0.6)
    own.grid(visible=False, axis="y")
    own.tick_params(axis="y", length=0)


def _height(entries: Sequence[Entry]) -> float:
    """Inches of a figure with a line for each entry."""
    legend = 0.45 if len({entry.family for entry in entries}) > 1 else 0.0
    return max(1.7, 0.9 + legend + ROW * len(entries))


def _legend(own: "Axes", entries: Sequence[Entry]) -> None:
    """What markers and colours mean, where there are several."""
    from matplotlib.lines import Line2D

    present = {entry.family: entry for entry in entries}
    if len(present) < 2:
        return
    handles = []
    for family, words in FAMILIES.items():
        if family in present:
            color, marker = _color(present[family])
            handles.append(Line2D([], [], color=color, marker=marker, ls="", label=words))
    figure = own.get_figure()
    assert figure is not None
    figure.legend(handles=handles, loc="outside lower center", ncols=2)  # type: ignore[union-attr]


def _said(section: Section, entry: Entry) -> str:
    low, high = entry.interval or (0.0, 0.0)
    score = {"value": entry.score or 0.0, "low": low, "high": high}
    return f"{entry.name}, {interval(section.metric, score)}"

"""Figures of runs side by side: scores with intervals, time per epoch, scores against sizes, learning curves."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from weft.reporting.document import Figure
from weft.reporting.drawing import (
    INK,
    MARKERS,
    PALETTE,
    axes,
    draw,
    number_logarithmic,
    place_numbers,
    wrapped,
)
from weft.reporting.groups import Entry, Group
from weft.reporting.numbers import compact, interval, scale_of, unit
from weft.reporting.runs import Points

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

FAMILIES = {
    "adapters": "low-rank adapters",
    "mixture": "mixture",
    "base": "full fine-tuning",
    "head": "head alone",
}
CURVES = 6
"""Learning curves with a colour of their own; the others are grey."""
ROW = 0.27
"""Inches that a line of a list takes."""


def figures_of(group: Group) -> list[Figure]:
    """All figures that there are numbers for."""
    found: list[Figure] = []
    if group.scored:
        found.append(_scores(group))
    # A bar alone says no more than its number in the table.
    if sum(entry.cost("seconds_per_epoch") is not None for entry in group.entries) > 1:
        found.append(_times(group))
    sized = [e for e in group.scored if e.cost("trainable_parameters") is not None]
    if len(sized) > 1:
        found.append(_sizes(group))
    if any(run.loss for run in group.runs):
        found.append(_curves(group, "loss"))
    if any(run.selection for run in group.runs):
        found.append(_curves(group, "selection"))
    return found


def _color(entry: Entry) -> tuple[str, str]:
    """Colour and marker of what was trained."""
    at = list(FAMILIES).index(entry.family)
    return PALETTE[at], MARKERS[at]


def _scores(group: Group) -> Figure:
    scale, entries = scale_of(group.metric), group.scored

    def paint(drawn: "Canvas") -> None:
        own = axes(drawn, f"{group.heading}: scores", unit(group.metric), "rank and method")
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
        f"{group.heading}: {unit(group.metric)} of {len(entries)} methods with 95 % intervals. "
        f"Best: {_said(group, best)}"
    )
    alt += f". Last: {_said(group, last)}." if len(entries) > 1 else "."
    caption = (
        f"{unit(group.metric)} by method, best first. Each line is one run's 95 % bootstrap interval over rows, its "
        "tick the score; the marker is the mean over seeds. Where lines overlap, chance may have made the order."
    )
    return draw(f"{group.key}-scores", _height(entries), caption, alt, paint)


def _sizes(group: Group) -> Figure:
    scale = scale_of(group.metric)
    places = {id(entry): place for place, entry in enumerate(group.entries, 1)}
    known = [e for e in group.scored if e.cost("trainable_parameters") is not None]
    points = [(e.cost("trainable_parameters") or 0.0, scale * (e.score or 0.0)) for e in known]

    sizes = sorted(size for size, _ in points)

    def paint(drawn: "Canvas") -> None:
        x = "trained parameters (count, logarithmic scale)"
        own = axes(drawn, f"{group.heading}: score against size", x, unit(group.metric))
        for entry, (size, score) in zip(known, points, strict=True):
            color, marker = _color(entry)
            assert entry.interval is not None
            ends = [scale * end for end in entry.interval]
            own.plot([size, size], ends, color=color, linewidth=1, alpha=0.45)
            own.plot(size, score, marker=marker, color=color, markersize=5)
        steps = _undominated(points, group.higher_is_better)
        own.plot(*zip(*steps, strict=True), color=INK, linewidth=0.9, linestyle=":", alpha=0.7)
        smallest = min((size for size, _ in points if size), default=1.0)
        if all(size for size, _ in points):
            own.set_xscale("log")
        else:
            own.set_xscale("symlog", linthresh=smallest)
        own.margins(x=0.08)
        number_logarithmic(own, sizes, compact)
        _legend(own, known)
        place_numbers(drawn, own, points, [str(places[id(entry)]) for entry in known])

    small = min(known, key=lambda entry: entry.cost("trainable_parameters") or 0.0)
    alt = (
        f"{group.heading}: {unit(group.metric)} against trained parameters, {compact(sizes[0])} to "
        f"{compact(sizes[-1])}. Smallest: {_said(group, small)}. Best: {_said(group, known[0])}."
    )
    caption = (
        "Score against trained parameters, the head's included; numbers are ranks, vertical lines the 95 % intervals. "
        "The dotted line joins the methods that no smaller one beats."
    )
    return draw(f"{group.key}-sizes", 3.6, caption, alt, paint)


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


def _times(group: Group) -> Figure:
    known = [e for e in group.entries if e.cost("seconds_per_epoch") is not None]
    values = [entry.cost("seconds_per_epoch") or 0.0 for entry in known]

    def paint(drawn: "Canvas") -> None:
        title = f"{group.heading}: time per epoch"
        own = axes(drawn, title, "seconds per epoch (s)", "rank and method")
        for place, (entry, value) in enumerate(zip(known, values, strict=True)):
            own.barh(place, value, height=0.6, color=_color(entry)[0])
            own.text(value, place, f" {value:,.1f}", va="center", ha="left", fontsize=7.5)
        own.margins(x=0.12)
        own.set_xlim(left=0)
        _list(own, known, group.entries)
        _legend(own, known)

    fast = known[values.index(min(values))]
    slow = known[values.index(max(values))]
    alt = (
        f"{group.heading}: seconds per epoch of {len(known)} methods. Fastest: {fast.name}, {min(values):,.1f} s; "
        f"slowest: {slow.name}, {max(values):,.1f} s."
    )
    caption = "Training time of one pass over the training rows, mean over seeds, in the order of the scores."
    return draw(f"{group.key}-times", _height(known), caption, alt, paint)


def _curves(group: Group, what: str) -> Figure:
    """Losses (`loss`) or selection scores (`selection`) over the steps."""
    by_place: dict[int, list[Points]] = {}
    for place, entry in enumerate(group.entries):
        found = [run.loss if what == "loss" else run.selection for run in entry.runs]
        if any(found):
            by_place[place] = [points for points in found if points]
    scale = 1.0 if what == "loss" else scale_of(group.metric)
    y = f"training loss ({group.loss_unit})" if what == "loss" else unit(group.metric)
    chosen = list(by_place)[:CURVES]
    values = [value for own in by_place.values() for points in own for _, value in points]
    wide = what == "loss" and min(values) > 0 and max(values) > 10 * min(values)

    def paint(drawn: "Canvas") -> None:
        from matplotlib.ticker import MaxNLocator

        title = f"{group.heading}: " + ("loss" if what == "loss" else "score while training")
        own = axes(drawn, title, "optimizer steps (count)", y + (", logarithmic" if wide else ""))
        for place, runs in reversed(by_place.items()):
            at = chosen.index(place) if place in chosen else None
            for number_of, points in enumerate(runs):
                steps, heights = zip(*points, strict=True)
                label = wrapped(f"{place + 1} {group.entries[place].name}")
                own.plot(
                    steps,
                    [scale * value for value in heights],
                    color=INK if at is None else PALETTE[at],
                    alpha=0.13 if at is None else 0.9,
                    linewidth=0.8 if at is None else 1.1,
                    linestyle="-" if at is None else ("-", "--", "-.")[at % 3],
                    marker="o" if len(points) == 1 else None,
                    label=label if at is not None and number_of == 0 else None,
                )
        own.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
        known = {step for runs in by_place.values() for points in runs for step, _ in points}
        if len(known) == 1:
            # Around a lone step the axis would be parts of a step wide.
            own.set_xlim(min(known) - 1.5, min(known) + 1.5)
        if wide:
            own.set_yscale("log")
            own.yaxis.set_major_formatter(lambda value, _: compact(value))
            own.yaxis.set_minor_formatter(lambda value, _: "")
        handles, labels = own.get_legend_handles_labels()
        drawn.legend(handles[::-1], labels[::-1], loc="outside lower center", ncols=2)

    said = "loss" if what == "loss" else f"{unit(group.metric)} on the rows early stopping looks at"
    best = [scale * points[-1][1] for points in by_place[chosen[0]]]
    alt = (
        f"{group.heading}: {said} over optimizer steps of {len(by_place)} methods. "
        f"{group.entries[chosen[0]].name} ends at {sum(best) / len(best):.3g}."
    )
    others = len(by_place) - len(chosen)
    caption = f"How they learned: {said}, one line a run; those of one method share a colour."
    if others:
        caption += f" The {len(chosen)} best have colours, the other {others} are grey."
    key = "loss" if what == "loss" else "selection"
    return draw(f"{group.key}-{key}", 3.2 + 0.1 * len(chosen), caption, alt, paint)


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


def _said(group: Group, entry: Entry) -> str:
    low, high = entry.interval or (0.0, 0.0)
    score = {"value": entry.score or 0.0, "low": low, "high": high}
    return f"{entry.name}, {interval(group.metric, score)}"

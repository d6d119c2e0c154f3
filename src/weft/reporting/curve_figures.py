"""Learning curves of one section: losses, and the scores that early stopping looks at."""

from typing import TYPE_CHECKING

from weft.reporting.document import heading, unit
from weft.reporting.drawing import INK, PALETTE, Figure, axes, draw
from weft.reporting.numbers import compact, scale_of, wrapped
from weft.reporting.runs import Points
from weft.reporting.sections import Section

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

CURVES = 6
"""Learning curves with a colour of their own; the others are grey."""


def curves(section: Section, what: str) -> Figure:
    """Losses (`loss`) or selection scores (`selection`) over the steps."""
    by_place: dict[int, list[Points]] = {}
    for place, entry in enumerate(section.entries):
        found = [run.loss if what == "loss" else run.selection for run in entry.runs]
        if any(found):
            by_place[place] = [points for points in found if points]
    scale = 1.0 if what == "loss" else scale_of(section.metric)
    y = f"training loss ({section.loss_unit})" if what == "loss" else unit(section.metric)
    chosen = list(by_place)[:CURVES]
    values = [value for own in by_place.values() for points in own for _, value in points]
    wide = what == "loss" and min(values) > 0 and max(values) > 10 * min(values)

    def paint(drawn: "Canvas") -> None:
        from matplotlib.ticker import MaxNLocator

        title = f"{heading(section)}: " + ("loss" if what == "loss" else "score while training")
        own = axes(drawn, title, "optimizer steps (count)", y + (", logarithmic" if wide else ""))
        for place, runs in reversed(by_place.items()):
            at = chosen.index(place) if place in chosen else None
            for number_of, points in enumerate(runs):
                steps, heights = zip(*points, strict=True)
                label = wrapped(f"{place + 1} {section.entries[place].name}")
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
        if wide:
            own.set_yscale("log")
            own.yaxis.set_major_formatter(lambda value, _: compact(value))
            own.yaxis.set_minor_formatter(lambda value, _: "")
        handles, labels = own.get_legend_handles_labels()
        drawn.legend(handles[::-1], labels[::-1], loc="outside lower center", ncols=2)

    said = (
        "loss" if what == "loss" else f"{unit(section.metric)} on the rows early stopping looks at"
    )
    best = [scale * points[-1][1] for points in by_place[chosen[0]]]
    alt = (
        f"{heading(section)}: {said} over optimizer steps of {len(by_place)} methods. "
        f"{section.entries[chosen[0]].name} ends at {sum(best) / len(best):.3g}."
    )
    others = len(by_place) - len(chosen)
    caption = f"How they learned: {said}, one line a run; those of one method share a colour."
    if others:
        caption += f" The {len(chosen)} best have colours, the other {others} are grey."
    key = "loss" if what == "loss" else "selection"
    return draw(f"{section.key}-{key}", 3.2 + 0.1 * len(chosen), caption, alt, paint)

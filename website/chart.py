"""A flow chart of Mermaid's as a drawing, so that a page needs no script from elsewhere to show it.

Of its language only what `docs/rooms.py` writes is read: a box a line, an arrow a line.
"""

import graphlib
import re
from html import escape

BOX, HIGH, ACROSS, DOWN = 104, 26, 118, 62
"""Width and height of a box, and how far boxes and rows are apart."""
CHART = re.compile(r"```mermaid\nflowchart TD\n(.*?)```\n", re.DOTALL)
_ARROW = re.compile(r"(\w+) --> (\w+)")


def with_charts(text: str) -> str:
    """A page whose charts are drawings."""
    return CHART.sub(lambda found: f"{chart(found[1])}\n", text)


def chart(lines: str) -> str:
    """The drawing: what uses others stands above them; an arrow is a line downwards.

    Raises:
        graphlib.CycleError: If arrows lead in a circle.
    """
    below: dict[str, list[str]] = {}
    for line in filter(None, map(str.strip, lines.splitlines())):
        arrow = _ARROW.fullmatch(line)
        if arrow is None:
            below.setdefault(line, [])
        else:
            below.setdefault(arrow[1], []).append(arrow[2])
    places = _places(below)
    width = max(x for x, _ in places.values()) + BOX
    height = max(y for _, y in places.values()) + HIGH
    arrows = [
        f'<path d="M {x + BOX / 2:.0f} {y + HIGH} C {x + BOX / 2:.0f} {y + HIGH + 22}, '
        f'{to_x + BOX / 2:.0f} {to_y - 22}, {to_x + BOX / 2:.0f} {to_y}"/>'
        for name, (x, y) in places.items()
        for to_x, to_y in (places[target] for target in below[name])
    ]
    boxes = [
        f'<rect x="{x:.0f}" y="{y}" width="{BOX}" height="{HIGH}" rx="5"/>'
        f'<text x="{x + BOX / 2:.0f}" y="{y + 17}">{escape(name)}</text>'
        for name, (x, y) in places.items()
    ]
    return (
        f'<svg class="chart" style="max-width: {1.4 * width:.0f}px" role="img" '
        f'viewBox="-2 -2 {width + 4:.0f} {height + 4}" '
        f'aria-label="Who imports whom: {escape(_said(below))}">\n'
        f"<g>{''.join(arrows)}</g>\n{''.join(boxes)}</svg>\n"
    )


def _said(below: dict[str, list[str]]) -> str:
    return "; ".join(f"{name}: {', '.join(targets)}" for name, targets in below.items() if targets)


def _places(below: dict[str, list[str]]) -> dict[str, tuple[float, int]]:
    """Left upper corners: a row for each length of the longest way down, boxes near what they point to."""
    rows: dict[str, int] = {}
    for name in graphlib.TopologicalSorter(below).static_order():
        rows[name] = 1 + max((rows[target] for target in below[name]), default=-1)
    top = max(rows.values())
    widest = max(list(rows.values()).count(row) for row in range(top + 1))
    places: dict[str, tuple[float, int]] = {}
    for row in range(top + 1):
        middles = {
            name: sum(places[target][0] for target in below[name]) / max(1, len(below[name]))
            for name, own in rows.items()
            if own == row
        }
        left = (widest - len(middles)) * ACROSS / 2
        for at, name in enumerate(sorted(middles, key=middles.__getitem__)):
            places[name] = left + ACROSS * at, (top - row) * DOWN
    return places

"""Figures as SVG that reads on light and dark pages: ink takes the page's colour, the palette stands out on both."""

import io
import math
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weft.reporting.document import Figure
from weft.scoped import tell

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

INK = "#010203"
"""Lines and letters; becomes the colour of the text around the figure."""
PALETTE = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc6ba5",
    "#9a7400",
    "#7a6ff0",
    "#c8413f",
    "#3a8fa3",
)
"""Okabe and Ito's colours where they can be told from white and from near black at 3:1 (WCAG 2.2, 1.4.11), and others
that can; never the only sign, a marker, a style or a label says the same."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
WIDTH = 4.7
"""Inches: at a phone's width letters keep their size."""
APART = 0.16
"""Of the width of an axis: how far numbers below it are apart at least."""
LONGEST = 24
"""Letters in a line of a name."""
_AROUND = [(7, 0), (0, 8), (-7, 0), (0, -8), (7, 7), (-7, 7), (7, -7), (-7, -7)]
_AROUND = _AROUND + [(2 * x, 2 * y) for x, y in _AROUND]
"""Where a number may stand, in points from what it names; the first free place is taken."""
_ROOM = (9.0, 8.0)
"""Width and height of a number, in points."""
_STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.18,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "svg.fonttype": "none",
    "text.parse_math": False,
    **dict.fromkeys(
        (
            "text.color",
            "axes.edgecolor",
            "axes.labelcolor",
            "axes.titlecolor",
            "xtick.color",
            "ytick.color",
            "grid.color",
            "legend.labelcolor",
        ),
        INK,
    ),
}
_ON_ITS_OWN = (
    "<style>svg{color:#1c2126;background:#fff}@media(prefers-color-scheme:dark)"
    "{svg{color:#e4e8ec;background:#14171b}}text{font-family:system-ui,sans-serif}</style>"
)


def draw(
    name: str,
    height: float,
    caption: str,
    alt: str,
    paint: "Callable[[Canvas], None]",
    *,
    width: float = WIDTH,
) -> Figure:
    """What `paint` puts on an empty canvas, as an SVG element that can stand in a page beside others.

    Args:
        name: Of its file, and of its parts in the page.
        height: In inches.
        caption: What it shows and how to read it.
        alt: The same for who cannot see it.
        paint: Gets the canvas.
        width: In inches.

    Raises:
        ValueError: If matplotlib is not installed.
    """
    tell(f"drawing {name}")
    text = io.StringIO()
    with _painted((width, height), paint, name) as drawn:
        drawn.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    svg = _element(text.getvalue(), name, alt)
    start = svg.index(">") + 1
    return Figure(name, svg, f"{svg[:start]}{_ON_ITS_OWN}{svg[start:]}\n", caption, alt)


def save_png(
    path: Path,
    size: tuple[float, float],
    paint: "Callable[[Canvas], None]",
    about: Mapping[str, str],
) -> None:
    """The same drawing as a picture on white, for where no SVG is shown.

    Args:
        path: To be written.
        size: Width and height in inches.
        paint: Gets the canvas.
        about: What the file says of itself.
    """
    with _painted(size, paint, path.stem) as drawn:
        drawn.savefig(path, metadata=dict(about), dpi=150, facecolor="#ffffff")


@contextmanager
def _painted(
    size: tuple[float, float], paint: "Callable[[Canvas], None]", name: str
) -> "Iterator[Canvas]":
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure as Canvas
    except ImportError:
        raise ValueError("figures need matplotlib: pip install 'weft[report]'") from None
    # Its own style, whatever the user's settings are; one salt for each figure, so that no two share a name.
    style: Any = _STYLE | {"svg.hashsalt": name}
    with rc_context(style):
        drawn = Canvas(figsize=size, layout="constrained")
        paint(drawn)
        yield drawn


def axes(
    drawn: "Canvas", title: str, x: str, y: str, *, at: tuple[int, int, int] = (1, 1, 1)
) -> "Axes":
    """The canvas' axes, with a title and what they measure in which unit."""
    found = drawn.add_subplot(*at)
    found.set_title(title, loc="left", fontweight="bold")
    found.set_xlabel(x)
    found.set_ylabel(y)
    return found


def number_logarithmic(own: "Axes", values: Sequence[float], form: Callable[[float], str]) -> None:
    """Write numbers below a logarithmic axis: at the powers of ten, or at the values where there are not two of those.

    Args:
        own: The axes, with their scale.
        values: What is drawn across; those of 0 have no logarithm and are left to the scale.
        form: A number in words.
    """
    logs = sorted({math.log10(value) for value in values if value > 0})
    if logs and math.floor(logs[-1]) - math.ceil(logs[0]) < 1:
        chosen: list[float] = []
        for log in logs:
            if not chosen or log - chosen[-1] >= APART * (logs[-1] - logs[0]):
                chosen.append(log)
        own.set_xticks([10**log for log in chosen])
    own.xaxis.set_major_formatter(lambda value, _: form(value))
    own.xaxis.set_minor_formatter(lambda value, _: "")


def _element(text: str, name: str, alt: str) -> str:
    """The file of matplotlib as an element: without a size, a font or a colour of its own."""
    root, inside = re.fullmatch(r".*?<svg ([^>]*)>(.*)", text, flags=re.DOTALL).groups()  # type: ignore[union-attr]
    root = re.sub(r'\b(width|height)="[^"]*" ?', "", root)
    for unwanted in (
        r"<metadata>.*?</metadata>",
        r"<style.*?</style>",
        r"font-family: [^;\"]+;? ?",
    ):
        inside = re.sub(unwanted, "", inside, flags=re.DOTALL)
    # Names of parts are the same in every figure; in a page they must not be.
    inside = re.sub(r'(\bid="|url\(#|xlink:href="#)', rf"\g<1>{name}-", inside)
    inside = re.sub(INK, "currentColor", inside, flags=re.IGNORECASE)
    inside = "\n".join(line.strip() for line in inside.split("\n") if line.strip())
    return f'<svg role="img" aria-label="{escape(alt)}" stroke-linejoin="round" {root}>{inside}'


def wrapped(name: str) -> str:
    """A name in at most two lines."""
    lines = textwrap.wrap(name, LONGEST)
    if len(lines) > 2:
        lines = [lines[0], f"{lines[1][: LONGEST - 1]}…"]
    return "\n".join(lines)


def place_numbers(
    drawn: "Canvas", own: "Axes", points: Sequence[tuple[float, float]], numbers: Sequence[str]
) -> None:
    """Write a number beside each point, where no other point or number is as far as there is room."""
    # Scales and sizes must be settled before distances on the page mean anything.
    drawn.draw_without_rendering()
    places = [tuple(own.transData.transform(point) * 72 / drawn.dpi) for point in points]
    taken = list(places)
    for at, place in enumerate(places):
        others = [spot for index, spot in enumerate(taken) if index != at]
        spots = [(place[0] + x, place[1] + y) for x, y in _AROUND]
        crowds = [sum(map(_close, [spot] * len(others), others)) for spot in spots]
        shift = _AROUND[crowds.index(min(crowds))]
        taken.append((place[0] + shift[0], place[1] + shift[1]))
        own.annotate(
            numbers[at],
            points[at],
            xytext=shift,
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=7.5,
        )


def _close(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(abs(a - b) < room for a, b, room in zip(one, other, _ROOM, strict=True))

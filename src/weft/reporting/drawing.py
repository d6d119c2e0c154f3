"""Figures as SVG that reads on light and dark pages: ink takes the page's colour, the palette stands out on both."""

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

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


@dataclass(frozen=True)
class Figure:
    """A drawing and its words."""

    name: str
    """Of its file, and of its parts in the page."""
    svg: str
    caption: str
    alt: str
    """What it shows, for who cannot see it."""

    @property
    def file(self) -> str:
        """The SVG as a file that looks right on its own."""
        start = self.svg.index(">") + 1
        return f"{self.svg[:start]}{_ON_ITS_OWN}{self.svg[start:]}\n"


def draw(
    name: str, height: float, caption: str, alt: str, paint: "Callable[[Canvas], None]"
) -> Figure:
    """What `paint` puts on an empty canvas, as an SVG element that can stand in a page beside others.

    Args:
        name: Of its file, and of its parts in the page.
        height: In inches.
        caption: What it shows and how to read it.
        alt: The same for who cannot see it.
        paint: Gets the canvas.

    Raises:
        ValueError: If matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure as Canvas
    except ImportError:
        raise ValueError("figures need matplotlib: pip install 'weft[report]'") from None
    text = io.StringIO()
    # Its own style, whatever the user's settings are; one salt for each figure, so that no two share a name.
    style: Any = _STYLE | {"svg.hashsalt": name}
    with rc_context(style):
        drawn = Canvas(figsize=(WIDTH, height), layout="constrained")
        paint(drawn)
        drawn.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    return Figure(name, _element(text.getvalue(), name, alt), caption, alt)


def axes(
    drawn: "Canvas", title: str, x: str, y: str, *, at: tuple[int, int, int] = (1, 1, 1)
) -> "Axes":
    """The canvas' axes, with a title and what they measure in which unit."""
    found = drawn.add_subplot(*at)
    found.set_title(title, loc="left", fontweight="bold")
    found.set_xlabel(x)
    found.set_ylabel(y)
    return found


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

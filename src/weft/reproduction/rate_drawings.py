"""The sensitivity to the learning rate, a figure for each base and set, as `weft compare` draws it."""

from base64 import b64encode
from collections.abc import Iterator
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from weft.comparison.grid import label_of
from weft.comparison.leaderboard import leaderboard
from weft.reporting.numbers import safe_name
from weft.reporting.rates import draw_rates
from weft.reproduction.plan import OWN
from weft.reproduction.running import Outcome


class RateFigure(NamedTuple):
    """A figure as it stands in the page and as a file of its own."""

    name: str
    image: str
    """An element that holds the whole picture."""
    file: str
    caption: str
    alt: str


def rate_figures(outcome: Outcome) -> Iterator[RateFigure]:
    """A figure of each search; one with all sets side by side could not be read on a phone."""
    for (name, base), rows in outcome.rows.items():
        if name != OWN or not rows:
            continue
        stage = outcome.plan.stage(name, base)
        board = leaderboard(stage.grid, stage.folder, rows)
        for task in dict.fromkeys(row.task for row in rows):
            own = {**board, "rows": [row for row in board["rows"] if row["task"] == task]}
            with TemporaryDirectory() as folder:
                picture = draw_rates(own, folder)
                if picture is not None:
                    svg = (Path(folder) / picture.svg).read_text(encoding="utf-8")
                    called = safe_name(f"rates-{label_of(base)}-{task}")
                    image = _image(svg, picture.alt)
                    yield RateFigure(called, image, svg, picture.caption, picture.alt)


def _image(svg: str, alt: str) -> str:
    data = b64encode(svg.encode()).decode()
    style = "width: 100%; height: auto; background: #fff"
    return f'<img alt="{escape(alt)}" style="{style}" src="data:image/svg+xml;base64,{data}">'

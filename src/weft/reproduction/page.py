"""The report as one HTML file: style, tables and figures inside, no script, nothing from outside."""

from collections.abc import Mapping, Sequence

from weft.reporting.page import render
from weft.reproduction.drawings import Drawn
from weft.reproduction.layout import Section


def page(title: str, sections: Sequence[Section], figures: Mapping[str, Sequence[Drawn]]) -> str:
    """The whole page.

    Args:
        title: Of the report.
        sections: In their order.
        figures: By the key of the section they belong to.

    Raises:
        ValueError: If jinja2 is not installed.
    """
    return render("weft.reproduction", title=title, sections=sections, figures=figures)

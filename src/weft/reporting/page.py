"""The report as one HTML file: style, tables and figures inside, no script, nothing from outside."""

from collections.abc import Mapping, Sequence
from importlib import resources

from weft.reporting.cells import gates_table, heading, runs_table, score_table, standings_table
from weft.reporting.contents import Report, summary
from weft.reporting.drawing import Figure

TEMPLATE = "page.html.j2"


def page(report: Report, figures: Mapping[str, Sequence[Figure]]) -> str:
    """The whole page.

    Args:
        report: What to say.
        figures: By the key of the section or mixture they belong to.

    Raises:
        ValueError: If jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, StrictUndefined
    except ImportError:
        raise ValueError("the page needs jinja2: pip install 'weft[report]'") from None
    text = resources.files("weft.reporting").joinpath(TEMPLATE).read_text(encoding="utf-8")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    sections = [
        {
            "key": section.key,
            "heading": heading(section),
            "summary": summary(section),
            "remarks": section.remarks,
            "scores": score_table(section),
            "runs": runs_table(section),
            "figures": figures.get(section.key, ()),
        }
        for section in report.sections
    ]
    mixtures = [
        {
            "key": f"mixture-{mixture.key}",
            "heading": f"{mixture.run} ({mixture.method})",
            "said": mixture.said,
            "tables": [
                table for table in (standings_table(mixture), gates_table(mixture)) if table.rows
            ],
            "figures": figures.get(mixture.key, ()),
        }
        for mixture in report.mixtures
    ]
    return environment.from_string(text).render(
        title=report.title, sections=sections, mixtures=mixtures, missing=report.missing
    )

"""The report as one HTML file: style, tables and figures inside, no script, nothing from outside."""

from collections.abc import Mapping, Sequence
from typing import Any

from weft.reporting.document import gates_table, heading, runs_table, score_table, standings_table
from weft.reporting.drawing import Figure
from weft.reporting.run_report import Report, summary

TEMPLATE = "page.html.j2"


def page(report: Report, figures: Mapping[str, Sequence[Figure]]) -> str:
    """The whole page.

    Args:
        report: What to say.
        figures: By the key of the section or mixture they belong to.

    Raises:
        ValueError: If jinja2 is not installed.
    """
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
    return render(
        "weft.reporting",
        title=report.title,
        sections=sections,
        mixtures=mixtures,
        missing=report.missing,
    )


def render(package: str, **values: Any) -> str:
    """A package's own page in the frame and with the parts that all pages have.

    Args:
        package: Holds `page.html.j2`.
        values: What the page shows.

    Raises:
        ValueError: If jinja2 is not installed.
    """
    try:
        from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
    except ImportError:
        raise ValueError("the page needs jinja2: pip install 'weft[report]'") from None
    places = [PackageLoader(name, "") for name in dict.fromkeys((package, "weft.reporting"))]
    environment = Environment(
        loader=ChoiceLoader(places),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(TEMPLATE).render(**values)

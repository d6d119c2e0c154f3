"""The report as Markdown: the page's tables, and its figures as files beside it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from weft.reporting.document import (
    Table,
    gates_table,
    heading,
    runs_table,
    score_table,
    standings_table,
)
from weft.reporting.drawing import Figure
from weft.reporting.run_report import Report, summary

FIGURES = "figures"
"""The folder of the figures, beside the Markdown."""


def markdown(report: Report, figures: Mapping[str, Sequence[Figure]]) -> str:
    """The whole text.

    Args:
        report: What to say.
        figures: By the key of the section or mixture they belong to.
    """
    lines = [f"# {escaped(report.title)}", ""]
    for section in report.sections:
        lines += [f"## {escaped(heading(section))}", ""]
        lines += [*(escaped(line) for line in summary(section)), ""]
        lines += [*(f"- {escaped(line)}" for line in section.remarks), ""]
        lines += _table(score_table(section))
        lines += _figures(figures.get(section.key, ()))
        lines += _table(runs_table(section))
    for mixture in report.mixtures:
        lines += [f"## Mixture {escaped(mixture.run)} ({escaped(mixture.method)})", ""]
        lines += [*(f"- {escaped(line)}" for line in mixture.said), ""]
        for table in (standings_table(mixture), gates_table(mixture)):
            if table.rows:
                lines += _table(table)
        lines += _figures(figures.get(mixture.key, ()))
    missing = report.missing or ["Nothing: every run has ended, was scored, and left its log."]
    lines += ["## What is missing", "", *(f"- {escaped(line)}" for line in missing), ""]
    return "\n".join(_without_doubled_gaps(lines)).rstrip() + "\n"


def _table(table: Table) -> list[str]:
    lines = table_lines(table.headers, table.rows, words=table.words)
    return [escaped(table.caption), "", *lines, ""]


def table_lines(headers: Sequence[str], rows: Iterable[Sequence[str]], *, words: int) -> list[str]:
    """A table; its first `words` columns stand on the left of their cells, the others on the right."""
    bars = ["---" if at < words else "---:" for at in range(len(headers))]
    cells = [map(escaped, headers), bars, *(map(escaped, row) for row in rows)]
    return [f"| {' | '.join(row)} |" for row in cells]


def _figures(figures: Sequence[Figure]) -> list[str]:
    return [
        line
        for figure in figures
        for line in (
            f"![{escaped(figure.alt)}]({FIGURES}/{figure.name}.svg)",
            "",
            escaped(figure.caption),
            "",
        )
    ]


def escaped(text: str) -> str:
    """Text that Markdown takes as it is."""
    return "".join(f"\\{letter}" if letter in r"\`*_[]<>|#" else letter for letter in text)


def _without_doubled_gaps(lines: Sequence[str]) -> Iterator[str]:
    previous = ""
    for line in lines:
        if line or previous:
            yield line
        previous = line

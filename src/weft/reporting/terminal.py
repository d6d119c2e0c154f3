"""The report on a terminal: what it says and its main tables."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table as Rich

from weft.reporting.document import Table, gates_table, score_table, standings_table
from weft.reporting.run_report import Report, summary
from weft.reporting.tables import console


def show_report(report: Report) -> None:
    """Print sections and mixtures, and what is missing."""
    out = console()
    for section in report.sections:
        say(out, *summary(section), *section.remarks)
        _show(out, score_table(section))
    for mixture in report.mixtures:
        say(out, *mixture.said)
        for table in (standings_table(mixture), gates_table(mixture)):
            if table.rows:
                _show(out, table)
    say(out, *(f"missing: {line}" for line in report.missing))


def say(out: Console, *lines: str) -> None:
    """Print lines as they are: no markup, broken only by the terminal."""
    for line in lines:
        out.print(line, markup=False, soft_wrap=True)


def _show(out: Console, table: Table) -> None:
    shown = Rich(title=escape(table.caption), title_justify="left", title_style="dim")
    for at, header in enumerate(table.headers):
        shown.add_column(escape(header), justify="left" if at < table.words else "right")
    for row in table.rows:
        shown.add_row(*map(escape, row))
    out.print(shown)

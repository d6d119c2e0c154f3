"""The report on a terminal: what it says and its main tables."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table as Rich

from weft.reporting.cells import Table, gates_table, score_table, standings_table
from weft.reporting.contents import Report, summary
from weft.tables import WIDTH


def show_report(report: Report) -> None:
    """Print sections and mixtures, and what is missing."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDTH)
    for section in report.sections:
        _say(console, *summary(section), *section.remarks)
        _show(console, score_table(section))
    for mixture in report.mixtures:
        _say(console, *mixture.said)
        for table in (standings_table(mixture), gates_table(mixture)):
            if table.rows:
                _show(console, table)
    _say(console, *(f"missing: {line}" for line in report.missing))


def _say(console: Console, *lines: str) -> None:
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)


def _show(console: Console, table: Table) -> None:
    shown = Rich(title=escape(table.caption), title_justify="left", title_style="dim")
    for at, header in enumerate(table.headers):
        shown.add_column(escape(header), justify="left" if at < table.words else "right")
    for row in table.rows:
        shown.add_row(*map(escape, row))
    console.print(shown)

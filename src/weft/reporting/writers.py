"""A document as a page, as Markdown, on a terminal, as JSON; and as files.

The page is one HTML file: style, tables and figures inside, no script, nothing from outside.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table as Rich
from rich.text import Text

from weft.atomic import make_folder, write_text
from weft.reporting.document import Document, Figure, Marked, Section, Table
from weft.reporting.templates import environment

PAGE, TEXT = "report.html", "report.md"
FIGURES = "figures"
"""The folder of the figures, beside the Markdown."""
TEMPLATE = "page.html.j2"
STYLES = {"right": "bold green", "wrong": "bold red", "missed": "yellow", "said": "bold cyan"}
"""Of marked text on a terminal, by verdict; the label says the same."""
WIDTH = 160
"""Columns where output is no terminal."""


def write(
    document: Document,
    folder: str | Path,
    *,
    page: str = PAGE,
    text: str = TEXT,
    values: str | None = None,
) -> list[Path]:
    """Write a document into a folder, with the figures that its Markdown shows; files of these names are replaced.

    Args:
        document: What is to be said.
        folder: Made where it does not exist.
        page: Name of the HTML file.
        text: Name of the Markdown.
        values: Name of the JSON; None leaves it out.

    Returns:
        The page, the Markdown and the JSON.

    Raises:
        ValueError: If jinja2 is not installed.
    """
    folder = Path(folder)
    texts = {page: to_html(document), text: to_markdown(document)}
    if values is not None:
        texts[values] = to_json(document)
    written = [folder / name for name in texts]
    texts |= {_file(figure): figure.file for figure in document.figures}
    for name, content in texts.items():
        make_folder((folder / name).parent)
        write_text(folder / name, content)
    return written


def to_json(document: Document) -> str:
    """The numbers behind a document, unrounded."""
    return json.dumps(document.values, indent=1) + "\n"


def to_html(document: Document) -> str:
    """The whole page.

    Raises:
        ValueError: If jinja2 is not installed.
    """
    templates = environment()
    templates.globals["together"] = together
    return templates.get_template(TEMPLATE).render(document=document)


def together(section: Section) -> list[tuple[str, list[Table | Figure]]]:
    """The parts of a section, those of one kind that follow on each other in one: `tables` or `figures`."""

    def kind(part: Table | Figure) -> str:
        return "tables" if isinstance(part, Table) else "figures"

    return [(name, list(parts)) for name, parts in groupby(section.parts, kind)]


def to_markdown(document: Document) -> str:
    """The whole text; its figures are files beside it."""
    parts = [f"# {escaped(document.title)}"]
    for section in document.sections:
        parts += [f"## {escaped(section.heading)}", *map(escaped, section.words)]
        parts += _list(section.notes)
        for part in section.parts:
            parts += _table(part) if isinstance(part, Table) else _figure(part)
    return "\n\n".join(parts) + "\n"


def _table(table: Table) -> list[str]:
    lines = table_lines(table.headers, table.rows, words=table.words)
    numbered = [f"{at}. {escaped(note)}" for at, note in enumerate(table.notes, 1)]
    notes = ["\n".join(numbered)] if numbered else []
    return [escaped(table.caption), "\n".join(lines), *notes, *_list(table.remarks)]


def table_lines(headers: Sequence[str], rows: Iterable[Sequence[str]], *, words: int) -> list[str]:
    """A table in Markdown; its first `words` columns stand on the left of their cells, the others on the right."""
    bars = ["---" if at < words else "---:" for at in range(len(headers))]
    cells = [map(_one_line, headers), bars, *(map(_one_line, row) for row in rows)]
    return [f"| {' | '.join(row)} |" for row in cells]


def _one_line(cell: str) -> str:
    """A cell of a table, which is a line of text."""
    return escaped("\n".join(cell.splitlines())).replace("\n", "<br>")


def _figure(figure: Figure) -> list[str]:
    return [f"![{escaped(figure.alt)}]({_file(figure)})", escaped(figure.caption)]


def _file(figure: Figure) -> str:
    return f"{FIGURES}/{figure.name}.svg"


def _list(lines: Sequence[str]) -> list[str]:
    return ["\n".join(f"- {escaped(line)}" for line in lines)] if lines else []


def escaped(text: str) -> str:
    """Text that Markdown takes as it is."""
    return "".join(f"\\{letter}" if letter in r"\`*_[]<>|#" else letter for letter in text)


def show(document: Document) -> None:
    """Print what a terminal has room for: no figures, and of tables and sections those that are brief."""
    screen = console()
    for section in document.sections:
        if not section.brief:
            continue
        say(screen, "", section.heading.upper(), *section.words)
        say(screen, *(f"- {line}" for line in section.notes))
        for table in section.tables:
            if table.brief:
                show_table(table)


def show_table(table: Table) -> None:
    """Print one table with what stands below it."""
    screen = console()
    screen.print(_rich(table, coloured=screen.is_terminal))
    say(screen, *_below(table))


def _rich(table: Table, *, coloured: bool) -> Rich:
    shown = Rich(title=escape(table.caption), title_justify="left", title_style="dim")
    for at, header in enumerate(table.headers):
        shown.add_column(escape(header), justify="left" if at < table.words else "right")
    for row in table.rows:
        shown.add_row(*(_coloured(cell) if coloured else escape(cell) for cell in row))
    return shown


def _coloured(cell: str) -> Text | str:
    """A cell whose marks have a colour, with their labels behind them."""
    if not isinstance(cell, Marked):
        return escape(cell)
    parts = [
        (part, "") if mark is None else (f"{part} ({mark.label})", STYLES[mark.verdict])
        for part, mark in cell.parts
    ]
    return Text.assemble(*parts)


def _below(table: Table) -> Iterator[str]:
    yield from (f"{at}. {note}" for at, note in enumerate(table.notes, 1))
    yield from (f"- {remark}" for remark in table.remarks)


def console(*, stderr: bool = False) -> Console:
    """Where tables are printed: as wide as they need where that is no terminal."""
    found = Console(highlight=False, stderr=stderr)
    return found if found.is_terminal else Console(highlight=False, stderr=stderr, width=WIDTH)


def say(out: Console, *lines: str) -> None:
    """Print lines as they are: no markup, broken only by the terminal."""
    for line in lines:
        out.print(line, markup=False, soft_wrap=True)

"""A reproduction as files: `report.html`, `report.md` with its figures, and `reproduction.json`."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from weft.atomic import write_text
from weft.reporting.writers import FIGURES, escaped, table_lines
from weft.reproduction.drawings import Drawn, drawings
from weft.reproduction.layout import Block, Section
from weft.reproduction.markdown import as_markdown
from weft.reproduction.page import page
from weft.reproduction.result import Reproduction
from weft.reproduction.sections import sections, title

PAGE, TEXT, VALUES = "report.html", "report.md", "reproduction.json"


def write(found: Reproduction) -> list[Path]:
    """Write page, Markdown, figures and JSON into the folder of the plan; files of these names are replaced.

    Returns:
        The page, the Markdown and the JSON.

    Raises:
        ValueError: If matplotlib or jinja2 is not installed.
    """
    folder = found.outcome.plan.out
    every, figures = sections(found), drawings(found)
    texts = {
        PAGE: page(title(found), every, figures),
        TEXT: text(found, every, figures),
        VALUES: json.dumps(found.as_json(), indent=1) + "\n",
    }
    for own in figures.values():
        texts |= {f"{FIGURES}/{figure.name}.svg": figure.file for figure in own}
    for name, content in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_text(folder / name, content)
    return [folder / name for name in (PAGE, TEXT, VALUES)]


def text(
    found: Reproduction, every: Sequence[Section], figures: Mapping[str, Sequence[Drawn]]
) -> str:
    """The report as Markdown."""
    parts = [f"# {escaped(title(found))}"]
    for section in every:
        parts.append(f"## {escaped(section.heading)}")
        if section.key == "tables":
            parts.append(as_markdown(found.outcome.plan.study, found.cells).rstrip())
            continue
        parts += [escaped(line) for line in section.said]
        parts += _list(section.notes)
        for figure in figures.get(section.key, ()):
            parts.append(f"![{escaped(figure.alt)}]({FIGURES}/{figure.name}.svg)")
            parts.append(escaped(figure.caption))
        parts += [part for block in section.blocks for part in _block(block)]
    return "\n\n".join(parts) + "\n"


def _block(block: Block) -> list[str]:
    table = block.table
    lines = table_lines(table.headers, table.rows, words=table.words)
    return [escaped(table.caption), "\n".join(lines), *_list(block.remarks)]


def _list(lines: Sequence[str]) -> list[str]:
    return ["\n".join(f"- {escaped(line)}" for line in lines)] if lines else []

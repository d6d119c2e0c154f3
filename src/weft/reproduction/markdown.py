"""The six tables as Markdown: the published number, ours in bold, and below each table what must be known."""

from collections.abc import Sequence

from weft.reproduction.cells import Cell
from weft.reproduction.published import Study
from weft.reproduction.tables import Shown, ShownTable, six_tables


def as_markdown(study: Study, cells: Sequence[Cell]) -> str:
    """All tables; `cells` are those of `weft.reproduction.cells.cells`, in their order."""
    authors = " and ".join(study.authors)
    head = [
        f"*{study.title}* ({authors}): as published and, in bold, as measured.",
        "± is the standard deviation over seeds.",
    ]
    parts = ["\n".join(head), *map(_table, six_tables(study, cells))]
    return "\n\n".join(parts) + "\n"


def _table(table: ShownTable) -> str:
    lines = [f"**Table {table.number}.** {table.caption}.", ""]
    lines += [_line(["", *table.headers]), _line(["---"] * (len(table.headers) + 1))]
    for row in table.rows:
        lines.append(_line([row.name + _marks(row.notes), *map(_said, row.cells)]))
    lines += ["", *(f"{at}. {note}." for at, note in enumerate(table.notes, 1))]
    lines += ["", *(f"- {remark}." for remark in table.remarks)]
    return "\n".join(lines).rstrip()


def _said(cell: Shown) -> str:
    ours = "-" if cell.measured is None else f"**{cell.measured}**"
    return f"{cell.published} / {ours}{_marks(cell.notes)}"


def _marks(notes: Sequence[int]) -> str:
    marks = ",".join(map(str, notes))
    return f" <sup>{marks}</sup>" if marks else ""


def _line(parts: Sequence[str]) -> str:
    return "| " + " | ".join(parts) + " |"

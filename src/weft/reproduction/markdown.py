"""The six tables as Markdown: the published number, ours in bold, and below each table what must be known."""

from collections.abc import Iterator, Sequence

from weft.reproduction.cells import Cell
from weft.reproduction.checks import uneven_times
from weft.reproduction.published import Row, Study, Table

NAMES = {
    "learning_rate": "learning rate",
    "batch_size": "batch size",
    "seconds": "time",
    "seconds_per_epoch": "time per epoch",
    "trainable_parameters": "trained parameters",
    "parameters": "all parameters",
    "exact_match": "EM",
    "f1": "F1",
}


def as_markdown(study: Study, cells: Sequence[Cell]) -> str:
    """All tables; `cells` are those of `weft.reproduction.cells.cells`, in their order."""
    authors = " and ".join(study.authors)
    head = [
        f"*{study.title}* ({authors}): as published and, in bold, as measured.",
        "± is the standard deviation over seeds.",
    ]
    rest = iter(cells)
    parts = ["\n".join(head), *(_table(study, table, rest) for table in study.tables)]
    return "\n\n".join(parts) + "\n"


def _table(study: Study, table: Table, cells: Iterator[Cell]) -> str:
    notes: list[str] = []
    lines = [f"**Table {table.number}.** {table.caption}.", ""]
    heads = [_head(study, table, at) for at in range(len(table.columns))]
    lines += [_line(["", *heads]), _line(["---"] * (len(heads) + 1))]
    for row in table.rows:
        own = [next(cells) for _ in table.columns]
        shared = [remark for remark in own[0].remarks if all(remark in c.remarks for c in own)]
        name = _name(study, row) + _marks(shared, notes)
        said = [_said(c) + _marks([r for r in c.remarks if r not in shared], notes) for c in own]
        lines.append(_line([name, *said]))
    lines += ["", *(f"{at}. {note.rstrip('.')}." for at, note in enumerate(notes, 1))]
    lines += ["", *(f"- {note.rstrip('.')}." for note in (*table.notes, *_extra(study, table)))]
    return "\n".join(lines).rstrip()


def _extra(study: Study, table: Table) -> list[str]:
    """What goes below a table beside its own notes: people's scores, and figures that do not add up."""
    found = []
    for task, scores in study.human.scores.items():
        said = [
            f"{NAMES.get(column.metric, column.metric)} {scores[column.metric]} %"
            for column in table.columns
            if column.task == task and column.metric in scores
        ]
        if said:
            found.append(f"People on {study.tasks[task]} ({study.human.source}): {', '.join(said)}")
    for at, said in uneven_times(study).items():
        if at.table == table.number:
            found.append(f"{_of(study, at.base, at.method)}: {said}")
    return found


def _head(study: Study, table: Table, at: int) -> str:
    column = table.columns[at]
    task = study.tasks[column.task] if column.task else ""
    unit = f"({column.unit})" if column.unit else ""
    name = NAMES.get(column.metric, column.metric)
    return " ".join(part for part in (task, name, unit) if part)


def _name(study: Study, row: Row) -> str:
    if row.base is None:
        return study.tasks[str(row.task)]
    machine = f", {row.machine}" if row.machine else ""
    return f"{_of(study, row.base, row.method)}{machine}"


def _of(study: Study, base: str | None, method: str | None) -> str:
    return f"{study.bases[str(base)]} ({study.methods[str(method)]})"


def _said(cell: Cell) -> str:
    return f"{cell.figure.printed} / " + ("-" if cell.measured is None else f"**{shown(cell)}**")


def _marks(remarks: Sequence[str], notes: list[str]) -> str:
    """References to notes; those that are new are added."""
    notes += [remark for remark in remarks if remark not in notes]
    marks = ",".join(str(notes.index(remark) + 1) for remark in remarks)
    return f" <sup>{marks}</sup>" if marks else ""


def shown(cell: Cell) -> str:
    """Our number with about as many digits as the published one has."""
    assert cell.measured is not None
    if float(cell.figure.value) == cell.measured:
        return cell.figure.printed
    if cell.figure.unit == "M":
        return f"{cell.measured:.3g}"
    if not cell.figure.unit:
        return f"{cell.measured:g}"
    _, _, decimals = cell.figure.printed.partition(".")
    digits = min(2, max(1, len(decimals)))
    spread = f" ± {cell.deviation:.{digits}f}" if cell.seeds > 1 else ""
    return f"{cell.measured:.{digits}f}{spread}"


def _line(parts: Sequence[str]) -> str:
    return "| " + " | ".join(parts) + " |"

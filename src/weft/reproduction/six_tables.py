"""The study's six tables, published beside measured."""

from collections.abc import Iterator, Sequence

from weft.reporting.document import Section, Table, raised
from weft.reporting.numbers import NONE
from weft.reproduction.cells import Cell
from weft.reproduction.published import Row, Study, uneven_times
from weft.reproduction.published import Table as Published

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
"""What a metric is called in tables."""


def tables_section(study: Study, cells: Sequence[Cell]) -> Section:
    """All of them.

    Args:
        study: What was published.
        cells: Those of `weft.reproduction.cells.cells`, in their order.
    """
    said = (
        f"{study.title} ({' and '.join(study.authors)}): every cell as published / as measured. "
        "± is the standard deviation over seeds; raised numbers are those of the notes below a table."
    )
    rest = iter(cells)
    tables = tuple(_table(study, table, rest) for table in study.tables)
    return Section("tables", "The six tables", (said,), parts=tables)


def _table(study: Study, published: Published, cells: Iterator[Cell]) -> Table:
    notes: list[str] = []
    rows = []
    for row in published.rows:
        own = [next(cells) for _ in published.columns]
        shared = [remark for remark in own[0].remarks if all(remark in c.remarks for c in own)]
        name = _name(study, row) + raised(_numbers(shared, notes))
        rows.append((name, *(_cell(cell, shared, notes) for cell in own)))
    heads = (_head(study, published, at) for at in range(len(published.columns)))
    return Table(
        f"Table {published.number}. {published.caption}. Published / measured.",
        ("set" if published.number == 1 else "base (method)", *heads),
        tuple(rows),
        notes=tuple(f"{note.rstrip('.')}." for note in notes),
        remarks=tuple(
            f"{note.rstrip('.')}." for note in (*published.notes, *_extra(study, published))
        ),
    )


def _cell(cell: Cell, shared: Sequence[str], notes: list[str]) -> str:
    """Published and measured, and the numbers of notes that the row's name has not."""
    ours = NONE if cell.measured is None else shown(cell)
    marks = _numbers([remark for remark in cell.remarks if remark not in shared], notes)
    return f"{cell.figure.printed} / {ours}{raised(marks)}"


def _extra(study: Study, table: Published) -> list[str]:
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


def _head(study: Study, table: Published, at: int) -> str:
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


def _numbers(remarks: Sequence[str], notes: list[str]) -> tuple[int, ...]:
    """Numbers of notes; those that are new are added."""
    notes += [remark for remark in remarks if remark not in notes]
    return tuple(notes.index(remark) + 1 for remark in remarks)


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

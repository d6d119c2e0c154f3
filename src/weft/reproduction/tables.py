"""The six tables, published beside measured, as cells of text; Markdown, page and terminal show the same ones."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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
"""What a metric is called in tables."""


@dataclass(frozen=True)
class Shown:
    """A cell's text and the numbers of its notes."""

    published: str
    measured: str | None
    notes: tuple[int, ...]


@dataclass(frozen=True)
class ShownRow:
    """One line; its name's notes hold for all its cells."""

    name: str
    notes: tuple[int, ...]
    cells: tuple[Shown, ...]


@dataclass(frozen=True)
class ShownTable:
    """One of the six tables."""

    number: int
    caption: str
    headers: tuple[str, ...]
    """Of the columns behind the name."""
    rows: tuple[ShownRow, ...]
    notes: tuple[str, ...]
    """In the order of their numbers, from 1."""
    remarks: tuple[str, ...]
    """What must be known of the whole table."""


def six_tables(study: Study, cells: Sequence[Cell]) -> list[ShownTable]:
    """All tables; `cells` are those of `weft.reproduction.cells.cells`, in their order."""
    rest = iter(cells)
    return [_table(study, table, rest) for table in study.tables]


def _table(study: Study, table: Table, cells: Iterator[Cell]) -> ShownTable:
    notes: list[str] = []
    rows = []
    for row in table.rows:
        own = [next(cells) for _ in table.columns]
        shared = [remark for remark in own[0].remarks if all(remark in c.remarks for c in own)]
        marks = _numbers(shared, notes)
        said = [
            Shown(
                cell.figure.printed,
                None if cell.measured is None else shown(cell),
                _numbers([remark for remark in cell.remarks if remark not in shared], notes),
            )
            for cell in own
        ]
        rows.append(ShownRow(_name(study, row), marks, tuple(said)))
    return ShownTable(
        table.number,
        table.caption,
        tuple(_head(study, table, at) for at in range(len(table.columns))),
        tuple(rows),
        tuple(note.rstrip(".") for note in notes),
        tuple(note.rstrip(".") for note in (*table.notes, *_extra(study, table))),
    )


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

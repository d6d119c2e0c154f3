"""Class by class: the tables that say what a mean over classes hides."""

from weft.answering.evaluation import read_details
from weft.reporting.document import Table
from weft.reporting.groups import Group
from weft.reporting.numbers import number
from weft.tasks.details import Confusion, Details

MOST_CLASSES = 30
"""Classes of a confusion matrix that is still a table to read; a larger one is in `details.json`."""


def class_tables(group: Group) -> tuple[Table, ...]:
    """Scores by class of the best entry's first run, and what it took for what; none where there are no classes."""
    if not group.scored:
        return ()
    entry = group.scored[0]
    run = entry.runs[0]
    details = read_details(run.folder, group.split or "validation")
    if details is None:
        return ()
    which = f"{group.heading}, {entry.name}, seed {run.seed}"
    tables = [by_class(details, which)]
    if details.confusion is not None and len(details.confusion.labels) <= MOST_CLASSES:
        tables.append(_matrix(details.confusion, which))
    return tuple(tables)


def by_class(details: Details, which: str) -> Table:
    """Precision, recall and F1 of each class, and the counts they come from."""
    rows = tuple(
        (
            own.label,
            *(number("f1", value) for value in (own.precision, own.recall, own.f1)),
            f"{own.support:,}",
            f"{own.predicted:,}",
            f"{own.correct:,}",
        )
        for own in details.classes
    )
    headers = (details.unit, "precision (%)", "recall (%)", "f1 (%)", "there", "said", "right")
    return Table(f"{which}: scores by {details.unit}.", headers, rows, brief=False)


def _matrix(found: Confusion, which: str) -> Table:
    rows = tuple(
        (label, *(f"{count:,}" for count in counts))
        for label, counts in zip(found.labels, found.counts, strict=True)
    )
    caption = f"{which}: what was taken for what. A row is the right class, a column what was said."
    return Table(
        caption,
        ("right / said", *found.labels),
        rows,
        folded="Which class was taken for which",
        brief=False,
    )

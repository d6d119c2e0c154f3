"""What a report says class by class is what the predictions of the run say."""

from collections import Counter

from weft.answering.evaluation import read_predictions
from weft.comparison.comparing import examples_of
from weft.reporting.document import Document
from weft.reporting.run_report import Report


def test_each_class_has_its_scores_and_what_it_was_taken_for(
    report: Report, said: Document
) -> None:
    group = next(own for own in report.groups if own.task == "topic" and own.split == "validation")
    folder = group.scored[0].runs[0].folder
    found = read_predictions(folder.path)
    pairs = Counter(
        (example["label"], found[example["id"]]["label"])
        for example in examples_of(folder).splits["validation"]
    )
    section = next(own for own in said.sections if own.key == group.key)
    by_class = next(table for table in section.tables if table.headers[0] == "class")
    matrix = next(table for table in section.tables if table.headers[0] == "right / said")
    labels = [row[0] for row in by_class.rows]
    assert matrix.headers[1:] == tuple(labels)
    assert [list(map(int, row[1:])) for row in matrix.rows] == [
        [pairs[right, own] for own in labels] for right in labels
    ]
    for label, _, _, f1, there, own, right in by_class.rows:
        counts = (
            sum(pairs[label, other] for other in labels),
            sum(pairs[other, label] for other in labels),
            pairs[label, label],
        )
        assert (int(there), int(own), int(right)) == counts
        assert f1 == f"{200 * counts[2] / max(1, counts[0] + counts[1]):.1f}"


def test_spans_have_no_classes_and_tags_have_types(said: Document) -> None:
    units = {table.headers[0] for section in said.sections for table in section.tables}
    assert "entity type" in units

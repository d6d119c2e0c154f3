"""Scores class by class are scikit-learn's and seqeval's, and survive JSON."""

import json

import numpy as np
import pytest
from seqeval.metrics import classification_report
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from weft.tasks.contract import Prediction, Task, TaskSpec
from weft.tasks.details import ClassScores, Confusion, Details
from weft.tasks.kinds import kinds


def task_of(kind: str, labels: list[str] | None, **spec: object) -> Task:
    full = TaskSpec.model_validate({"name": "tried", "kind": kind, "labels": labels, **spec})
    return kinds.load(kind)(full, labels or [])


def rows(values: list[object], column: str) -> list[Prediction]:
    return [{"id": str(at), column: value} for at, value in enumerate(values)]


def numbers(details: Details) -> np.ndarray:
    return np.array([[c.precision, c.recall, c.f1, c.support] for c in details.classes])


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(4)


def test_classes_and_confusion_are_scikit_learn_s(generator: np.random.Generator) -> None:
    labels = ["c", "a", "b", "never said", "never there", "neither"]
    gold = generator.choice(["a", "b", "c", "never said"], size=200).tolist()
    said = generator.choice(["a", "b", "c", "never there"], size=200).tolist()
    task = task_of("sequence_classification", labels)
    found = task.details(rows(said, "label"), rows(gold, "label"))
    assert found is not None
    oracle = precision_recall_fscore_support(gold, said, labels=labels, zero_division=0)
    np.testing.assert_allclose(numbers(found), np.array(oracle).T)
    assert [own.label for own in found.classes] == labels
    matrix = confusion_matrix(gold, said, labels=labels)
    assert found.confusion == Confusion(tuple(labels), tuple(map(tuple, matrix.tolist())))
    np.testing.assert_array_equal([own.predicted for own in found.classes], matrix.sum(0))
    np.testing.assert_array_equal([own.correct for own in found.classes], matrix.diagonal())


def test_rows_of_several_classes_have_a_table_and_no_matrix(
    generator: np.random.Generator,
) -> None:
    labels = ["a", "b", "c"]
    gold, said = generator.random((2, 80, 3)) < 0.4
    task = task_of("sequence_classification", labels, options={"mode": "multi_label"})
    names = [
        [[n for n, yes in zip(labels, row, strict=True) if yes] for row in side]
        for side in (gold, said)
    ]
    found = task.details(rows(names[1], "label"), rows(names[0], "label"))
    assert found is not None
    oracle = precision_recall_fscore_support(gold, said, zero_division=0)
    np.testing.assert_allclose(numbers(found), np.array(oracle).T)
    assert found.confusion is None


def test_entity_types_are_seqeval_s_and_tags_have_a_matrix(generator: np.random.Generator) -> None:
    labels = ["O", "B-x", "I-x", "B-y", "I-y", "B-z"]
    gold = [generator.choice(labels[:5], size=9).tolist() for _ in range(40)]
    said = [[t if generator.random() < 0.7 else "B-z" for t in tags] for tags in gold]
    found = task_of("token_classification", labels).details(rows(said, "tags"), rows(gold, "tags"))
    assert found is not None
    oracle = classification_report(gold, said, output_dict=True, zero_division=0)
    expected = [
        [oracle[kind][name] for name in ("precision", "recall", "f1-score", "support")]
        for kind in ("x", "y", "z")
    ]
    np.testing.assert_allclose(numbers(found), expected)
    assert ([own.label for own in found.classes], found.unit) == (["x", "y", "z"], "entity type")
    flat = ([tag for row in side for tag in row] for side in (gold, said))
    matrix = confusion_matrix(*flat, labels=labels)
    assert found.confusion == Confusion(tuple(labels), tuple(map(tuple, matrix.tolist())))


@pytest.mark.parametrize("matrix", [None, Confusion(("a", "b"), ((1, 2), (0, 3)))])
def test_details_survive_json(matrix: Confusion | None) -> None:
    own = Details("class", (ClassScores("a", 1.0, 1 / 3, 0.5, 3, 1, 1),), matrix)
    assert Details.from_json(json.loads(json.dumps(own.as_json()))) == own


def test_kinds_without_classes_have_none() -> None:
    assert (
        task_of("sequence_classification", None, options={"mode": "regression"}).details([], [])
        is None
    )
    assert task_of("span_extraction", None).details([], []) is None

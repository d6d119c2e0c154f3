"""Class weights: balanced ones are scikit-learn's, wrong ones are refused by name."""

import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from weft.config import TaskSettings, validate
from weft.tasks.contract import Task, TaskSpec
from weft.tasks.kinds import kinds
from weft.tasks.weights import check_class_weights, class_weights

LABELS = ["a", "b", "c"]


def task_of(kind: str = "sequence_classification", **spec: object) -> Task:
    full = TaskSpec.model_validate({"name": "tried", "kind": kind, **spec})
    labels = ["O", "B-x", "I-x"] if kind == "token_classification" else LABELS
    return kinds.load(kind)(full, labels)


@pytest.fixture
def labels() -> np.ndarray:
    return np.random.default_rng(0).choice(3, size=50, p=[0.1, 0.2, 0.7])


def test_balanced_weights_of_rows_are_scikit_learn_s(labels: np.ndarray) -> None:
    records = [{"labels": int(label)} for label in labels]
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    np.testing.assert_allclose(class_weights(task_of(), "balanced", records), expected)


def test_rows_count_by_their_own_weight(labels: np.ndarray) -> None:
    own = np.random.default_rng(1).integers(3, size=50)
    records = [{"labels": int(c), "weight": float(w)} for c, w in zip(labels, own, strict=True)]
    again = [{"labels": int(c)} for c in np.repeat(labels, own)]
    task = task_of()
    found = class_weights(task, "balanced", records)
    np.testing.assert_allclose(found, class_weights(task, "balanced", again))


def test_balanced_weights_of_tags_count_each_labelled_word_once(labels: np.ndarray) -> None:
    windows = [[-100, *map(int, part), -100] for part in np.split(labels, 5)]
    records = [{"labels": windows[:2]}, {"labels": windows[2:]}]
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    found = class_weights(task_of("token_classification"), "balanced", records)
    np.testing.assert_allclose(found, expected)


def test_balanced_weights_of_several_classes_are_rows_without_by_rows_with() -> None:
    rows = [[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]
    task = task_of(options={"mode": "multi_label"})
    assert class_weights(task, "balanced", [{"labels": row} for row in rows]) == (1 / 3, 3.0, 1.0)
    weighted = [{"labels": row, "weight": 2.0 * at} for at, row in enumerate(rows)]
    assert class_weights(task, "balanced", weighted) == (4 / 8, 10 / 2, 1.0)


def test_a_class_that_does_not_occur_counts_one_and_is_no_class_to_balance() -> None:
    records = [{"labels": label} for label in (0, 0, 0, 2)]
    assert class_weights(task_of(), "balanced", records) == (4 / 6, 1.0, 2.0)


def test_weights_by_name_stand_in_class_order_and_are_one_where_not_named() -> None:
    assert class_weights(task_of(), {"c": 0.5, "a": 2}, []) == (2.0, 1.0, 0.5)


@pytest.mark.parametrize(
    ("task", "wanted", "said"),
    [
        (task_of("multiple_choice"), "balanced", "multiple_choice has no classes here"),
        (task_of("span_extraction"), "balanced", "span_extraction has no classes here"),
        (task_of("causal_lm"), {"a": 1.0}, "causal_lm has no classes here"),
        (task_of("masked_lm"), {"a": 1.0}, "masked_lm has no classes here"),
        (task_of(), {"aa": 1.0}, "no class named 'aa'"),
        (task_of(), dict.fromkeys(LABELS, 0.0), "all classes count 0"),
    ],
)
def test_what_cannot_be_weighed_is_refused(task: Task, wanted: object, said: str) -> None:
    with pytest.raises(ValueError, match=f"task tried: class_weights: .*{said}"):
        check_class_weights(task, wanted)  # type: ignore[arg-type]


def test_a_regression_has_no_classes_to_weigh() -> None:
    spec = TaskSpec(name="tried", kind="sequence_classification", options={"mode": "regression"})
    with pytest.raises(ValueError, match="has no classes here"):
        check_class_weights(kinds.load("sequence_classification")(spec), "balanced")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"a": -1.0}, "greater than or equal to 0"),
        ({"a": float("nan")}, "finite"),
        ({False: 1.0}, "False is no class name; write names like no, yes, on in quotes"),
        ("balance", "'balanced'"),
    ],
)
def test_wrong_weights_are_refused_as_settings(value: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        validate(TaskSettings, {"name": "swag", "class_weights": value}, "run")


def test_class_names_that_look_like_numbers_are_names() -> None:
    found = validate(TaskSettings, {"name": "x", "class_weights": {0: 1, 1: 5}}, "run")
    assert found.class_weights == {"0": 1.0, "1": 5.0}

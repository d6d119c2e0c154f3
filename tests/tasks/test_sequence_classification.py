"""Sequence classification: one class, several, or a number."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score
from transformers import PreTrainedTokenizerFast

from weft.tasks.contract import Task, TaskSpec
from weft.tasks.kinds import kinds

KIND = "sequence_classification"
CLASSES = ["bad", "good", "mixed", "none"]
Make = Callable[..., Task]


def plain(labels: list[str] | None = CLASSES, **options: object) -> Task:
    spec = TaskSpec(name="tried", kind=KIND, labels=labels, options=options)
    kind = kinds.load(KIND)
    return kind(spec, kind.collect_labels(spec, []))


def collected(values: list[object], **options: object) -> list[str]:
    spec = TaskSpec(name="tried", kind=KIND, options=options)
    return kinds.load(KIND).collect_labels(spec, [{"label": value} for value in values])


def test_classes_are_collected_in_order() -> None:
    assert collected(["b", "a ", "b", None]) == ["a", "b"]
    assert collected(["10", "9", 2]) == ["2", "9", "10"]
    assert collected(["b;a", "", ["c"]], mode="multi_label", separator=";") == ["a", "b", "c"]
    assert collected([1.5, 2.5], mode="regression") == []


@pytest.mark.parametrize(
    ("labels", "options"),
    [
        (["a"], {}),
        (["a", "a"], {}),
        ([], {"mode": "multi_label"}),
        (["a", "b"], {"mode": "regression"}),
    ],
)
def test_classes_that_make_no_sense_are_refused(labels: list[str], options: dict) -> None:
    with pytest.raises(
        ValueError, match=r"task tried: (expected different|regression has no) classes"
    ):
        plain(labels, **options)


def test_the_mode_decides_the_score_and_the_outputs() -> None:
    tasks = [plain(), plain(mode="multi_label"), plain(None, mode="regression")]
    assert [(task.metric, task.num_labels) for task in tasks] == [
        ("accuracy", 4),
        ("f1_micro", 4),
        ("pearson", 1),
    ]


@pytest.mark.parametrize(
    ("task", "value", "label", "target"),
    [
        (plain(), "good", "good", 1),
        (plain(), " mixed ", "mixed", 2),
        (plain(), "3", "none", 3),
        (plain(), 0, "bad", 0),
        (plain(["0", "2", "1"]), "2", "2", 1),
        (plain(mode="multi_label"), ["none", "bad"], ["bad", "none"], [1.0, 0.0, 0.0, 1.0]),
        (plain(mode="multi_label"), "good, bad", ["bad", "good"], [1.0, 1.0, 0.0, 0.0]),
        (plain(mode="multi_label"), "", [], [0.0] * 4),
        (plain(None, mode="regression"), "-2.5e1", -25.0, -25.0),
    ],
)
def test_labels_are_normalised(
    task: Task, value: object, label: object, target: object, tokenizer: PreTrainedTokenizerFast
) -> None:
    example = task.check({"id": 1, "text": "a film", "label": value}, "rows:1")
    assert example == {"id": "1", "text": "a film", "label": label}
    expected = tokenizer("a film")
    assert task.encode(example, tokenizer) == {
        "id": "1",
        "input_ids": [expected["input_ids"]],
        "token_type_ids": [expected["token_type_ids"]],
        "labels": target,
    }


@pytest.mark.parametrize(
    ("task", "value", "message"),
    [
        (plain(), "god", "no class named 'god'. Did you mean 'good'"),
        (plain(), "", "no class named ''"),
        (plain(), "4", "no class named '4'"),
        (plain(mode="multi_label"), "good,goood", "no class named 'goood'"),
        (plain(None, mode="regression"), "high", "must be a finite number, got 'high'"),
        (plain(None, mode="regression"), "nan", "must be a finite number, got 'nan'"),
    ],
)
def test_wrong_labels_are_refused(task: Task, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=rf"^rows\.csv:2: column 'label'.*{message}"):
        task.check({"id": "1", "text": "a film", "label": value}, "rows.csv:2")


def test_numbers_are_no_classes_where_the_classes_were_collected() -> None:
    spec = TaskSpec(name="tried", kind=KIND)
    task = kinds.load(KIND)(spec, CLASSES)
    with pytest.raises(ValueError, match="no class named '1'"):
        task.check({"id": "1", "text": "a film", "label": "1"}, "rows.csv:2")


def test_a_pair_is_two_segments(make_task: Make, tokenizer: PreTrainedTokenizerFast) -> None:
    task = make_task(KIND, CLASSES)
    row = {"id": "1", "text": "a film", "text_pair": "a long book"}
    expected = tokenizer("a film", "a long book")
    record = task.encode(task.check(row, "rows:1"), tokenizer)
    assert record["input_ids"] == [expected["input_ids"]]
    assert record["token_type_ids"] == [expected["token_type_ids"]]
    with pytest.raises(ValueError, match=r"^rows:1: 'text_pair' is empty"):
        task.check({**row, "text_pair": " "}, "rows:1")


def test_a_long_row_is_refused_or_cut(make_task: Make, tokenizer: PreTrainedTokenizerFast) -> None:
    row = {"id": "1", "text": "the river " * 10}
    strict = make_task(KIND, CLASSES, max_length=8)
    with pytest.raises(
        ValueError, match=r"row '1': 22 tokens, .* 8; raise max_length, or set trunc"
    ):
        strict.encode(strict.check(row, "rows:1"), tokenizer)
    task = make_task(KIND, CLASSES, max_length=8, truncate=True)
    record = task.encode(task.check(row, "rows:1"), tokenizer)
    assert record["input_ids"] == [
        tokenizer(row["text"], truncation=True, max_length=8)["input_ids"]
    ]


def test_a_text_without_tokens_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    task = plain()
    with pytest.raises(ValueError, match="row '1': 'text' has no tokens"):
        task.encode(task.check({"id": "1", "text": "\u200b"}, "rows:1"), tokenizer)


def test_predictions_say_probabilities() -> None:
    example, logits = {"id": "1", "text": "x"}, np.log(np.array([1, 6, 2, 1], dtype=np.float32))
    single = plain().decode(example, {}, logits)
    assert single["label"] == "good"
    assert list(single["probabilities"]) == CLASSES
    np.testing.assert_allclose(
        list(single["probabilities"].values()), [0.1, 0.6, 0.2, 0.1], rtol=1e-6
    )
    several = plain(mode="multi_label", threshold=0.6).decode(example, {}, logits)
    assert several["label"] == ["good", "mixed"]
    np.testing.assert_allclose(
        list(several["probabilities"].values()), [1 / 2, 6 / 7, 2 / 3, 1 / 2], rtol=1e-6
    )
    number = plain(None, mode="regression").decode(example, {}, np.array([2.5], dtype=np.float32))
    assert number == {"id": "1", "label": 2.5}


def scores(task: Task, said: list, right: list) -> dict[str, np.ndarray]:
    rows = [
        task.statistics({"label": a}, {"id": "x", "label": b})
        for a, b in zip(said, right, strict=True)
    ]
    return task.metrics(np.sum(rows, axis=0))


names = st.sampled_from(CLASSES)


@given(st.lists(st.tuples(names, names), min_size=1, max_size=20))
def test_scores_of_one_class_are_those_of_scikit_learn(rows: list[tuple[str, str]]) -> None:
    said, right = map(list, zip(*rows, strict=True))
    found = scores(plain(), said, right)
    assert found["accuracy"] == pytest.approx(accuracy_score(right, said))
    assert found["f1_macro"] == pytest.approx(
        f1_score(right, said, average="macro", zero_division=0)
    )


sets = st.lists(names, unique=True)


@given(st.lists(st.tuples(sets, sets), min_size=1, max_size=20))
def test_scores_of_several_classes_are_those_of_scikit_learn(
    rows: list[tuple[list[str], list[str]]],
) -> None:
    said, right = (
        [[name in row for name in CLASSES] for row in side] for side in zip(*rows, strict=True)
    )
    occurring = np.flatnonzero(np.any(said, axis=0) | np.any(right, axis=0))
    assume(len(occurring) > 1)
    found = scores(plain(mode="multi_label"), [a for a, _ in rows], [b for _, b in rows])
    assert found["accuracy"] == pytest.approx(accuracy_score(right, said))
    for average in ("micro", "macro"):
        expected = f1_score(right, said, labels=occurring, average=average, zero_division=0)
        assert found[f"f1_{average}"] == pytest.approx(expected)


@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), min_size=3, max_size=20))
def test_scores_of_numbers_are_those_of_numpy(rows: list[tuple[int, int]]) -> None:
    said, right = (list(map(float, side)) for side in zip(*rows, strict=True))
    assume(np.std(said) > 0 and np.std(right) > 0)
    found = scores(plain(None, mode="regression"), said, right)
    assert found["pearson"] == pytest.approx(np.corrcoef(said, right)[0, 1], abs=1e-9)
    assert found["mse"] == pytest.approx(np.mean(np.subtract(said, right) ** 2))
    assert found["mae"] == pytest.approx(np.mean(np.abs(np.subtract(said, right))))


def test_the_correlation_with_a_constant_is_not_a_number() -> None:
    assert np.isnan(scores(plain(None, mode="regression"), [1.0, 1.0], [1.0, 2.0])["pearson"])


@pytest.mark.parametrize(
    ("label", "said"),
    [
        (["good", "bad"], r"has 2 classes, \['good', 'bad'\]; .*mode: multi_label"),
        ([], r"has 0 classes, \[\]; .*mode: multi_label"),
        ({"choices": ["bad"]}, r"must hold a class name, got \{'choices': \['bad'\]\}"),
        (float("nan"), "must hold a class name, got nan"),
        ([["good"]], r"must hold a class name, got \['good'\]"),
        (b"good", "must hold a class name, got b'good'"),
    ],
    ids=repr,
)
def test_what_is_no_class_name_is_refused_before_classes_are_collected(
    label: object, said: str
) -> None:
    spec = TaskSpec(name="tried", kind=KIND)
    with pytest.raises(ValueError, match=rf"^f\.jsonl:3: column 'label' {said}"):
        kinds.load(KIND).read(spec, {"text": "a", "label": label}, "f.jsonl:3")


def test_multi_label_takes_names_in_lists_and_nothing_else() -> None:
    spec = TaskSpec(name="tried", kind=KIND, options={"mode": "multi_label"})
    kind = kinds.load(KIND)
    rows = [{"label": ["a", 1]}, {"label": "b, c"}, {"label": []}, {"label": 2.0}]
    assert kind.collect_labels(spec, rows) == ["1", "2", "a", "b", "c"]
    for label in ({"a": 1}, [None], [["a"]], float("inf")):
        with pytest.raises(ValueError, match=r"^r: column 'label' must hold a class name"):
            kind.read(spec, {"label": label}, "r")


def test_a_list_of_one_class_and_whole_numbers_of_any_type_are_names() -> None:
    spec = TaskSpec(name="tried", kind=KIND)
    rows = [{"label": ["good"]}, {"label": 1}, {"label": 1.0}, {"label": "1"}, {"label": 0.5}]
    assert kinds.load(KIND).collect_labels(spec, rows) == ["0.5", "1", "good"]


def _checked(labels: list[str], value: object) -> object:
    spec = TaskSpec.model_validate({"name": "tried", "kind": KIND, "labels": labels})
    task = kinds.load(KIND)(spec, labels)
    return task.check({"id": "1", "text": "a", "label": value}, "r")["label"]


def test_classes_that_look_like_numbers_are_never_taken_by_position() -> None:
    # 0, 1, 2 beside classes 1, 2, 3 would be read half as names and half as positions.
    assert [_checked(["1", "2", "3"], value) for value in (1, "2", 3.0)] == ["1", "2", "3"]
    with pytest.raises(
        ValueError, match=r"no class named '0'.*look like numbers are taken by name"
    ):
        _checked(["1", "2", "3"], 0)
    assert [_checked(["no", "yes"], value) for value in (1, "0")] == ["yes", "no"]
    with pytest.raises(ValueError, match="no class named '2'"):
        _checked(["no", "yes"], 2)


def test_truth_values_are_found_in_whatever_case_the_classes_are() -> None:
    assert [_checked(["false", "true"], value) for value in (True, False)] == ["true", "false"]


def test_labels_that_yaml_reads_as_numbers_are_names_and_as_truth_values_are_refused() -> None:
    spec = TaskSpec.model_validate({"name": "x", "kind": KIND, "labels": [1, 2]})
    assert spec.labels == ["1", "2"]
    with pytest.raises(ValueError, match="put the name in quotation marks"):
        TaskSpec.model_validate({"name": "x", "kind": KIND, "labels": [True, False]})

"""Multiple choice."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from weft.tasks.contract import Task

ROW = {
    "id": "7",
    "context": "A dog runs across a field.",
    "prefix": "The dog",
    "choices": ["barks.", "flies.", "is a field.", "reads."],
    "label": "2",
}


@pytest.fixture
def task(make_task: Callable[..., Task]) -> Task:
    return make_task("multiple_choice", max_length=40)


def test_each_choice_is_a_pair_with_the_context(
    task: Task, tokenizer: PreTrainedTokenizerFast
) -> None:
    record = task.encode(task.check(ROW, "rows:1"), tokenizer)
    seconds = [f"The dog {choice}" for choice in ROW["choices"]]
    expected = tokenizer([ROW["context"]] * 4, seconds)
    assert record == {
        "id": "7",
        "input_ids": expected["input_ids"],
        "token_type_ids": expected["token_type_ids"],
        "labels": 2,
    }


def test_without_a_prefix_the_choice_stands_alone(
    task: Task, tokenizer_of: Callable[[str], PreTrainedTokenizerFast]
) -> None:
    byte_level = tokenizer_of("roberta")
    row = {key: value for key, value in ROW.items() if key != "prefix"}
    longer = type(task)(task.spec.model_copy(update={"max_length": 100}))
    record = longer.encode(longer.check(row, "rows:1"), byte_level)
    expected = byte_level([ROW["context"]] * 4, ROW["choices"])
    assert record["input_ids"] == expected["input_ids"]


def test_the_highest_logit_is_the_answer(task: Task, tokenizer: PreTrainedTokenizerFast) -> None:
    example = task.check(ROW, "rows:1")
    logits = np.log(np.array([1, 5, 3, 1], dtype=np.float32))
    prediction = task.decode(example, task.encode(example, tokenizer), logits)
    probabilities = prediction.pop("probabilities")
    assert prediction == {"id": "7", "label": 1, "choice": "flies."}
    np.testing.assert_allclose(probabilities, [0.1, 0.5, 0.3, 0.1], rtol=1e-6)


def test_accuracy_counts_rows(task: Task) -> None:
    example = task.check(ROW, "rows:1")
    rows = [task.statistics({"label": label}, example) for label in (2, 1, 2, 0)]
    assert task.metrics(np.sum(rows, axis=0)) == {"accuracy": 0.5}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"choices": ["a", "b", "c"]}, "3 choices where every row must have 4"),
        ({"choices": ["a", "b", " ", "d"]}, "choice 2 is empty"),
        ({"choices": "a,b,c,d"}, "'choices' must be a list"),
        ({"label": 4}, "'label' must be the number of a choice, 0 to 3, got 4"),
        ({"label": "-1"}, "0 to 3, got '-1'"),
        ({"label": "b"}, "0 to 3, got 'b'"),
        ({"context": ""}, "'context' is empty"),
        ({"prefix": 3}, "'prefix' must be text"),
    ],
)
def test_wrong_rows_are_refused(task: Task, change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=rf"^val\.csv:3: .*{message}"):
        task.check({**ROW, **change}, "val.csv:3")


def test_a_long_row_is_refused_or_cut(
    make_task: Callable[..., Task], tokenizer: PreTrainedTokenizerFast
) -> None:
    row = {**ROW, "context": "the river " * 20}
    strict = make_task("multiple_choice", max_length=16)
    with pytest.raises(ValueError, match="row '7', choice 0: 48 tokens, more than max_length 16"):
        strict.encode(strict.check(row, "rows:1"), tokenizer)
    task = make_task("multiple_choice", max_length=16, truncate=True)
    record = task.encode(task.check(row, "rows:1"), tokenizer)
    expected = tokenizer(
        [row["context"]] * 4,
        [f"The dog {choice}" for choice in ROW["choices"]],
        truncation="only_first",
        max_length=16,
    )
    assert record["input_ids"] == expected["input_ids"]
    assert record["token_type_ids"] == expected["token_type_ids"]


def test_a_choice_without_tokens_is_refused(task: Task, tokenizer: PreTrainedTokenizerFast) -> None:
    example = task.check({**ROW, "prefix": "", "choices": ["a", "\x07", "c", "d"]}, "rows:1")
    with pytest.raises(ValueError, match="row '7', choice 1: the choice has no tokens"):
        task.encode(example, tokenizer)


def test_fewer_than_two_choices_make_no_task(make_task: Callable[..., Task]) -> None:
    with pytest.raises(ValueError, match=r"task tried: options: choices: .*got 1"):
        make_task("multiple_choice", options={"choices": 1})


def test_all_of_codah_can_be_encoded(
    shared_data: Path, make_task: Callable[..., Task], tokenizer: PreTrainedTokenizerFast
) -> None:
    task = make_task("multiple_choice", max_length=128)
    with (shared_data / "swag" / "val.csv").open(encoding="utf-8", newline="") as file:
        rows = [
            {
                "id": row[""],
                "context": row["sent1"],
                "prefix": row["sent2"],
                "choices": [row[f"ending{number}"] for number in range(4)],
                "label": row["label"],
            }
            for row in csv.DictReader(file)
        ]
    records = [task.encode(task.check(row, "val.csv"), tokenizer) for row in rows]
    assert [record["labels"] for record in records] == [int(row["label"]) for row in rows]
    assert {len(record["input_ids"]) for record in records} == {4}

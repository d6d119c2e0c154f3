"""What every kind of task promises, checked on every file of the folder."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from transformers import PreTrainedTokenizerFast

from weft.tasks.contract import Example, Record, Task, TaskSpec
from weft.tasks.inputs.audio import write_wav
from weft.tasks.kinds import kinds

LONG = "The river runs past the old city and on to the sea, and nobody knows its name. " * 3


@dataclass(frozen=True)
class Case:
    """Two rows of a kind, and the outputs and predictions that stand for their right answers."""

    rows: list[dict[str, Any]]
    right: Callable[[Task, Record], Any]
    answer: Callable[[dict[str, Any]], Any]
    """The target that a prediction says."""
    best: float = 1.0
    spec: dict[str, Any] = field(default_factory=dict)


def one_hot(size: int, place: int) -> np.ndarray:
    return np.where(np.arange(size) == place, 30.0, 0.0).astype(np.float32)


def tags_right(task: Task, record: Record) -> list[np.ndarray]:
    return [
        np.stack([one_hot(task.num_labels, max(c, 0)) for c in row]) for row in record["labels"]
    ]


def span_right(task: Task, record: Record) -> list[np.ndarray]:
    return [
        np.stack([one_hot(len(ids), start), one_hot(len(ids), end)], axis=1) * bool(end)
        for ids, (start, end) in zip(record["input_ids"], record["labels"], strict=True)
    ]


def certain(columns: int) -> Callable[[Task, Record], list[np.ndarray]]:
    def right(task: Task, record: Record) -> list[np.ndarray]:
        return [
            np.where(np.array(row)[:, None] == -100, np.nan, np.zeros((1, columns)))
            for row in record["labels"]
        ]

    return right


SOUND = Path(os.environ["WEFT_CACHE"]) / "sound.wav"
"""Goes with the cache."""
write_wav(SOUND, np.sin(np.arange(1600) / 5), 8000)

CASES = {
    "sequence_classification": Case(
        [
            {"id": "a", "text": "good film", "label": "yes"},
            {"id": "b", "text": "bad film", "text_pair": "or book", "label": "no"},
        ],
        lambda task, record: one_hot(2, record["labels"]),
        lambda prediction: prediction["label"],
        spec={"labels": ["no", "yes"]},
    ),
    "multiple_choice": Case(
        [
            {
                "id": "a",
                "context": LONG,
                "prefix": "It",
                "choices": ["ran", "sat", "is"],
                "label": 2,
            },
            {"id": "b", "context": "He ate.", "prefix": "", "choices": ["c", "b", "a"], "label": 0},
        ],
        lambda task, record: one_hot(3, record["labels"]),
        lambda prediction: prediction["label"],
        spec={"options": {"choices": 3}, "max_length": 128},
    ),
    "token_classification": Case(
        [
            {"id": "a", "tokens": LONG.split(), "tags": ["O", "B-x", "I-x"] * 17},
            {"id": "b", "tokens": ["Paris", "\x07", "."], "tags": ["B-y", "O", "O"]},
        ],
        tags_right,
        lambda prediction: prediction["tags"],
        spec={"labels": ["O", "B-x", "I-x", "B-y"], "stride": 4},
    ),
    "span_extraction": Case(
        [
            {
                "id": "a",
                "question": "What runs?",
                "context": LONG,
                "answers": [{"text": "river", "start": 162}, {"text": "The river", "start": 0}],
            },
            {
                "id": "b",
                "question": "Who?",
                "context": "It was John, said Mary.",
                "answers": [{"text": "John", "start": 7}],
            },
        ],
        span_right,
        lambda prediction: {"text": prediction["text"], "start": prediction["start"]},
        spec={"stride": 4},
    ),
    "embedding": Case(
        [
            {"id": "a", "text_a": "a good film", "text_b": "a fine film", "score": 1},
            {"id": "b", "text_a": "Paris", "text_b": "He ate.", "score": 0},
        ],
        lambda task, record: [
            one_hot(4, at * (row[2] < 1)) for at, row in enumerate(record["labels"])
        ],
        lambda prediction: prediction["similarity"],
        spec={"metrics": ["pearson", "spearman"]},
    ),
    "transcription": Case(
        [
            {"id": "a", "audio": str(SOUND), "text": "two words"},
            {"id": "b", "audio": str(SOUND), "text": "one"},
        ],
        lambda task, record: {"a": "two words", "b": "one"}[record["id"]],
        lambda prediction: prediction["text"],
        best=0.0,
        spec={"options": {"encoders": {"audio": {"sample_rate": 8000}}}},
    ),
    "causal_lm": Case(
        [{"id": "a", "text": LONG}, {"id": "b", "text": "A word."}],
        certain(1),
        lambda prediction: prediction["nll"],
        best=0.0,
        spec={"stride": 4},
    ),
    "masked_lm": Case(
        [{"id": "a", "text": LONG}, {"id": "b", "text": "A word."}],
        certain(11),
        lambda prediction: prediction["nll"],
        best=1.0,
        spec={"stride": 4},
    ),
}

pytestmark = pytest.mark.parametrize("kind", kinds.names())


@pytest.fixture
def case(kind: str) -> Case:
    return CASES[kind]


@pytest.fixture
def task(kind: str, case: Case) -> Task:
    loaded = kinds.load(kind)
    spec = TaskSpec.model_validate({"name": "tried", "kind": kind, "max_length": 24, **case.spec})
    return loaded(spec, loaded.collect_labels(spec, []))


@pytest.fixture
def examples(task: Task, case: Case) -> list[Example]:
    return [task.check(row, f"rows:{number}") for number, row in enumerate(case.rows)]


@pytest.fixture
def records(
    task: Task, examples: list[Example], tokenizer: PreTrainedTokenizerFast
) -> list[Record]:
    generator = np.random.default_rng(0)
    return [task.sample(task.encode(example, tokenizer), generator) for example in examples]


def statistics(
    task: Task, case: Case, examples: list[Example], records: list[Record]
) -> np.ndarray:
    return np.stack(
        [
            task.statistics(task.decode(example, record, case.right(task, record)), example)
            for example, record in zip(examples, records, strict=True)
        ]
    )


def test_right_answers_score_the_maximum(
    task: Task, case: Case, examples: list[Example], records: list[Record]
) -> None:
    scores = task.metrics(statistics(task, case, examples, records).sum(0))
    assert scores[task.metric] == case.best


def test_decoding_the_right_output_gives_the_right_answer(
    task: Task, case: Case, examples: list[Example], records: list[Record]
) -> None:
    for example, record in zip(examples, records, strict=True):
        prediction = task.decode(example, record, case.right(task, record))
        assert prediction["id"] == example["id"]
        expected = example[task.target] if task.target else 0.0
        assert case.answer(prediction) == (expected[0] if task.target == "answers" else expected)


def test_scores_are_computed_for_many_samples_at_once(
    task: Task, case: Case, examples: list[Example], records: list[Record]
) -> None:
    rows = statistics(task, case, examples, records)
    totals = np.stack([rows.sum(0), rows[0], rows[1], 3 * rows[0]]).reshape(2, 2, -1)
    together = task.metrics(totals)
    for name, values in together.items():
        alone = [task.metrics(total)[name] for total in totals.reshape(4, -1)]
        np.testing.assert_array_equal(values, np.reshape(alone, (2, 2)))


def test_sums_of_nothing_have_scores(
    task: Task, records: list[Record], case: Case, examples: list[Example]
) -> None:
    size = statistics(task, case, examples, records).shape[1]
    shapes = {name: value.shape for name, value in task.metrics(np.zeros((3, size))).items()}
    assert shapes == dict.fromkeys(task.metrics(np.zeros(size)), (3,))


def test_a_checked_example_checks_to_itself(task: Task, examples: list[Example]) -> None:
    assert [task.check(example, "again") for example in examples] == examples


def test_records_survive_a_table_and_predictions_survive_json(
    task: Task, case: Case, examples: list[Example], tokenizer: PreTrainedTokenizerFast
) -> None:
    records = [task.encode(example, tokenizer) for example in examples]
    assert pa.Table.from_pylist(records).to_pylist() == records
    for example, record in zip(examples, records, strict=True):
        prediction = task.decode(example, record, case.right(task, record))
        assert json.loads(json.dumps(prediction, allow_nan=False)) == prediction


def test_sequences_keep_the_limit_and_the_model_inputs(
    task: Task, examples: list[Example], any_tokenizer: PreTrainedTokenizerFast
) -> None:
    task = type(task)(task.spec.model_copy(update={"max_length": 300}), task.labels)
    if task.spec.kind == "masked_lm" and any_tokenizer.mask_token is None:
        pytest.skip("this tokenizer has no mask")
    for example in examples:
        record = task.encode(example, any_tokenizer)
        sizes = [len(ids) for ids in record["input_ids"]]
        assert max(sizes) <= 300
        assert min(sizes) > 0
        if "token_type_ids" in any_tokenizer.model_input_names:
            assert [len(types) for types in record["token_type_ids"]] == sizes
        else:
            assert "token_type_ids" not in record


def test_a_cut_stored_with_the_tokenizer_changes_nothing(
    task: Task, examples: list[Example], tokenizer: PreTrainedTokenizerFast
) -> None:
    expected = [task.encode(example, tokenizer) for example in examples]
    for example, record in zip(examples, expected, strict=True):
        tokenizer.backend_tokenizer.enable_truncation(5)
        tokenizer.backend_tokenizer.enable_padding(length=200)
        assert task.encode(example, tokenizer) == record


def test_without_a_target_a_row_is_predicted_but_not_scored(
    task: Task, case: Case, tokenizer: PreTrainedTokenizerFast
) -> None:
    if task.target is None:
        pytest.skip("the text is the target")
    row = {key: value for key, value in case.rows[0].items() if key != task.target}
    example = task.check(row, "rows:1")
    record = task.encode(example, tokenizer)
    whole = task.encode(task.check(case.rows[0], "rows:1"), tokenizer)
    assert record == {key: value for key, value in whole.items() if key != "labels"}
    prediction = task.decode(example, record, case.right(task, whole))
    with pytest.raises(ValueError, match=f"'a' has no '{task.target}'"):
        task.statistics(prediction, example)


def test_a_row_without_a_needed_column_is_refused(task: Task, case: Case) -> None:
    for column in ("id", *task.columns):
        row = {key: value for key, value in case.rows[0].items() if key != column}
        with pytest.raises(ValueError, match=rf"^rows\.csv:7: .*'{column}'"):
            task.check(row, "rows.csv:7")


@pytest.mark.parametrize("value", ["", " \t", 7, "half \ud800"])
def test_what_is_not_text_is_refused(task: Task, case: Case, value: object) -> None:
    texts = [name for name in task.columns if isinstance(case.rows[0][name], str)]
    lists = [name for name in task.columns if isinstance(case.rows[0][name], list)]
    wrong = [{**case.rows[0], name: value} for name in texts]
    wrong += [{**case.rows[0], name: value} for name in lists]
    for row in wrong:
        with pytest.raises(ValueError, match=r"^rows\.csv:7: "):
            task.check(row, "rows.csv:7")


def test_an_unknown_option_is_refused(task: Task) -> None:
    spec = task.spec.model_copy(update={"options": {**task.spec.options, "thresold": 1}})
    with pytest.raises(ValueError, match=r"task tried: options: .*no setting named 'thresold'"):
        type(task)(spec, task.labels)


def test_the_page_of_a_kind_names_its_columns_and_scores(
    task: Task, case: Case, examples: list[Example], records: list[Record]
) -> None:
    scores = task.metrics(statistics(task, case, examples, records).sum(0))
    page = type(task).__doc__ or ""
    for name in (*task.columns, *task.optional, task.target or "text", *scores):
        assert f"`{name}`" in page

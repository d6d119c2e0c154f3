"""Span extraction: answers in paragraphs, as SQuAD v1.1 has them."""

import json
import re
import string
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from weft.tasks.contract import Record, Task, TaskSpec
from weft.tasks.kinds import kinds

KIND = "span_extraction"
CONTEXT = (
    "Amsterdam's canals were dug in the 17th century, mostly by hand. The Keizersgracht, named "
    "after Emperor Maximilian, is the widest of them; the Herengracht is the first."
)
ROW = {
    "id": "q",
    "question": "Which canal is the widest?",
    "context": CONTEXT,
    "answers": [{"text": "Keizersgracht", "start": 69}],
}


def plain(**spec: object) -> Task:
    full = TaskSpec.model_validate({"name": "tried", "kind": KIND, **spec})
    return kinds.load(KIND)(full)


def test_one_window_is_the_pair_of_question_and_context(tokenizer: PreTrainedTokenizerFast) -> None:
    task = plain(max_length=128)
    record = task.encode(task.check(ROW, "r"), tokenizer)
    expected = tokenizer(ROW["question"], CONTEXT, return_offsets_mapping=True)
    first = expected["token_type_ids"].index(1)
    (answer,) = record["labels"]
    assert record == {
        "id": "q",
        "input_ids": [expected["input_ids"]],
        "token_type_ids": [expected["token_type_ids"]],
        "offsets": [list(pair) for pair in expected["offset_mapping"][first:-1]],
        "windows": [[first, 0, len(expected["input_ids"]) - first - 1]],
        "labels": [answer],
    }
    assert tokenizer.decode(expected["input_ids"][answer[0] : answer[1] + 1]) == "keizersgracht"


def test_windows_and_targets_are_those_of_transformers(tokenizer: PreTrainedTokenizerFast) -> None:
    task = plain(max_length=24, stride=6)
    record = task.encode(task.check(ROW, "r"), tokenizer)
    expected = tokenizer(
        ROW["question"],
        CONTEXT,
        truncation="only_second",
        max_length=24,
        stride=6,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    targets = []
    for number, offsets in enumerate(expected["offset_mapping"]):
        inside = [
            place
            for place, (low, high) in enumerate(offsets)
            if expected.sequence_ids(number)[place] == 1 and low < 69 + 13 and high > 69
        ]
        whole = inside and offsets[inside[0]][0] == 69 and offsets[inside[-1]][1] == 69 + 13
        targets.append([inside[0], inside[-1]] if whole else [0, 0])
    assert len(targets) > 3
    assert record["input_ids"] == expected["input_ids"]
    assert record["token_type_ids"] == expected["token_type_ids"]
    assert record["labels"] == targets
    assert [0, 0] in targets
    assert any(end for _, end in targets)


def test_an_answer_inside_a_token_takes_the_whole_token(tokenizer: PreTrainedTokenizerFast) -> None:
    task = plain(max_length=128)
    row = {**ROW, "answers": [{"text": "7th centur", "start": CONTEXT.index("7th")}]}
    record = task.encode(task.check(row, "r"), tokenizer)
    ((start, end),) = record["labels"]
    assert tokenizer.decode(record["input_ids"][0][start : end + 1]) == "17th century"


def test_an_answer_leaves_its_neighbours_out(tokenizer: PreTrainedTokenizerFast) -> None:
    task = plain(max_length=128)
    row = {**ROW, "answers": [{"text": "s canals", "start": CONTEXT.index("s canals")}]}
    record = task.encode(task.check(row, "r"), tokenizer)
    ((start, end),) = record["labels"]
    assert tokenizer.decode(record["input_ids"][0][start : end + 1]) == "s canals"


def all_spans(task: Task, record: Record, output: list[np.ndarray]) -> list[tuple[float, int, int]]:
    """Every valid answer, written plainly: (sum, first character, last character)."""
    spans = []
    windows = record["windows"]
    for number, (first, start, end) in enumerate(windows):
        for begin in range(start, end):
            contexts = [
                min(begin - s, e - 1 - begin) + 0.01 * (e - s) if s <= begin < e else -1
                for _, s, e in windows
            ]
            if contexts.index(max(contexts)) != number:
                continue
            for stop in range(begin, min(end, begin + task.options.max_answer_tokens)):
                total = (
                    output[number][first + begin - start, 0]
                    + output[number][first + stop - start, 1]
                )
                spans.append(
                    (float(total), record["offsets"][begin][0], record["offsets"][stop][1])
                )
    return sorted(spans, reverse=True)


@given(seed=st.integers(0, 2**32 - 1), longest=st.integers(1, 12), stride=st.integers(0, 7))
def test_the_best_spans_over_all_windows_are_kept(
    tokenizer: PreTrainedTokenizerFast, seed: int, longest: int, stride: int
) -> None:
    options = {"max_answer_tokens": longest, "n_best": 7, "n_best_kept": 3}
    task = plain(max_length=24, stride=stride, options=options)
    example = task.check(ROW, "r")
    record = task.encode(example, tokenizer)
    generator = np.random.default_rng(seed)
    output = [
        generator.normal(size=(len(ids), 2)).astype(np.float32) for ids in record["input_ids"]
    ]
    best = all_spans(task, record, [values.astype(np.float64) for values in output])[:7]
    weights = np.exp([total for total, _, _ in best])
    prediction = task.decode(example, record, output)
    scores = [span.pop("score") for span in prediction["n_best"]]
    assert prediction["n_best"] == [
        {"text": CONTEXT[start:end], "start": start, "end": end} for _, start, end in best[:3]
    ]
    np.testing.assert_allclose(scores, weights[:3] / weights.sum(), rtol=1e-9)
    assert prediction == {
        "id": "q",
        **prediction["n_best"][0],
        "score": scores[0],
        "n_best": prediction["n_best"],
    }


def test_tokens_outside_the_context_are_no_answer(tokenizer: PreTrainedTokenizerFast) -> None:
    task = plain(max_length=128)
    example = task.check(ROW, "r")
    record = task.encode(example, tokenizer)
    first, _, size = record["windows"][0]
    output = np.full((len(record["input_ids"][0]), 2), 50.0, dtype=np.float32)
    output[first : first + size] = 0
    output[first + 3] = 1
    prediction = task.decode(example, record, [output])
    assert (prediction["text"], prediction["start"]) == ("canals", 12)


def test_spaces_that_a_tokenizer_counts_to_a_word_are_not_in_the_answer() -> None:
    task = plain()
    example = task.check({"id": "q", "question": "Who?", "context": "by John Doe now"}, "r")
    record = {"windows": [[0, 0, 4]], "offsets": [[0, 2], [2, 7], [7, 11], [11, 15]]}
    output = np.array([[0, 0], [9, 0], [0, 9], [0, 0]], dtype=np.float32)
    prediction = task.decode(example, record, [output])
    assert {key: prediction[key] for key in ("text", "start", "end")} == {
        "text": "John Doe",
        "start": 3,
        "end": 11,
    }


def test_scores_that_are_no_numbers_are_an_error(tokenizer: PreTrainedTokenizerFast) -> None:
    task = plain(max_length=128)
    example = task.check(ROW, "r")
    record = task.encode(example, tokenizer)
    output = np.full((len(record["input_ids"][0]), 2), np.nan, dtype=np.float32)
    with pytest.raises(ValueError, match="row 'q': no span of the context has a finite score"):
        task.decode(example, record, [output])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"answers": [{"text": "Keizersgracht", "start": 68}]},
            "not in its paragraph: 'Keizersgracht' is not at 68, but found at 69",
        ),
        ({"answers": [{"text": "Prinsengracht", "start": 69}]}, "not found anywhere"),
        ({"answers": [{"text": "Keizersgracht", "start": -99}]}, "not in its paragraph"),
        ({"answers": [{"text": "Keizersgracht", "start": "x"}]}, "not in its paragraph"),
        ({"answers": [*ROW["answers"], {"text": "Emperor", "start": 0}]}, "'Emperor' is not at 0"),
        (
            {"answers": []},
            r"a question without an answer \(SQuAD 2.0\); `options: {no_answer: true}`",
        ),
        ({"answers": "Keizersgracht"}, "a list of at least one"),
        ({"answers": [{"text": "x"}]}, r"an answer must be \{text, start\}"),
        ({"answers": [{"text": "", "start": 0}]}, "an answer's text is empty"),
        ({"question": " "}, "'question' is empty"),
        ({"context": ""}, "'context' is empty"),
    ],
    ids=repr,
)
def test_wrong_rows_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=rf"^a\.json: data\[0\]: .*{message}"):
        plain().check({**ROW, **change}, "a.json: data[0]")


def test_a_start_in_digits_is_a_number() -> None:
    row = {**ROW, "answers": [{"text": "Keizersgracht", "start": "69"}]}
    assert plain().check(row, "r")["answers"] == ROW["answers"]


def test_questions_that_leave_no_room_are_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    task = plain(max_length=9)
    with pytest.raises(
        ValueError, match=r"row 'q': the question and the tokens added .* of max_length 9"
    ):
        task.encode(task.check(ROW, "r"), tokenizer)
    task = plain(max_length=12, stride=3)
    with pytest.raises(ValueError, match=r"row 'q': max_length leaves 2 tokens .* the stride 3"):
        task.encode(task.check(ROW, "r"), tokenizer)


@pytest.mark.parametrize("column", ["question", "context"])
def test_texts_without_tokens_are_refused(column: str, tokenizer: PreTrainedTokenizerFast) -> None:
    task = plain()
    row = {"id": "q", "question": "Who?", "context": "He.", column: "\u200b"}
    with pytest.raises(ValueError, match=f"row 'q': the {column} has no tokens"):
        task.encode(task.check(row, "r"), tokenizer)


def test_an_answer_without_tokens_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    task = plain()
    row = {
        "id": "q",
        "question": "Who?",
        "context": "He \u200b.",
        "answers": [{"text": "\u200b", "start": 3}],
    }
    with pytest.raises(ValueError, match=r"row 'q': the answer .* has no tokens"):
        task.encode(task.check(row, "r"), tokenizer)


# SQuAD's evaluate-v1.1.py, as published.
def normalize_answer(s: str) -> str:
    def remove_articles(text: str) -> str:
        return re.sub(r"\b(a|an|the)\b", " ", text)

    def white_space_fix(text: str) -> str:
        return " ".join(text.split())

    def remove_punc(text: str) -> str:
        exclude = set(string.punctuation)
        return "".join(ch for ch in text if ch not in exclude)

    return white_space_fix(remove_articles(remove_punc(s.lower())))


def f1_score(prediction: str, ground_truth: str) -> float:
    prediction_tokens = normalize_answer(prediction).split()
    ground_truth_tokens = normalize_answer(ground_truth).split()
    common = Counter(prediction_tokens) & Counter(ground_truth_tokens)
    num_same = sum(common.values())
    if num_same == 0:
        return 0
    precision = 1.0 * num_same / len(prediction_tokens)
    recall = 1.0 * num_same / len(ground_truth_tokens)
    return (2 * precision * recall) / (precision + recall)


phrases = st.lists(
    st.sampled_from(
        ["The", "an", "a", "cat", "Cat,", "dog", "--", "U.S.", "theatre", " ", "\u00e9"]
    ),
    min_size=1,
).map(" ".join)


@given(phrases, st.lists(phrases, min_size=1, max_size=3))
def test_scores_are_those_of_the_official_script(said: str, right: list[str]) -> None:
    example = {"id": "q", "answers": [{"text": text, "start": 0} for text in right]}
    scores = plain().metrics(plain().statistics({"text": said}, example))
    exact = max(normalize_answer(said) == normalize_answer(text) for text in right)
    assert scores["exact_match"] == exact
    assert scores["f1"] == pytest.approx(max(f1_score(said, text) for text in right))


def test_gold_of_squad_scores_almost_the_maximum(
    shared_data: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    file = shared_data / "squad" / "validation-v1.1.json"
    task = plain(max_length=160, stride=64)
    total = np.zeros(3)
    for article in json.loads(file.read_text(encoding="utf-8"))["data"]:
        for paragraph in article["paragraphs"]:
            for question in paragraph["qas"]:
                answers = [
                    {"text": answer["text"], "start": answer["answer_start"]}
                    for answer in question["answers"]
                ]
                row = {**question, "context": paragraph["context"], "answers": answers}
                example = task.check(row, "validation")
                record = task.encode(example, tokenizer)
                right = []
                for ids, (start, end) in zip(record["input_ids"], record["labels"], strict=True):
                    output = np.zeros((len(ids), 2), dtype=np.float32)
                    if end:
                        output[[start, end], [0, 1]] = 9
                    right.append(output)
                total += task.statistics(task.decode(example, record, right), example)
    assert total[2] == 985
    # The rest: answers of more than 30 tokens, and answers that end inside a word.
    assert task.metrics(total)["f1"] > 0.98

"""Masked language modelling."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from weft.tasks.contract import Task, TaskSpec
from weft.tasks.kinds import kinds
from weft.tasks.text import most_context

TEXT = "Zo\u00eb said it was the last day of the year; all the people went to the city."


def plain(**spec: object) -> Task:
    full = TaskSpec.model_validate({"name": "tried", "kind": "masked_lm", **spec})
    return kinds.load("masked_lm")(full)


def test_nothing_is_hidden_before_sampling(tokenizer: PreTrainedTokenizerFast) -> None:
    task = plain()
    record = task.encode(task.check({"id": 1, "text": TEXT}, "r"), tokenizer)
    expected = tokenizer(TEXT, return_offsets_mapping=True)
    size = len(expected["input_ids"])
    assert record == {
        "id": "1",
        "input_ids": [expected["input_ids"]],
        "token_type_ids": [[0] * size],
        "labels": [[-100] * size],
        "maskable": [[0, *[1] * (size - 2), 0]],
        "positions": [[-1, *range(size - 2), -1]],
        "starts": [[start for start, _ in expected["offset_mapping"]]],
        "ends": [[end for _, end in expected["offset_mapping"]]],
        "vocabulary": [tokenizer.mask_token_id, 30522],
    }


def test_tokens_are_hidden_in_the_shares_of_bert(tokenizer: PreTrainedTokenizerFast) -> None:
    task = plain(max_length=512)
    # 2,000 draws of 15 of 100 tokens: the bounds below are five standard deviations.
    record = task.encode(task.check({"id": "1", "text": "river " * 100}, "r"), tokenizer)
    river = record["input_ids"][0][1]
    generator = np.random.default_rng(0)
    fates = {"mask": 0, "same": 0, "other": 0}
    places = np.zeros(102)
    for _ in range(2000):
        drawn = task.sample(record, generator)
        (ids,), (labels,) = drawn["input_ids"], drawn["labels"]
        hidden = [place for place, label in enumerate(labels) if label != -100]
        assert len(hidden) == 15
        assert {labels[place] for place in hidden} == {river}
        changed = {
            place for place, token in enumerate(ids) if token != record["input_ids"][0][place]
        }
        assert changed <= set(hidden)
        places[hidden] += 1
        for place in hidden:
            fate = {tokenizer.mask_token_id: "mask", river: "same"}.get(ids[place], "other")
            fates[fate] += 1
    shares = {name: count / 30000 for name, count in fates.items()}
    assert shares == pytest.approx({"mask": 0.8, "same": 0.1, "other": 0.1}, abs=0.0116)
    assert places[[0, -1]].tolist() == [0, 0]
    np.testing.assert_allclose(places[1:-1] / 2000, 0.15, atol=0.04)


@given(st.integers(0, 2**32 - 1))
def test_the_same_generator_hides_the_same_tokens(
    tokenizer: PreTrainedTokenizerFast, seed: int
) -> None:
    task = plain(options={"probability": 0.5})
    record = task.encode(task.check({"id": "1", "text": TEXT}, "r"), tokenizer)
    before = [list(ids) for ids in record["input_ids"]]
    first, again = (task.sample(record, np.random.default_rng(seed)) for _ in range(2))
    assert first == again
    assert record["input_ids"] == before
    assert {**first, "input_ids": 0, "labels": 0} == {**record, "input_ids": 0, "labels": 0}


@pytest.mark.parametrize(("text", "hidden"), [("city", 1), ("the city", 1), ("[MASK]", 0)])
def test_at_least_one_token_is_hidden_where_there_is_one(
    text: str, hidden: int, tokenizer: PreTrainedTokenizerFast
) -> None:
    task = plain()
    record = task.encode(task.check({"id": "1", "text": text}, "r"), tokenizer)
    drawn = task.sample(record, np.random.default_rng(0))
    assert sum(label != -100 for label in drawn["labels"][0]) == hidden


def test_a_token_in_two_windows_is_hidden_where_most_of_its_context_is(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    task = plain(max_length=12, stride=4, options={"probability": 1.0})
    record = task.encode(task.check({"id": "1", "text": TEXT}, "r"), tokenizer)
    body = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    spans = [(start, min(start + 10, len(body))) for start in range(0, len(body) - 4, 6)]
    owner = most_context(spans, len(body))
    drawn = task.sample(record, np.random.default_rng(0))
    assert len(spans) > 2
    assert drawn["labels"] == [
        [-100, *(body[p] if owner[p] == n else -100 for p in range(*span)), -100]
        for n, span in enumerate(spans)
    ]


def outputs(record: dict, nll: float, best: list[int], scores: list[float]) -> list[np.ndarray]:
    return [
        np.array(
            [[nll if label != -100 else np.nan, *best, *scores] for label in labels], np.float32
        )
        for labels in record["labels"]
    ]


def test_masks_of_the_text_are_filled(tokenizer: PreTrainedTokenizerFast) -> None:
    task = plain(max_length=12, stride=3)
    text = "The [MASK] of France is a large old city on a river; people call it [MASK]!"
    example = task.check({"id": "1", "text": text}, "r")
    record = task.encode(example, tokenizer)
    assert len(record["input_ids"]) > 1
    best = tokenizer.convert_tokens_to_ids(["paris", "##s"])
    prediction = task.decode(example, record, outputs(record, 3.0, best, [0.75, 0.125]))
    tokens = [{"token": "paris", "score": 0.75}, {"token": "##s", "score": 0.125}]
    assert prediction == {
        "id": "1",
        "masks": [
            {"position": 1, "start": 4, "end": 10, "tokens": tokens},
            {"position": 16, "start": 68, "end": 74, "tokens": tokens},
        ],
        "nll": 0.0,
        "tokens": 0,
        "bytes": 0,
    }
    assert text[68:74] == "[MASK]"


def test_tokens_are_named_only_with_a_tokenizer(tokenizer: PreTrainedTokenizerFast) -> None:
    task, other = plain(), plain()
    example = task.check({"id": "1", "text": "a [MASK]"}, "r")
    record = task.encode(example, tokenizer)
    output = outputs(record, 0.0, [1000], [0.5])
    with pytest.raises(ValueError, match="set `tokenizer`"):
        other.decode(example, record, output)
    other.tokenizer = tokenizer
    assert other.decode(example, record, output) == task.decode(example, record, output)


def test_hidden_tokens_and_their_bytes_count(tokenizer: PreTrainedTokenizerFast) -> None:
    task = plain(options={"probability": 0.3})
    example = task.check({"id": "1", "text": TEXT}, "r")
    record = task.sample(task.encode(example, tokenizer), np.random.default_rng(1))
    hidden = [place for place, label in enumerate(record["labels"][0]) if label != -100]
    offsets = tokenizer(TEXT, return_offsets_mapping=True)["offset_mapping"]
    size = sum(len(TEXT[slice(*offsets[place])].encode()) for place in hidden)
    prediction = task.decode(example, record, outputs(record, 0.5, [1, 2], [0.5, 0.25]))
    assert prediction == {
        "id": "1",
        "masks": [],
        "nll": 0.5 * len(hidden),
        "tokens": len(hidden),
        "bytes": size,
    }
    scores = task.metrics(task.statistics(prediction, example))
    assert scores["perplexity"] == pytest.approx(np.exp(0.5))
    assert scores["bits_per_byte"] == pytest.approx(0.5 * len(hidden) / np.log(2) / size)
    assert (task.metric, task.higher_is_better) == ("perplexity", False)


def test_a_base_without_a_mask_is_refused(
    tokenizer_of: Callable[[str], PreTrainedTokenizerFast],
) -> None:
    task = plain()
    with pytest.raises(ValueError, match=r"row '1': .* no mask token; causal_lm is the kind"):
        task.encode(task.check({"id": "1", "text": TEXT}, "r"), tokenizer_of("gpt2"))


@pytest.mark.parametrize("probability", [0, 1.5])
def test_a_share_that_makes_no_sense_is_refused(probability: float) -> None:
    with pytest.raises(ValueError, match="task tried: options: probability"):
        plain(options={"probability": probability})


def test_a_stride_that_leaves_no_progress_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    task = plain(max_length=8, stride=6)
    with pytest.raises(ValueError, match=r"row '1': max_length leaves 6 tokens .* the stride 6"):
        task.encode(task.check({"id": "1", "text": TEXT}, "r"), tokenizer)

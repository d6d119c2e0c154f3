"""Causal language modelling."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from weft.tasks.contract import Task, TaskSpec
from weft.tasks.kinds import kinds

TEXT = "Zo\u00eb said it was the last day of the year; all the people went to the city."
TokenizerOf = Callable[[str], PreTrainedTokenizerFast]


def plain(**spec: object) -> Task:
    full = TaskSpec.model_validate({"name": "tried", "kind": "causal_lm", **spec})
    return kinds.load("causal_lm")(full)


def test_a_short_text_is_its_own_label(tokenizer_of: TokenizerOf) -> None:
    task, tokenizer = plain(), tokenizer_of("llama")
    ids = tokenizer(TEXT)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert task.encode(task.check({"id": 3, "text": TEXT}, "r"), tokenizer) == {
        "id": "3",
        "input_ids": [ids],
        "labels": [[-100, *ids[1:]]],
        "num_bytes": [len(TEXT.encode())],
    }


def test_without_a_token_in_front_the_first_is_not_scored(tokenizer_of: TokenizerOf) -> None:
    task, tokenizer = plain(), tokenizer_of("gpt2")
    ids = tokenizer(TEXT)["input_ids"]
    first = tokenizer.decode(ids[:1])
    record = task.encode(task.check({"id": "3", "text": TEXT}, "r"), tokenizer)
    assert record["input_ids"] == [ids]
    assert record["labels"] == [[-100, *ids[1:]]]
    assert record["num_bytes"] == [len(TEXT.encode()) - len(first.encode())]


@given(
    words=st.lists(st.sampled_from(["the", "city", "\u00e9", "x"]), min_size=1, max_size=60),
    size=st.integers(9, 20),
    stride=st.integers(0, 5),
    form=st.sampled_from(["bert", "roberta", "gpt2", "llama"]),
)
def test_every_token_is_scored_once_behind_its_context(
    tokenizer_of: TokenizerOf, words: list[str], size: int, stride: int, form: str
) -> None:
    tokenizer = tokenizer_of(form)
    text = " ".join(words)
    task = plain(max_length=size, stride=stride)
    record = task.encode(task.check({"id": "a", "text": text}, "r"), tokenizer)
    body = tokenizer(text, add_special_tokens=False)["input_ids"]
    with_front = form != "gpt2"
    scored, shown = [], []
    for ids, labels in zip(record["input_ids"], record["labels"], strict=True):
        assert len(ids) <= size
        places = [place for place, label in enumerate(labels) if label != -100]
        assert [labels[place] for place in places] == [ids[place] for place in places]
        # The head reads a label from the position before it, so the first position cannot have one.
        assert 0 not in places
        assert places == list(range(places[0], places[-1] + 1)) if places else len(body) == 1
        scored += [ids[place] for place in places]
        shown.append(places[0] - int(with_front) if places else 0)
    assert scored == (body if with_front else body[1:])
    assert shown[1:] == [stride if with_front else max(stride, 1)] * (len(shown) - 1)


def test_only_labelled_positions_count(tokenizer_of: TokenizerOf) -> None:
    task, tokenizer = plain(max_length=20, stride=4), tokenizer_of("llama")
    example = task.check({"id": "a", "text": TEXT}, "r")
    record = task.encode(example, tokenizer)
    assert len(record["labels"]) > 1
    output = [
        np.where(np.array(labels) == -100, np.nan, np.array(labels) / 10)[:, None].astype(
            np.float32
        )
        for labels in record["labels"]
    ]
    ids = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    prediction = task.decode(example, record, output)
    assert prediction.pop("nll") == pytest.approx(sum(ids) / 10)
    assert prediction == {"id": "a", "tokens": len(ids), "bytes": len(TEXT.encode())}


def test_scores_are_perplexity_and_bits_per_byte() -> None:
    task = plain()
    rows = [
        {"nll": 6 * np.log(2), "tokens": 2, "bytes": 9},
        {"nll": 2 * np.log(2), "tokens": 2, "bytes": 7},
    ]
    total = np.sum([task.statistics(row, {"id": "a", "text": "x"}) for row in rows], axis=0)
    assert task.metrics(total) == {
        "perplexity": pytest.approx(4),
        "bits_per_byte": pytest.approx(0.5),
    }
    assert (task.metric, task.higher_is_better) == ("bits_per_byte", False)


def test_a_text_without_tokens_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    task = plain()
    with pytest.raises(ValueError, match="row 'a': the text has no tokens"):
        task.encode(task.check({"id": "a", "text": "\u200b"}, "r"), tokenizer)


def test_a_stride_that_leaves_no_progress_is_refused(tokenizer_of: TokenizerOf) -> None:
    task = plain(max_length=9, stride=8)
    with pytest.raises(ValueError, match=r"row 'a': max_length leaves 8 tokens .* the stride 8"):
        task.encode(task.check({"id": "a", "text": TEXT}, "r"), tokenizer_of("llama"))

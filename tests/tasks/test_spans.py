"""Spans of characters become words with tags."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.tasks.metrics import entities_of
from weft.tasks.spans import tagged

TEXT = "In New York-based Acme, Ada met Bob."


def span(inner: str, label: str, text: str = TEXT) -> dict[str, Any]:
    return {"start": text.index(inner), "end": text.index(inner) + len(inner), "label": label}


def test_words_are_cut_where_a_span_begins_or_ends() -> None:
    found = tagged(
        TEXT, [span("Ada", "PER"), span("New York", "LOC"), span("Acme", "ORG")], "web", "r"
    )
    assert found["tokens"] == ["In", "New", "York", "-based", "Acme", ",", "Ada", "met", "Bob", "."]
    assert found["tags"] == ["O", "B-LOC", "I-LOC", "O", "B-ORG", "O", "B-PER", "O", "O", "O"]
    assert [TEXT[start:end] for start, end in found["offsets"]] == found["tokens"]


def test_spans_that_touch_are_two_entities_and_white_space_at_their_ends_is_let_be() -> None:
    spans = [{"start": 0, "end": 2, "label": "x"}, {"start": 2, "end": 5, "label": "x"}]
    found = tagged("北京上海 ", spans, "web", "r")
    assert found["tags"] == ["B-x", "I-x", "B-x", "I-x"]


@given(
    st.lists(
        st.tuples(st.booleans(), st.sampled_from(["a", "bc", "d e", "中文", "x-y"])), min_size=1
    )
)
def test_tags_hold_exactly_the_spans(parts: list[tuple[bool, str]]) -> None:
    text, spans = "", []
    for number, (marked, inner) in enumerate(parts):
        if marked:
            spans.append({"start": len(text), "end": len(text) + len(inner), "label": f"t{number}"})
        text += inner + " " * (number % 2)
    found = tagged(text, spans, "web", "r")
    places = found["offsets"]
    said = [
        {"start": places[first][0], "end": places[last][1], "label": kind}
        for kind, first, last in entities_of(found["tags"])
    ]
    assert said == spans


@pytest.mark.parametrize(
    ("spans", "said"),
    [
        ("x", "'spans' must be a list of {start, end, label}, got 'x'"),
        ([{"start": 0}], "a span must have start, end and label, got {'start': 0}"),
        (
            [{"start": 0, "end": 99, "label": "x"}],
            "the span 0 to 99 is none of this text of 36 char",
        ),
        ([{"start": 2, "end": 3, "label": "x"}], "the span 2 to 3 is none of this text"),
        ([{"start": 0.0, "end": 2, "label": "x"}], "the span 0.0 to 2 is none"),
        ([{"start": 0, "end": 2, "label": 3}], "a span's label must be text, got 3"),
        ([span("New York", "x"), span("York", "y")], "the span 'y' (7 to 11) overlaps"),
    ],
    ids=str,
)
def test_malformed_spans_are_refused_by_place(spans: Any, said: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        tagged(TEXT, spans, "web", "train.jsonl:3")
    assert str(caught.value).startswith(f"train.jsonl:3: {said}")

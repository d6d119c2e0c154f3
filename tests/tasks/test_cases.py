"""Rows as people look at them: what each kind says of an answer, what is kept, and what confidence is worth."""

import json
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest

from weft.tasks.cases import (
    BINS,
    LONGEST,
    WORST,
    Case,
    Claim,
    Mark,
    Mistakes,
    Option,
    apart,
    mistakes_of,
    shortened,
)
from weft.tasks.contract import Task, TaskSpec
from weft.tasks.kinds.multiple_choice import MultipleChoice
from weft.tasks.kinds.sequence_classification import SequenceClassification
from weft.tasks.kinds.span_extraction import SpanExtraction
from weft.tasks.kinds.token_classification import TokenClassification
from weft.tasks.scoring import mistakes

TAGS = ["O", "B-per", "I-per", "B-loc", "I-loc"]


def task(kind: type[Task], labels: list[str] = [], **options: Any) -> Task:  # noqa: B006 - never changed
    return kind(TaskSpec(name="own", kind="any", options=options), labels)


def case(kind: Task, prediction: dict[str, Any], example: dict[str, Any]) -> Case:
    found = kind.case({"id": "7", **prediction}, {"id": "7", **example})
    assert found is not None
    return found


def test_entities_are_right_wrong_or_missed() -> None:
    tokens = ["ann", "lee", "met", "bob", "in", "york", "and", "rome"]
    right = ["B-per", "I-per", "O", "B-per", "O", "B-loc", "O", "B-loc"]
    said = ["B-per", "O", "B-per", "B-loc", "O", "B-loc", "O", "O"]
    scores = (("per", 0.9), ("per", 0.6), ("loc", 0.7), ("loc", 0.8))
    entities = [{"type": kind, "score": score} for kind, score in scores]
    found = case(
        task(TokenClassification, TAGS),
        {"tags": said, "entities": entities},
        {"tokens": tokens, "tags": right},
    )
    assert found.text == "ann lee met bob in york and rome"
    assert found.marks == (
        Mark(0, 3, "per: wrong extent", "wrong"),
        Mark(8, 11, "per: invented", "wrong"),
        Mark(12, 15, "loc: is per", "wrong"),
        Mark(19, 23, "loc", "right"),
        Mark(28, 32, "missed loc", "missed"),
    )
    assert found.wrong == ("wrong extent", "invented", "per taken for loc", "missed")
    assert found.claims == (
        Claim(0.9, False),
        Claim(0.6, False),
        Claim(0.7, False),
        Claim(0.8, True),
    )
    assert found.loss == pytest.approx(0.9 + 0.6 + 0.7 + 1)
    assert (found.said, found.right) == (
        "ann (per), met (per), bob (loc), york (loc)",
        "ann lee (per), bob (per), york (loc), rome (loc)",
    )


def test_a_span_stands_beside_the_right_one() -> None:
    example = {
        "question": "who?",
        "context": "ann met the old bob",
        "answers": [{"text": "the old bob", "start": 8}],
    }
    spans = task(SpanExtraction)
    wrong = case(spans, {"text": "bob", "start": 16, "end": 19, "score": 0.5}, example)
    # bob, against old bob: articles do not count.
    assert wrong == Case(
        id="7",
        text=example["context"],
        said="bob",
        right="the old bob",
        claims=(Claim(0.5, False),),
        wrong=("another part, with words in common",),
        loss=wrong.loss,
        asked="who?",
        marks=(Mark(8, 19, "right answer", "missed"),),
    )
    assert wrong.loss == pytest.approx((1 - 2 / 3) * 1.5)
    right = case(spans, {"text": "the old bob", "start": 8, "end": 19, "score": 0.9}, example)
    assert (right.wrong, right.loss, right.marks) == ((), 0.0, (Mark(8, 19, "said", "right"),))


def test_an_answer_where_there_is_none_and_none_where_there_is_one() -> None:
    spans = task(SpanExtraction, no_answer=True)
    example = {"question": "who?", "context": "ann met bob", "answers": []}
    found = case(spans, {"text": "ann", "start": 0, "end": 3, "score": 0.5}, example)
    assert (found.wrong, found.right) == (("answered where there is no answer",), "no answer")
    example["answers"] = [{"text": "ann", "start": 0}]
    found = case(spans, {"text": "", "start": None, "end": None, "score": 0.5}, example)
    assert found.wrong == ("no answer where there is one",)
    assert found.marks == (Mark(0, 3, "right answer", "missed"),)


def test_choices_have_probabilities() -> None:
    example = {"context": "ann met bob.", "prefix": "he", "choices": ["ran", "sat"], "label": 1}
    found = case(
        task(MultipleChoice, choices=2), {"label": 0, "probabilities": [0.75, 0.25]}, example
    )
    assert found == Case(
        id="7",
        text="ann met bob. he",
        said="ran",
        right="sat",
        claims=(Claim(0.75, False),),
        wrong=("another choice",),
        loss=found.loss,
        options=(Option("ran", 0.75, False), Option("sat", 0.25, True)),
    )
    assert found.loss == pytest.approx(-np.log(0.25))


def test_a_class_taken_for_another_and_several_classes() -> None:
    shares = {"good": 0.75, "bad": 0.25}
    found = case(
        task(SequenceClassification, ["good", "bad"]),
        {"label": "good", "probabilities": shares},
        {"text": "a film", "text_pair": "a book", "label": "bad"},
    )
    assert (found.text, found.wrong) == ("a film / a book", ("bad taken for good",))
    assert (found.claims, found.loss) == ((Claim(0.75, False),), pytest.approx(-np.log(0.25)))
    found = case(
        task(SequenceClassification, ["good", "bad"], mode="multi_label"),
        {"label": ["good"], "probabilities": shares},
        {"text": "a film", "label": ["good", "bad"]},
    )
    assert (found.said, found.right, found.wrong) == ("good", "good, bad", ("missed bad",))
    assert found.claims == (Claim(0.75, True), Claim(0.75, False))
    assert found.loss == pytest.approx(-np.log(0.75) - np.log(0.25))


def test_of_many_rows_the_worst_are_kept_and_all_are_counted() -> None:
    cases = [
        Case(
            str(at),
            "text",
            "a",
            "b",
            (Claim(0.5, at % 2 == 0),),
            ("b taken for a",) * (at % 2),
            loss=at,
        )
        for at in range(100)
    ]
    found = mistakes_of(cases, lambda rows: rows.sum(0, keepdims=True))
    assert (found.n, found.wrong, found.kinds) == (100, 50, {"b taken for a": 50})
    assert [own.id for own in found.worst] == [str(99 - 2 * at) for at in range(WORST)]
    assert Mistakes.from_json(json.loads(json.dumps(found.as_json()))) == found


def test_the_calibration_error_is_the_equation_of_the_paper() -> None:
    rng = np.random.default_rng(0)
    sure, right = rng.random(200), rng.random(200) < 0.7
    cases = [
        Case(str(at), "", "", "", (Claim(float(sure[at]), bool(right[at])),)) for at in range(200)
    ]
    own = mistakes_of(cases, lambda rows: rows.sum(0, keepdims=True)).reliability
    assert own is not None
    # Guo et al. 2017, equation 3, bin by bin.
    bins = [(sure >= at / BINS) & (sure < (at + 1) / BINS) for at in range(BINS)]
    expected = sum(b.sum() / 200 * abs(right[b].mean() - sure[b].mean()) for b in bins if b.any())
    assert own.ece == pytest.approx(expected, abs=1e-12)
    assert own.counts == tuple(int(b.sum()) for b in bins)
    assert own.right == tuple(int(right[b].sum()) for b in bins)
    assert own.low == own.high == own.ece


def test_the_interval_is_over_rows() -> None:
    choices = task(MultipleChoice, choices=2)
    rng = np.random.default_rng(0)
    examples = [
        {"id": str(at), "context": "a", "prefix": "", "choices": ["b", "c"], "label": 0}
        for at in range(60)
    ]
    labels = (rng.random(60) < 0.3).astype(int).tolist()
    said = [
        {"id": str(at), "label": label, "probabilities": [0.6 - 0.2 * label, 0.4 + 0.2 * label]}
        for at, label in enumerate(labels)
    ]
    found = mistakes(choices, said, examples)
    assert found is not None
    assert found.reliability is not None
    assert found.reliability.low < found.reliability.ece < found.reliability.high
    assert mistakes(choices, said, examples, seed=0) == found
    assert mistakes(choices, [], []) is None


def test_a_confidence_of_one_falls_into_the_last_bin_and_nothing_claimed_has_no_curve() -> None:
    sure = Case("0", "", "", "", (Claim(1.0, True),))
    found = mistakes_of([sure], lambda rows: rows.sum(0, keepdims=True)).reliability
    assert found is not None
    assert found.counts == (*[0] * (BINS - 1), 1)
    assert mistakes_of([replace(sure, claims=())], lambda rows: rows).reliability is None


def test_a_long_text_is_cut_around_what_is_marked() -> None:
    text = "x" * 1000 + "ann" + "y" * 1000
    found = shortened(Case("0", text, "", "", (), marks=(Mark(1000, 1003, "per", "right"),)))
    (mark,) = found.marks
    assert found.text[mark.start : mark.end] == "ann"
    assert len(found.text) == LONGEST + 2
    assert (found.text[0], found.text[-1]) == ("…", "…")
    short = Case("0", "ann", "", "", ())
    assert shortened(short) is short


def test_marks_do_not_overlap() -> None:
    found = apart([Mark(5, 9, "b", "missed"), Mark(0, 6, "a", "wrong"), Mark(1, 5, "c", "wrong")])
    assert [asdict(mark) for mark in found] == [
        asdict(Mark(0, 6, "a", "wrong")),
        asdict(Mark(6, 9, "b", "missed")),
    ]

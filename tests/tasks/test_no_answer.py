"""Questions without an answer: SQuAD 2.0's rules, written plainly."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from weft.tasks.contract import Example, Prediction, Task, TaskSpec
from weft.tasks.kinds import kinds
from weft.tasks.scoring import score
from weft.tasks.squad import normalised

CONTEXT = "Amsterdam's canals were dug in the 17th century, mostly by hand. " * 3
ROW = {"id": "q", "question": "Who dug them?", "context": CONTEXT, "answers": []}
words = st.lists(st.sampled_from(["The", "an", "cat", "Cat,", "dog", "--", "U.S."]), max_size=4)


def plain(no_answer: bool = True, **spec: object) -> Task:
    options = {"no_answer": no_answer, **spec.pop("options", {})}
    full = {"name": "tried", "kind": "span_extraction", "options": options, **spec}
    return kinds.load("span_extraction")(TaskSpec.model_validate(full))


def example(answers: list[str]) -> Example:
    return {"id": "-", "answers": [{"text": text, "start": 0} for text in answers]}


def said(span: str, odds: float, threshold: float = 0.0) -> Prediction:
    """What `decode` says of a best span and the log-odds of no answer."""
    text = "" if odds > threshold else span
    return {"text": text, "null_log_odds": odds, "n_best": [{"text": span}]}


def official(text: str, answers: list[str]) -> tuple[float, float]:
    """Exact match and F1 of one row by the paper's script, in other words."""
    right = [answer for answer in answers if normalised(answer)] or [""]
    exact, overlap = 0.0, 0.0
    for answer in right:
        a, b = normalised(text).split(), normalised(answer).split()
        exact = max(exact, float(a == b))
        common = sum((Counter(a) & Counter(b)).values())
        if not a or not b:
            overlap = max(overlap, float(a == b))
        elif common:
            precision, recall = common / len(a), common / len(b)
            overlap = max(overlap, 2 * precision * recall / (precision + recall))
    return exact, overlap


rows_drawn = st.lists(
    st.tuples(
        words.filter(len).map(" ".join),
        st.lists(words.filter(len).map(" ".join), max_size=2),
        st.floats(-9, 9, width=32),
    ),
    min_size=1,
    max_size=9,
)


@settings(deadline=None)
@given(rows_drawn)
@pytest.mark.filterwarnings("ignore:.*(HasAns|NoAns).* is undefined:UserWarning")
def test_scores_are_those_of_the_official_script(
    drawn: list[tuple[str, list[str], float]],
) -> None:
    examples = [example(answers) for _, answers, _ in drawn]
    predictions = [said(span, odds) for span, _, odds in drawn]
    found = {k: v.value for k, v in score(plain(), predictions, examples, resamples=0).items()}
    own = [
        official(p["text"], answers) for p, (_, answers, _) in zip(predictions, drawn, strict=True)
    ]
    has = np.array([bool(answers) for _, answers, _ in drawn])
    expected = {}
    for at, (name, whole) in enumerate((("exact", "exact_match"), ("f1", "f1"))):
        values = np.array([pair[at] for pair in own])
        expected[whole] = values.mean()
        expected[f"HasAns_{name}"] = values[has].mean() if has.any() else 0.0
        expected[f"NoAns_{name}"] = values[~has].mean() if not has.all() else 0.0
        spans = np.array([official(span, answers)[at] for span, answers, _ in drawn])
        odds = np.array([o for _, _, o in drawn])
        tried = [
            np.where(odds > limit, ~has, has * spans).mean()
            for limit in [-np.inf, *np.unique(odds)]
        ]
        expected[f"best_{name}"] = max(tried)
        limit = found.pop(f"best_{name}_thresh")
        again = np.where(odds > limit, ~has, has * spans).mean()
        assert again == pytest.approx(max(tried))
    assert found == pytest.approx(expected)


def test_every_resample_has_its_own_best_threshold() -> None:
    generator = np.random.default_rng(0)
    drawn = [
        (
            "cat" if generator.random() < 0.5 else "dog",
            ["cat"] * int(generator.random() < 0.6),
            float(odds),
        )
        for odds in generator.normal(size=60)
    ]
    examples = [example(answers) for _, answers, _ in drawn]
    predictions = [said(span, odds) for span, _, odds in drawn]
    found = score(plain(), predictions, examples, resamples=40, seed=5, level=0.8)["best_f1"]
    picked = np.random.default_rng(5).integers(60, size=(40, 60))
    again = [
        score(plain(), [predictions[i] for i in rows], [examples[i] for i in rows], resamples=0)
        for rows in picked
    ]
    low, high = np.quantile([own["best_f1"].value for own in again], [0.1, 0.9])
    np.testing.assert_allclose([found.low, found.high], [low, high], rtol=1e-12)


def test_a_question_without_an_answer_aims_at_the_first_token(
    any_tokenizer: PreTrainedTokenizerFast,
) -> None:
    task = plain(max_length=48, stride=4)
    record = task.encode(task.check(ROW, "r"), any_tokenizer)
    assert len(record["input_ids"]) > 1
    assert record["labels"] == [[0, 0]] * len(record["input_ids"])


def outputs(
    task: Task, tokenizer: PreTrainedTokenizerFast
) -> tuple[Example, dict, list[np.ndarray]]:
    """A row in two windows: one span of sum 5, null scores 7 and 4."""
    checked = task.check(ROW, "r")
    record = task.encode(checked, tokenizer)
    raw = [np.full((len(ids), 2), -40.0, dtype=np.float32) for ids in record["input_ids"]]
    assert len(raw) == 2
    for values, null in zip(raw, (7.0, 4.0), strict=True):
        values[0] = [null - 1, 1]
    first, _, _ = record["windows"][0]
    raw[0][first + 3] = [2, -40]
    raw[0][first + 4] = [-40, 3]
    return checked, record, raw


@pytest.mark.parametrize(
    ("threshold", "text"), [(None, "canals were"), (-0.99, "canals were"), (-1.01, "")]
)
def test_the_least_null_score_of_all_windows_stands_against_the_best_span(
    threshold: float | None, text: str, tokenizer: PreTrainedTokenizerFast
) -> None:
    task = plain(max_length=32, stride=4, options={"null_threshold": threshold, "n_best_kept": 1})
    prediction = task.decode(*outputs(task, tokenizer))
    # Spans of one chosen and one other token are 40 below, so that two sums share nearly all.
    none = 1 / (1 + np.e)
    assert prediction["null_log_odds"] == -1.0
    assert prediction["no_answer"] == pytest.approx(none, rel=1e-12)
    (best,) = prediction["n_best"]
    assert best == {"text": "canals were", "start": 12, "end": 23, "score": pytest.approx(1 - none)}
    expected = (
        best if text else {"text": "", "start": None, "end": None, "score": pytest.approx(none)}
    )
    assert {key: prediction[key] for key in expected} == expected


def test_the_threshold_is_chosen_for_f1_and_never_over_the_user_s() -> None:
    examples = [example(["cat"]), example([]), example(["cat"])]
    predictions = [said("cat", 1.5), said("dog", 3.0), said("cat", -1.0)]
    tuned = plain().tuned(predictions, examples)
    assert tuned.spec.options == {"no_answer": True, "null_threshold": 1.5}
    own = plain(options={"null_threshold": -4.0})
    assert own.tuned(predictions, examples) is own
    assert plain(no_answer=False).tuned(predictions, examples).spec.options == {"no_answer": False}
    assert plain().with_found(tuned.spec.options).spec == tuned.spec
    assert own.with_found(tuned.spec.options) is own


def test_a_threshold_without_its_option_is_refused() -> None:
    with pytest.raises(ValueError, match="set no_answer: true with it"):
        plain(no_answer=False, options={"null_threshold": 1.0})


def test_scores_of_no_answer_can_be_selected_on_where_there_are_such() -> None:
    assert plain(metrics=["best_f1"]).metric == "best_f1"
    with pytest.raises(ValueError, match="metrics: no score named 'best_f1'"):
        plain(no_answer=False, metrics=["best_f1"])


def test_rows_of_one_sort_have_scores_and_the_others_are_said_to_be_undefined() -> None:
    with pytest.warns(UserWarning, match="HasAns_(exact|f1) is undefined for these 1 rows"):
        found = score(plain(), [said("cat", 2.0)], [example([])], resamples=0)
    assert (found["NoAns_f1"].value, found["HasAns_f1"].value) == (1.0, 0.0)

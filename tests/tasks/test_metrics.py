"""The arithmetic of scores."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics.sequence_labeling import get_entities

from weft.tasks.metrics import entities_of, f1, gold, language_scores, ratio, softmax

TAGS = ["O", "B-a", "I-a", "B-b", "I-b", "B-a-b", "I-a-b"]


def test_ratios_of_nothing_are_what_the_caller_says() -> None:
    np.testing.assert_array_equal(ratio([1, 0, 3], [2, 0, 0]), [0.5, 0, 0])
    np.testing.assert_array_equal(ratio([[1.0], [2.0]], [2, 0], empty=7), [[0.5, 7], [1, 7]])


def test_f1_is_the_harmonic_mean() -> None:
    precision, recall = 3 / 5, 3 / 4
    np.testing.assert_allclose(f1(3, 5, 4), 2 * precision * recall / (precision + recall))
    assert f1(0, 0, 0) == 0


def test_softmax_survives_large_logits() -> None:
    np.testing.assert_allclose(softmax(np.array([1e4, 1e4 + np.log(3)])), [0.25, 0.75])


def test_language_scores_are_exp_and_bits() -> None:
    scores = language_scores(np.array([[4 * np.log(8), 4, 6], [0, 0, 0], [1e6, 1, 1]]))
    np.testing.assert_allclose(scores["perplexity"], [8, np.nan, np.inf])
    np.testing.assert_allclose(scores["bits_per_byte"], [2, np.nan, 1e6 / np.log(2)])


def test_gold_that_is_missing_is_an_error() -> None:
    assert gold({"id": "a", "label": 0}, "label") == 0
    with pytest.raises(ValueError, match="row 'a' has no 'label': it can be predicted, not scored"):
        gold({"id": "a", "label": None}, "label")


@given(st.lists(st.sampled_from(TAGS)))
def test_entities_are_those_of_seqeval(tags: list[str]) -> None:
    assert entities_of(tags) == get_entities(tags)

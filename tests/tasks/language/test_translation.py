"""BLEU and chrF."""

import pytest
import sacrebleu

from weft.tasks.language.translation import translation_scores

SAID = ["the cat sat on the mat today", "a dog ran home", "he went to the big city"]
RIGHT = ["the cat sat on a mat today", "the dog ran home", "he went into the big city"]


def test_scores_are_those_of_sacrebleu() -> None:
    found = translation_scores(SAID, RIGHT, resamples=100)
    assert found["bleu"].score.value == sacrebleu.corpus_bleu(SAID, [RIGHT]).score / 100
    assert found["chrf"].score.value == sacrebleu.corpus_chrf(SAID, [RIGHT]).score / 100
    for own in found.values():
        assert 0 < own.score.low < own.score.high < 1
        assert "bs:100|seed:12345" in own.signature
        assert sacrebleu.__version__ in own.signature
    again = translation_scores(RIGHT, RIGHT, resamples=0)
    assert again["bleu"].score.value == pytest.approx(1)
    assert again["chrf"].score.low == again["chrf"].score.high == pytest.approx(1)


def test_a_reference_for_each_is_needed() -> None:
    with pytest.raises(ValueError, match="3 translations and 2 references"):
        translation_scores(SAID, RIGHT[:2])
    with pytest.raises(ValueError, match="0 translations and 0 references"):
        translation_scores([], [])

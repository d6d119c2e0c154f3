"""Letters of other scripts."""

import pytest

from weft.tasks.language.scripts import script_leakage

URDU = "\u06cc\u06c1 \u0627\u0686\u06be\u0627 \u06c1\u06d2"


def test_latin_text_leaks_nothing() -> None:
    found = script_leakage(
        ["Zo\u00eb said 1,5 \u20ac: \u00f1and\u00fa, \u00b5m!", "\u00aa \u00ba"], ["Latin"]
    )
    assert (found.letters, found.texts.value) == (0.0, 0.0)


def test_letters_and_texts_that_leak_are_counted() -> None:
    texts = ["the city", "the \u0433\u043e\u0440\u043e\u0434 \u65e5", URDU, "12"]
    found = script_leakage(texts, ["Latin"])
    urdu = sum(character.isalpha() for character in URDU)
    assert found.letters == (5 + 1 + urdu) / (7 + 3 + 6 + urdu)
    assert found.texts.value == 2 / 4
    both = script_leakage(texts, ["Latin", "Arabic"])
    assert both.letters == 6 / (7 + 3 + 6 + urdu)
    assert both.texts.value == 1 / 4
    assert 0 < both.texts.low < 1 / 4 < both.texts.high < 1


def test_text_without_letters_leaks_nothing() -> None:
    assert script_leakage(["12 34"], ["Latin"]).letters == 0.0


def test_what_is_no_script_is_refused() -> None:
    with pytest.raises(ValueError, match="'Galician' is no script of Unicode's"):
        script_leakage(["a"], ["Galician"])
    with pytest.raises(ValueError, match="no script is allowed"):
        script_leakage(["a"], [])
    with pytest.raises(ValueError, match="no texts"):
        script_leakage([], ["Latin"])

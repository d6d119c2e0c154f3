"""Sums of models as text: what they come to, and what is refused."""

import re

import pytest

from weft.merging.expression import LONGEST, parse


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("base + 1.0*A + 1.0*(B - base)", {"base": 0.0, "A": 1.0, "B": 1.0}),
        ("base + 0.5*(B - base)", {"base": 0.5, "B": 0.5}),
        ("-(A - 2*'a b/c-d')/4", {"A": -0.25, "a b/c-d": 0.5}),
        ("runs/lang*0.3 + runs.x/y", {"runs/lang": 0.3, "runs.x/y": 1.0}),
        ("(1 + 1) * A - A", {"A": 1.0}),
        ('+"org/chat-7b"', {"org/chat-7b": 1.0}),
        ("A / B / 2", {"A/B": 0.5}),
        ("0 * A + B", {"A": 0.0, "B": 1.0}),
    ],
)
def test_terms_are_collected(text: str, wanted: dict[str, float]) -> None:
    assert parse(text) == wanted
    assert list(parse(text)) == list(wanted)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("A + ", "cannot be read"),
        ("A B", "cannot be read at character"),
        ("", "cannot be read"),
        ("A * B", "are not multiplied"),
        ("A + 1", "1 stands alone"),
        ("3", "3 stands alone"),
        ("0", "names no model"),
        ("2 / A", "divide by a number"),
        ("1e999 * A", "every number is a finite one"),
        ("A / 0", "divide by a number"),
        ("A ** 2", "'A ** 2' is none of"),
        ("f(A)", "is none of"),
        ("A if B else C", "is none of"),
        ("A + True", "'True' is none of"),
        ("A" * (LONGEST + 1), "write at most"),
    ],
)
def test_what_is_no_sum_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        parse(text)

"""Word errors against the definition, tried out."""

from functools import cache
from itertools import product

import pytest

from weft.tasks.language.edits import edits


@cache
def fewest(said: tuple[str, ...], right: tuple[str, ...]) -> int:
    """The definition: of all ways to begin, the cheapest."""
    if not said or not right:
        return len(said) + len(right)
    return min(
        1 + fewest(said[1:], right),
        1 + fewest(said, right[1:]),
        (said[0] != right[0]) + fewest(said[1:], right[1:]),
    )


def test_every_pair_of_short_texts_has_the_fewest_edits() -> None:
    texts = [text for length in range(5) for text in product("ab", repeat=length)]
    for said, right in product(texts, texts):
        assert edits(said, right) == fewest(said, right), (said, right)


@pytest.mark.parametrize(
    ("said", "right", "expected"),
    [
        ("one two three", "one two three", 0),
        ("one three", "one two three", 1),
        ("one one two three", "one two three", 1),
        ("one four three", "one two three", 1),
        ("", "one two", 2),
    ],
)
def test_an_omission_an_insertion_and_a_substitution_are_one_each(
    said: str, right: str, expected: int
) -> None:
    assert edits(said.split(), right.split()) == expected

"""Words, windows and limits."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from weft.tasks.text import (
    encoding_of,
    extent,
    fit,
    most_context,
    whole_number,
    windows,
    word_windows,
)


@pytest.fixture(scope="module")
def tokenizer(tiny_folder: Callable[[str], Path]) -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(tiny_folder("bert"))


@pytest.mark.parametrize(
    ("value", "number"),
    [(2, 2), ("2", 2), (" -1 ", -1), ("x", None), ("1.0", None), (1.0, None), (True, None)],
    ids=repr,
)
def test_whole_numbers_are_ints_or_their_digits(value: object, number: int | None) -> None:
    assert whole_number(value) == number


lengths = st.integers(1, 200)


@given(lengths, st.integers(1, 40), st.integers(0, 39))
def test_windows_cover_all_tokens_and_share_the_stride(length: int, room: int, stride: int) -> None:
    if stride >= room and length > room:
        with pytest.raises(ValueError, match="more than the stride"):
            windows(length, room, stride, "row")
        return
    found = windows(length, room, stride, "row")
    assert found[0][0] == 0
    assert found[-1][1] == length
    assert all(end - start <= room for start, end in found)
    assert all(end - start == room for start, end in found[:-1])
    assert [a[1] - b[0] for a, b in pairwise(found)] == [stride] * (len(found) - 1)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=60), st.integers(9, 20), st.integers(0, 8))
def test_windows_of_words_cover_all_and_fit(sizes: list[int], room: int, stride: int) -> None:
    found = word_windows(sizes, room, stride, "row")
    assert found[0][0] == 0
    assert found[-1][1] == len(sizes)
    assert all(sum(sizes[start:end]) <= room for start, end in found)
    for (start, end), (later, later_end) in pairwise(found):
        assert start < later <= end < later_end
        assert sum(sizes[later:end]) <= stride


def test_windows_of_words_share_as_much_as_the_stride_allows() -> None:
    assert word_windows([2, 2, 2, 2, 2, 2], 8, 4, "row") == [(0, 4), (2, 6)]
    assert word_windows([2, 2, 2, 8, 2], 8, 5, "row") == [(0, 3), (3, 4), (4, 5)]


def is_max_context(spans: list[tuple[int, int]], number: int, position: int) -> bool:
    """`_check_is_max_context` of google-research/bert, run_squad.py, as published."""
    best_score, best_index = None, None
    for index, (start, end) in enumerate(spans):
        length = end - start
        if position < start or position > start + length - 1:
            continue
        score = min(position - start, start + length - 1 - position) + 0.01 * length
        if best_score is None or score > best_score:
            best_score, best_index = score, index
    return number == best_index


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 12)), max_size=5))
def test_most_context_is_as_in_run_squad(later: list[tuple[int, int]]) -> None:
    spans = [(0, 33), *((start, start + size) for start, size in later)]
    owner = most_context(spans, 33)
    assert all(is_max_context(spans, owner[place], place) for place in range(33))


def test_the_longer_window_wins_a_tie() -> None:
    assert most_context([(0, 6), (3, 13)], 13).tolist() == [0] * 4 + [1] * 9


@given(st.lists(st.sampled_from(["the", "river", "xq"]), min_size=1, max_size=30), st.data())
def test_the_longer_text_is_cut_from_its_end(
    tokenizer: PreTrainedTokenizerFast, first: list[str], data: st.DataObject
) -> None:
    second = data.draw(st.lists(st.sampled_from(["man", "zq"]), min_size=1, max_size=30))
    encoding = encoding_of(tokenizer, " ".join(first), " ".join(second))
    limit = data.draw(st.integers(5, 70))
    kept = fit(encoding, limit, True, "row")
    assert len(kept) == min(limit, len(encoding))
    owners = [encoding.sequence_ids[place] for place in kept]
    whole = [encoding.sequence_ids.count(0), encoding.sequence_ids.count(1)]
    left = [owners.count(0), owners.count(1)]
    cut = [a - b for a, b in zip(whole, left, strict=True)]
    assert owners.count(None) == 3
    for mine, other in ((0, 1), (1, 0)):
        start = extent(encoding, mine, "text")[0]
        assert [p for p in kept if encoding.sequence_ids[p] == mine] == list(
            range(start, start + left[mine])
        )
        # What was cut was the longer one, or as long as the other.
        assert not cut[mine] or left[mine] >= left[other] - 1


def test_a_limit_without_room_for_text_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    encoding = encoding_of(tokenizer, "the river", "the man")
    with pytest.raises(ValueError, match="row: max_length 4 leaves no room"):
        fit(encoding, 4, True, "row")

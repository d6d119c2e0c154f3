"""Texts as tokens: what the kinds of task share when they check and encode rows.

Nothing here is cut unless asked: limits are applied to whole encodings, so that the settings for
padding and truncation that some tokenizers carry in their files never matter.
"""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    from tokenizers import Encoding
    from transformers import PreTrainedTokenizerFast

UNLABELLED = -100
"""Label of a token that no loss and no score looks at, as in transformers and torch."""

Value = TypeVar("Value")


def trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """Where `text[start:end]` begins and ends without the white space around it; (end, end) where nothing is left."""
    inner = text[start:end]
    start = end - len(inner.lstrip())
    return start, start + len(inner.strip())


def identity(example: Mapping[str, Any], where: str) -> str:
    """The row's `id` as a string.

    Raises:
        ValueError: If the row has none.
    """
    if example.get("id") is None:
        raise ValueError(f"{where}: column 'id' is missing; every row needs one")
    return str(example["id"])


def text_of(example: Mapping[str, Any], column: str, where: str) -> str:
    """The text in a column.

    Raises:
        ValueError: If the column is missing, is not text, is empty, or is not valid Unicode;
            starting with `where`.
    """
    if example.get(column) is None:
        raise ValueError(f"{where}: column {column!r} is missing; the row has {sorted(example)}")
    return valid_text(example[column], repr(column), where)


def valid_text(value: object, name: str, where: str) -> str:
    """`value` if it is text with something in it, else ValueError starting with `where`."""
    if not isinstance(value, str):
        raise ValueError(f"{where}: {name} must be text, got {value!r}")
    if not value.strip():
        raise ValueError(f"{where}: {name} is empty")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError(f"{where}: {name} is not valid Unicode: it holds half a surrogate pair")
    return value


def whole_number(value: object) -> int | None:
    """An int, or a string of digits as files hold it, as an int; None for anything else."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and re.fullmatch(r"\s*-?[0-9]+\s*", value):
        return int(value)
    return None


def encoding_of(
    tokenizer: "PreTrainedTokenizerFast",
    text: str,
    pair: str | None = None,
    *,
    special: bool = True,
) -> "Encoding":
    """All tokens of a text or a pair, with what the tokenizer adds unless `special` is off; never cut or padded."""
    backend = tokenizer.backend_tokenizer
    if backend.truncation is not None:
        backend.no_truncation()
    if backend.padding is not None:
        backend.no_padding()
    return backend.encode(text, pair, add_special_tokens=special)


def extent(encoding: "Encoding", segment: int, name: str) -> tuple[int, int]:
    """Where a text (0) or its pair (1) begins and ends, in tokens; added tokens are outside.

    Raises:
        ValueError: If the text has no tokens, e.g. because it consists of control characters.
    """
    owners = encoding.sequence_ids
    if segment not in owners:
        raise ValueError(f"{name} has no tokens: the tokenizer drops all its characters")
    return owners.index(segment), len(owners) - owners[::-1].index(segment)


def fit(encoding: "Encoding", max_length: int, truncate: bool, row: str) -> list[int]:
    """Positions of the tokens that a sequence of at most `max_length` keeps.

    The longer text loses tokens from its end until all fits, the first of a pair where both are
    equally long.

    Raises:
        ValueError: If it is too long and `truncate` is off, or if nothing would be left of a text.
    """
    total = len(encoding)
    if total <= max_length:
        return list(range(total))
    if not truncate:
        raise ValueError(
            f"{row}: {total} tokens, more than max_length {max_length}; raise max_length, or set "
            "truncate: true to cut the end of the longer text"
        )
    spans = [extent(encoding, segment, row) for segment in range(encoding.n_sequences)]
    sizes = [end - start for start, end in spans]
    room = max_length - (total - sum(sizes))
    if room < len(sizes):
        raise ValueError(f"{row}: max_length {max_length} leaves no room for text")
    if len(sizes) == 1:
        kept = [room]
    else:
        first = min(sizes[0], max(room // 2, room - sizes[1]))
        kept = [first, room - first]
    cut = {
        position
        for (start, end), size in zip(spans, kept, strict=True)
        for position in range(start + size, end)
    }
    return [position for position in range(total) if position not in cut]


def windows(length: int, room: int, stride: int, row: str) -> list[tuple[int, int]]:
    """Spans of at most `room` tokens that cover `length` tokens; neighbours share `stride` tokens.

    Raises:
        ValueError: If `room` is not positive, or windows are needed and `stride` leaves no
            progress.
    """
    if 0 < length <= room:
        return [(0, length)]
    _require_progress(room, stride, row)
    starts = range(0, length - stride, room - stride)
    return [(start, min(start + room, length)) for start in starts]


def _require_progress(room: int, stride: int, row: str) -> None:
    if room <= stride:
        raise ValueError(
            f"{row}: max_length leaves {room} tokens of text for a window, which must be more than "
            f"the stride {stride}; raise max_length or lower stride"
        )


def word_starts(tokens: Sequence[str]) -> np.ndarray:
    """Where each word begins in `" ".join(tokens)`."""
    steps = np.array([len(word) + 1 for word in tokens], dtype=np.int64)
    return np.cumsum(steps) - steps


def word_windows(sizes: list[int], room: int, stride: int, row: str) -> list[tuple[int, int]]:
    """Spans of whole words of at most `room` tokens; neighbours share at most `stride` tokens."""
    if room < 1 or sum(sizes) > room:
        _require_progress(room, stride, row)
    spans: list[tuple[int, int]] = []
    first, used = 0, 0
    for word, size in enumerate(sizes):
        if used + size > room:
            spans.append((first, word))
            oldest, first, used = first, word, 0
            while (
                first - 1 > oldest
                and used + sizes[first - 1] <= stride
                and used + sizes[first - 1] + size <= room
            ):
                first -= 1
                used += sizes[first]
        used += size
    return [*spans, (first, len(sizes))]


def most_context(spans: Sequence[tuple[int, int]], length: int) -> np.ndarray:
    """For each of `length` tokens the window that shows most of its context, (length,) int64.

    Context is the distance to the nearer end of the window; longer windows win ties, then earlier
    ones, as in `_check_is_max_context` of google-research/bert, run_squad.py.
    """
    best = np.full(length, -np.inf)
    owner = np.zeros(length, dtype=np.int64)
    for number, (start, end) in enumerate(spans):
        inside = np.arange(end - start)
        score = np.minimum(inside, inside[::-1]) + 0.01 * (end - start)
        better = score > best[start:end]
        best[start:end][better] = score[better]
        owner[start:end][better] = number
    return owner


def pick(values: Sequence[Value], rows: Sequence[Sequence[int]]) -> list[list[Value]]:
    """`values` at the positions of each row."""
    return [[values[position] for position in row] for row in rows]


def sequences(
    tokenizer: "PreTrainedTokenizerFast", encoding: "Encoding", rows: Sequence[Sequence[int]]
) -> dict[str, list[list[int]]]:
    """The model inputs of a record: `input_ids` and, where the base has them, `token_type_ids`.

    Args:
        tokenizer: Knows which inputs its model takes.
        encoding: All tokens.
        rows: Positions in `encoding` of each sequence's tokens.
    """
    inputs = {"input_ids": pick(encoding.ids, rows)}
    if "token_type_ids" in tokenizer.model_input_names:
        inputs["token_type_ids"] = pick(encoding.type_ids, rows)
    return inputs

"""Rows become batches without loss, whatever their tasks and lengths."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.model.batching import (
    BUCKET,
    SMALL_TOKENS,
    SPREAD,
    Item,
    collate,
    epoch_batches,
    pieces,
    record_of,
)
from weft.model.heads.contract import IGNORE

PAD = 99
KINDS_BY_HEAD = {
    "choice": "multiple_choice",
    "spans": "span_extraction",
    "text": "sequence_classification",
    "words": "token_classification",
}


def item(head: str, lengths: list[int], first: int = 1, types: bool = True) -> Item:
    """A row whose tokens count up from `first`; members are its head's and a shared expert."""
    rows = [list(range(first + 10 * at, first + 10 * at + n)) for at, n in enumerate(lengths)]
    labels = {
        "choice": first % 2,
        "spans": [[0, n - 1] for n in lengths],
        "text": first % 3,
        "words": [[IGNORE, *range(n - 1)] for n in lengths],
    }[head]
    record = {"id": f"{head}{first}", "input_ids": rows, "labels": labels}
    if types:
        record["token_type_ids"] = [[at % 2] * n for at, n in enumerate(lengths)]
    return Item(head, KINDS_BY_HEAD[head], (head, "shared"), record)


MIXED = [
    item("words", [4], 1),
    item("choice", [3, 5], 2),
    item("words", [2, 6], 3),
    item("text", [7], 4),
    item("choice", [2, 2], 5),
]


def test_rows_of_one_head_lie_together_in_the_order_given() -> None:
    batch = collate(MIXED, PAD)
    parts = {part.head: part for part in batch.parts}
    assert [part.head for part in batch.parts] == ["choice", "text", "words"]
    assert [(part.start, part.stop) for part in batch.parts] == [(0, 4), (4, 5), (5, 8)]
    assert [part.rows for part in batch.parts] == [(1, 4), (3,), (0, 2)]
    assert parts["choice"].sequences_per_row == (2, 2)
    assert parts["words"].sequences_per_row == (1, 2)
    assert parts["words"].lengths == ((4,), (2, 6))
    assert [part.width for part in batch.parts] == [5, 7, 6]
    assert [part.kind for part in batch.parts] == [KINDS_BY_HEAD[part.head] for part in batch.parts]


def test_tensors_hold_each_sequence_and_padding_behind_it() -> None:
    batch = collate(MIXED, PAD)
    order = [row for part in batch.parts for row in part.rows]
    records = [MIXED[row].record for row in order]
    for name, pad in (("input_ids", PAD), ("token_type_ids", 0)):
        sequences = [ids for record in records for ids in record[name]]
        expected = [ids + [pad] * (7 - len(ids)) for ids in sequences]
        assert batch.inputs[name].tolist() == expected
        assert batch.inputs[name].dtype == torch.int64
    lengths = [len(ids) for record in records for ids in record["input_ids"]]
    assert batch.inputs["attention_mask"].tolist() == [[1] * n + [0] * (7 - n) for n in lengths]
    assert batch.tokens == sum(lengths)


def test_labels_are_as_wide_as_their_own_part() -> None:
    choice, text, words = collate(MIXED, PAD).parts
    assert choice.labels.tolist() == [0, 1]
    assert text.labels.tolist() == [1]
    assert words.labels.tolist() == [
        [IGNORE, 0, 1, 2, IGNORE, IGNORE],
        [IGNORE, 0, IGNORE, IGNORE, IGNORE, IGNORE],
        [IGNORE, 0, 1, 2, 3, 4],
    ]
    assert [part.labels for part in collate(MIXED, PAD, labels=False).parts] == [None] * 3
    unlabelled = Item("text", "sequence_classification", ("text",), record_of(MIXED[3].record))
    assert "labels" not in unlabelled.record
    assert "labels" in MIXED[3].record
    assert collate([MIXED[3], unlabelled], PAD).parts[0].labels is None


def test_the_route_gives_each_sequence_its_rows_experts() -> None:
    batch = collate(MIXED, PAD)
    assert [batch.route.members[number] for number in batch.route.choice or ()] == [
        *[("choice", "shared")] * 4,
        ("text", "shared"),
        *[("words", "shared")] * 3,
    ]
    assert collate([MIXED[0], MIXED[2]], PAD).route.choice is None


def test_choices_are_answered_together_and_windows_apart() -> None:
    batch = collate([item("spans", [3, 4], 1), *MIXED], PAD)
    assert [part.head for part in batch.parts] == ["choice", "spans", "text", "words"]
    assert batch.route.rows == (0, 0, 2, 2, 4, 5, 6, 7, 8, 9)
    assert collate([MIXED[0], MIXED[2]], PAD).route.rows is None


def test_a_row_s_state_goes_with_each_of_its_sequences_wherever_they_lie() -> None:
    states = [[float(at)] if at % 2 else None for at in range(len(MIXED))]
    rows = [
        replace(own, record=own.record if state is None else {**own.record, "state": state})
        for own, state in zip(MIXED, states, strict=True)
    ]
    batch = collate(rows, PAD)
    wanted = [
        states[row]
        for part in batch.parts
        for row, count in zip(part.rows, part.sequences_per_row, strict=True)
        for _ in range(count)
    ]
    assert batch.route.states == tuple(wanted)
    assert {None, *map(len, filter(None, wanted))} == {None, 1}
    assert collate(MIXED, PAD).route.states is None


def test_a_base_without_token_types_gets_none() -> None:
    batch = collate([item("text", [3], types=False)], PAD)
    assert set(batch.inputs) == {"input_ids", "attention_mask"}
    assert batch.to(torch.device("cpu")) is batch


LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=150)


@settings(max_examples=50, deadline=None)
@given(
    lengths=LENGTHS,
    batch_size=st.integers(1, 9),
    seed=st.integers(0, 5),
    epoch=st.integers(0, 3),
    bucketing=st.booleans(),
)
def test_an_epoch_has_each_row_once_in_the_fewest_batches(
    lengths: list[int], batch_size: int, seed: int, epoch: int, bucketing: bool
) -> None:
    batches = epoch_batches(lengths, batch_size, seed=seed, epoch=epoch, bucketing=bucketing)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    assert len(batches) == -(-len(lengths) // batch_size)
    assert max(map(len, batches)) <= batch_size
    again = epoch_batches(lengths, batch_size, seed=seed, epoch=epoch, bucketing=bucketing)
    assert again == batches
    assert all(type(row) is int for batch in batches for row in batch)


def padding(lengths: list[int], batches: list[list[int]]) -> int:
    widths = [max(lengths[row] for row in batch) * len(batch) for batch in batches]
    return sum(widths) - sum(lengths)


@pytest.mark.parametrize("bucketing", [True, False])
def test_epochs_and_seeds_shuffle_differently(bucketing: bool) -> None:
    lengths = np.random.default_rng(0).integers(5, 60, 400).tolist()
    seen = [
        epoch_batches(lengths, 8, seed=seed, epoch=epoch, bucketing=bucketing)
        for seed in (0, 1)
        for epoch in (0, 1)
    ]
    assert len({str(batches) for batches in seen}) == 4
    # Not one sorted run: long batches are spread over the epoch.
    widths = [max(lengths[row] for row in batch) for batch in seen[0]]
    assert widths != sorted(widths)
    assert len({str(sorted(map(sorted, batches))) for batches in seen}) == 4


def test_bucketing_pads_less() -> None:
    lengths = np.random.default_rng(0).integers(5, 60, 8 * BUCKET * 2).tolist()
    plain, bucketed = (
        epoch_batches(lengths, 8, seed=0, epoch=0, bucketing=bucketing)
        for bucketing in (False, True)
    )
    assert padding(lengths, bucketed) < padding(lengths, plain) / 4


ITEMS = st.lists(
    st.tuples(
        st.sampled_from(["text", "spans"]), st.lists(st.integers(1, 300), min_size=1, max_size=2)
    ),
    min_size=1,
    max_size=25,
)


@settings(max_examples=50, deadline=None)
@given(rows=ITEMS, accumulation=st.integers(1, 8))
def test_pieces_hold_each_item_once_and_keep_their_promises(
    rows: list[tuple[str, list[int]]], accumulation: int
) -> None:
    items = [item(head, lengths, first) for first, (head, lengths) in enumerate(rows)]
    found = pieces(items, accumulation)
    assert sorted(part.record["id"] for piece in found for part in piece) == sorted(
        part.record["id"] for part in items
    )
    assert all(found)
    most = -(-len(items) // accumulation)
    assert max(map(len, found)) <= most
    assert len(found) >= -(-len(items) // most)
    for piece in found:
        lengths = [part.length for part in piece]
        assert lengths == sorted(lengths)
        for at, part in enumerate(piece):
            before = piece[:at]
            if before and part.length > SPREAD * before[0].length:
                sequences = sum(len(row.record["input_ids"]) for row in before)
                assert sequences * before[-1].length < SMALL_TOKENS


def test_a_batch_is_padded_to_a_multiple_where_the_base_has_the_positions() -> None:
    items = [item("words", [5, 11]), item("text", [3])]
    exact = collate(items, 0).inputs
    padded = collate(items, 7, multiple=8, positions=16).inputs
    for name, value in exact.items():
        assert padded[name].shape == (3, 16)
        assert torch.equal(
            padded[name][:, :11][exact["attention_mask"].bool()],
            value[exact["attention_mask"].bool()],
        )
    assert not padded["attention_mask"][:, 11:].any()
    assert (padded["input_ids"][:, 11:] == 7).all()
    assert collate(items, 0, multiple=8, positions=15).inputs["input_ids"].shape == (3, 11)
    assert collate(items, 0, multiple=8).inputs["input_ids"].shape == (3, 16)


def test_a_piece_holds_no_more_padded_tokens_than_asked_unless_it_is_one_row() -> None:
    rows = [[256] * 3, [256] * 2, [200], [256] * 20, [190], [255, 10], [256]]
    items = [item("spans", lengths, first) for first, lengths in enumerate(rows)]
    found = pieces(items, 1, 1024)
    assert sorted(part.record["id"] for piece in found for part in piece) == [
        f"spans{first}" for first in range(len(rows))
    ]
    sizes = [
        (len(piece), sum(len(row.record["input_ids"]) for row in piece) * piece[-1].length)
        for piece in found
    ]
    assert all(tokens <= 1024 or count == 1 for count, tokens in sizes)
    assert len(found) < len(rows)
    assert len(pieces(items, 1)) == 1


def test_a_long_row_does_not_pad_a_batch_of_short_ones() -> None:
    items = [*[item("text", [40], at) for at in range(10)], item("text", [300], 10)]
    assert [len(piece) for piece in pieces(items, 1)] == [10, 1]
    even = [item("text", [40 + at], at) for at in range(10)]
    assert [len(piece) for piece in pieces(even, 1)] == [10]
    assert [len(piece) for piece in pieces(even, 4)] == [3, 3, 3, 1]


def test_an_item_is_as_long_as_its_longest_sequence() -> None:
    assert item("spans", [3, 8, 5]).length == 8

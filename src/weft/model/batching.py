"""Rows into batches: which rows a step sees, in what pieces, and as what tensors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from weft.lowrank.route import Members, Route
from weft.model.heads import kind_of
from weft.model.prefix import Place, places_of
from weft.tasks.contract import Record

BUCKET = 50
"""Batches whose rows are sorted by length together; larger pads less and shuffles less."""
SPREAD = 1.6
"""A piece holds no row longer than this times its shortest, unless it is small."""
SMALL_TOKENS = 256
"""Padded tokens below which a piece takes further rows whatever their length."""
MOST_TOKENS = {"cpu": 4096}
"""Padded tokens of a piece by device type, where larger ones cost memory and are no faster; one row may have more."""


@dataclass(frozen=True)
class Item:
    """One row on its way into a batch.

    Attributes:
        head: Expert whose head answers.
        kind: That head's kind.
        members: Experts whose adapters speak for the row.
        record: The encoded row.
        class_weights: What each class counts in the loss; None is 1 everywhere.
    """

    head: str
    kind: str
    members: Members
    record: Record
    class_weights: tuple[float, ...] | None = None

    @property
    def length(self) -> int:
        """Tokens of its longest sequence."""
        return max(len(ids) for ids in self.record["input_ids"])


@dataclass(frozen=True)
class Part:
    """The rows of one head: a contiguous run of the batch's sequences."""

    head: str
    kind: str
    start: int
    stop: int
    width: int
    sequences_per_row: tuple[int, ...]
    lengths: tuple[tuple[int, ...], ...]
    """Tokens by row and sequence."""
    rows: tuple[int, ...]
    """Where each row stood among the items."""
    labels: Tensor | None
    weights: Tensor | None = None
    """What each labelled item's loss is multiplied by; None is 1 everywhere."""
    count: float = 0
    """Labelled items, or the sum of their weights."""
    places: tuple[Place, ...] = ()
    """Where its sequences have what is no text."""


@dataclass(frozen=True)
class Batch:
    """What one forward call gets: rows of any number of tasks, flattened to sequences."""

    inputs: dict[str, Tensor]
    """input_ids, attention_mask and, where the base has them, token_type_ids: (sequences, seq); position_ids where a
    sequence holds several texts, which the trunk then tells apart by them and not by the mask."""
    parts: tuple[Part, ...]
    route: Route

    def to(self, device: torch.device) -> "Batch":
        """The same batch with its tensors on `device`."""
        if device.type == "cpu":
            return self
        moved = [
            replace(
                part,
                labels=None if part.labels is None else part.labels.to(device),
                weights=None if part.weights is None else part.weights.to(device),
            )
            for part in self.parts
        ]
        inputs = {name: value.to(device) for name, value in self.inputs.items()}
        return Batch(inputs, tuple(moved), self.route)

    @property
    def tokens(self) -> int:
        """Real tokens, padding not counted."""
        return sum(length for part in self.parts for row in part.lengths for length in row)


def collate(
    items: Sequence[Item],
    pad_id: int,
    labels: bool = True,
    *,
    multiple: int = 1,
    positions: int | None = None,
) -> Batch:
    """One batch of `items`; rows are grouped by head, otherwise in the order given.

    Args:
        items: Rows of any tasks.
        pad_id: The base's padding token.
        labels: Whether to carry the rows' labels, where they have them.
        multiple: Sequences are padded to a multiple of this, if the base numbers so many positions.
        positions: How many positions the base numbers; None is any number.
    """
    order = sorted(range(len(items)), key=lambda at: items[at].head)
    sequences = [ids for at in order for ids in items[at].record["input_ids"]]
    longest = max(len(ids) for ids in sequences)
    width = -(-longest // multiple) * multiple
    if positions is not None and width > positions:
        width = longest
    inputs = {"input_ids": _padded(sequences, pad_id, width)}
    lengths = torch.tensor([len(ids) for ids in sequences])
    inputs["attention_mask"] = (
        torch.arange(inputs["input_ids"].shape[1]) < lengths.unsqueeze(1)
    ).long()
    if "token_type_ids" in items[0].record:
        types = [ids for at in order for ids in items[at].record["token_type_ids"]]
        inputs["token_type_ids"] = _padded(types, 0, width)
    if any("position_ids" in item.record for item in items):
        inputs["position_ids"] = _positions([items[at].record for at in order], width)
    parts, start = [], 0
    for head in dict.fromkeys(items[at].head for at in order):
        rows = [at for at in order if items[at].head == head]
        part = _part(head, rows, items, start, labels)
        parts.append(part)
        start = part.stop
    counts = [len(items[at].record["input_ids"]) for at in order]
    route = Route.by_row([items[at].members for at in order], counts)
    each = [items[at] for at, count in zip(order, counts, strict=True) for _ in range(count)]
    route = route.owned([item.head for item in each])
    route = route.together(_answered([items[at] for at in order]))
    return Batch(inputs, tuple(parts), route.told([item.record.get("state") for item in each]))


def _answered(items: Sequence[Item]) -> list[int]:
    """For every sequence the first of those that it is answered together with: its row's, or itself."""
    found: list[int] = []
    for item in items:
        first, count = len(found), len(item.record["input_ids"])
        found += [first] * count if kind_of(item.kind).compares else range(first, first + count)
    return found


def _part(head: str, rows: list[int], items: Sequence[Item], start: int, labels: bool) -> Part:
    records = [items[at].record for at in rows]
    kind = items[rows[0]].kind
    lengths = tuple(tuple(len(ids) for ids in record["input_ids"]) for record in records)
    width = max(max(row) for row in lengths)
    own: tuple[Tensor | None, Tensor | None, float] = (None, None, 0)
    if labels and all("labels" in record for record in records):
        own = labelled([items[at] for at in rows])
    return Part(
        head=head,
        kind=kind,
        start=start,
        stop=start + sum(len(row) for row in lengths),
        width=width,
        sequences_per_row=tuple(len(row) for row in lengths),
        lengths=lengths,
        rows=tuple(rows),
        labels=own[0],
        weights=own[1],
        count=own[2],
        places=places_of(records),
    )


def labelled(items: Sequence[Item]) -> tuple[Tensor, Tensor | None, float]:
    """The labels of rows of one head, the weights of what is labelled if there are any, and the sum of these."""
    kind, records = kind_of(items[0].kind), [item.record for item in items]
    labels = kind.labels(records, max(item.length for item in items))
    classes = rows = None
    if items[0].class_weights is not None:
        classes = torch.tensor(items[0].class_weights, dtype=torch.float64)
    if any("weight" in record for record in records):
        # Where labels are by sequence, each has its row's weight.
        per_row = [1 if len(labels) == len(records) else len(r["input_ids"]) for r in records]
        own = [record.get("weight", 1.0) for record in records]
        rows = torch.tensor(own, dtype=torch.float64).repeat_interleave(torch.tensor(per_row))
    count = kind.count(labels, rows, classes)
    if rows is None and classes is None:
        return labels, None, count
    return labels, kind.weights(labels, rows, classes), count


def _positions(records: Sequence[Record], width: int) -> Tensor:
    """The place of every token in its text; what pads a sequence is a text of its own behind it."""
    rows = [
        positions
        for record in records
        for positions in record.get("position_ids", map(_places, record["input_ids"]))
    ]
    return torch.tensor([[*row, *range(width - len(row))] for row in rows])


def _places(ids: Sequence[int]) -> list[int]:
    return list(range(len(ids)))


def _padded(rows: Sequence[Sequence[int]], value: int, width: int) -> Tensor:
    padded = np.full((len(rows), width), value, dtype=np.int64)
    for at, row in enumerate(rows):
        padded[at, : len(row)] = row
    return torch.from_numpy(padded)


def epoch_batches(
    lengths: Sequence[int], batch_size: int, *, seed: int, epoch: int, bucketing: bool
) -> list[list[int]]:
    """The rows of every batch of one epoch; each row once; the same for the same arguments.

    Args:
        lengths: Tokens of each row.
        batch_size: Rows in a batch; the last may have fewer.
        seed: The run's seed.
        epoch: Counted from 0.
        bucketing: Whether rows of similar length share a batch.
    """
    generator = np.random.default_rng([seed, epoch])
    order = generator.permutation(len(lengths))
    if not bucketing:
        return [order[at : at + batch_size].tolist() for at in range(0, len(order), batch_size)]
    batches = []
    for at in range(0, len(order), batch_size * BUCKET):
        bucket = order[at : at + batch_size * BUCKET]
        bucket = bucket[np.argsort([lengths[row] for row in bucket], kind="stable")]
        batches += [bucket[i : i + batch_size].tolist() for i in range(0, len(bucket), batch_size)]
    return [batches[at] for at in generator.permutation(len(batches))]


def pieces(
    items: Sequence[Item], accumulation: int, most_tokens: int | None = None
) -> list[list[Item]]:
    """`items` cut into pieces that run through the model one after another; sums over them do not change.

    Rows of similar length stay together, so that a long paragraph does not pad a short sentence. Rows of a head whose
    loss is of all of them together are one piece, whatever its size.

    Args:
        items: The rows of a step.
        accumulation: How many pieces there are at least.
        most_tokens: Padded tokens of a piece of more than one row; a row of many windows counts them all.
    """
    found = [[*rows] for rows in _joint(items).values()]
    apart = [item for item in items if not kind_of(item.kind).joint]
    return found + _cut(apart, accumulation, most_tokens)


def _joint(items: Sequence[Item]) -> dict[str, list[Item]]:
    """By head, the rows whose loss is of all of them together."""
    found: dict[str, list[Item]] = {}
    for item in items:
        if kind_of(item.kind).joint:
            found.setdefault(item.head, []).append(item)
    return found


def share_of(items: Sequence[Item], process: int, of: int) -> list[Item]:
    """The rows of a step that one of several processes computes: every so-manieth, those of a joint loss all on one.

    The first process has some whenever there are any.
    """
    heads = list(_joint(items))
    apart = [item for item in items if not kind_of(item.kind).joint]
    mine = {head for at, head in enumerate(heads) if at % of == process}
    own = {id(item) for item in apart[process::of]}
    return [item for item in items if item.head in mine or id(item) in own]


def _cut(items: Sequence[Item], accumulation: int, most_tokens: int | None) -> list[list[Item]]:
    ordered = sorted(items, key=lambda item: item.length)
    most = -(-len(ordered) // accumulation)
    found: list[list[Item]] = []
    for item in ordered:
        piece = found[-1] if found else None
        if piece is None or len(piece) >= most or not _fits(item, piece, most_tokens):
            found.append([item])
        else:
            piece.append(item)
    return found


def _fits(item: Item, piece: Sequence[Item], most_tokens: int | None) -> bool:
    """Whether a row, at least as long as those of the piece, may join it."""
    sequences = sum(len(row.record["input_ids"]) for row in piece)
    if most_tokens is not None:
        own = len(item.record["input_ids"])
        if (sequences + own) * item.length > most_tokens:
            return False
    small = sequences * piece[-1].length < SMALL_TOKENS
    return small or item.length <= SPREAD * piece[0].length


def record_of(values: Mapping[str, Any]) -> Record:
    """A record without its labels, as prediction sees it."""
    return {name: value for name, value in values.items() if name != "labels"}

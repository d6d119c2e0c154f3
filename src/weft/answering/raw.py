"""What lies below answers: a head's logits and the trunk's states, with the meaning of every axis."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from weft.answering.inference import autocast, batched, padding_id, units_of
from weft.answering.inputs import Input, checked_input
from weft.base.tokens import check_tokens
from weft.data.encoding import carried
from weft.model.batching import Item
from weft.model.heads import kind_of
from weft.model.heads.contract import ByToken
from weft.model.snapshot import Snapshot
from weft.storage.card import refuse_files
from weft.storage.loading import LoadedRun

Pool = Literal["mean", "first", "last"]
"""One state for a sequence: the mean over its tokens, or that of its first or last."""
POOLS = ("mean", "first", "last")


@dataclass(frozen=True, eq=False)
class Axes:
    """A tensor of several inputs, padded, on the CPU, and what its axes are.

    Attributes:
        values: The numbers; 0 at padding.
        axes: A name for each axis of `values`: row, sequence, token, choice, class, outcome, vocabulary, hidden.
        mask: What is no padding, over the axes of `values` that can have any (all but the last, or all).
        inputs: For each entry of the first axis the number of the input it belongs to: an input may be several
            sequences (windows of a long text, the choices of a question).
        names: What the entries of the last axis are called; () for a vocabulary, states and choices.
    """

    values: Tensor
    axes: tuple[str, ...]
    mask: Tensor
    inputs: tuple[int, ...]
    names: tuple[str, ...] = ()

    @property
    def shape(self) -> dict[str, int]:
        """Size by axis."""
        return dict(zip(self.axes, self.values.shape, strict=True))

    def of(self, number: int) -> list[Tensor]:
        """The entries of one input, each without its padding."""
        found = []
        for at, owner in enumerate(self.inputs):
            if owner == number:
                own = self.values[at]
                found.append(own[self.mask[at]] if self.mask.dim() > 1 else own)
        return found

    def __repr__(self) -> str:
        shape = " x ".join(f"{size} {name}" for name, size in self.shape.items())
        names = f": {', '.join(self.names)}" if self.names else ""
        return f"Axes({shape}{names}; {str(self.values.dtype).removeprefix('torch.')})"


def logits(run: LoadedRun, inputs: Sequence[Input], *, tokens_per_batch: int | None = None) -> Axes:
    """What the expert's head says of each input, before any decoding.

    `(row, class)` of a sequence classification, `(row, choice)` of a multiple choice, `(sequence, token, class)` of a
    tagger, `(sequence, token, outcome)` with start and end of a span extraction, `(sequence, token, vocabulary)` of a
    language model, `(sequence, dimension)` of an embedding.
    """
    items = _items(run, inputs)
    units = [(row, unit) for row, item in enumerate(items) for unit in units_of(item)]
    found: list[Tensor] = [torch.empty(0)] * len(units)
    held, own = run.model.snapshot, [unit for _, unit in units]
    with torch.inference_mode(), autocast(run.device, run.precision):
        for rows, batch in batched(held, own, padding_id(held.base), tokens_per_batch, run.device):
            answers = held(batch)
            for part in batch.parts:
                by_token = isinstance(kind_of(part.kind), ByToken)
                for at, said, lengths in zip(
                    part.rows, answers[part.head].cpu(), part.lengths, strict=True
                ):
                    found[rows[at]] = said[: lengths[0]] if by_token else said
    kind = kind_of(run.task.spec.kind)
    last = "vocabulary" if kind.language_model else "class" if kind.has_classes else kind.outcome
    names = tuple(run.card.labels) if kind.has_classes else kind.outcomes
    if kind.compares:
        last, names = "choice", ()
    ragged = kind.compares or isinstance(kind, ByToken)
    return _padded(found, (*kind.along, last), tuple(row for row, _ in units), names, ragged=ragged)


def hidden(
    run: LoadedRun,
    inputs: Sequence[Input],
    *,
    layer: int = -1,
    pool: Pool | None = None,
    tokens_per_batch: int | None = None,
) -> Axes:
    """The states of the trunk while the expert speaks, `(sequence, token, hidden)`; pooled, `(sequence, hidden)`.

    Args:
        run: The expert, or the mixture behind it.
        inputs: Texts, or mappings of the task's columns.
        layer: 0 is the embeddings, n what layer n makes, -1 what the head is given.
        pool: One state for a sequence; padding takes no part.
        tokens_per_batch: Padded tokens in one forward call; None takes what is fastest on the device.

    Raises:
        ValueError: If there is no such layer, or no such pooling.
    """
    refuse_files(run.card, run.name, "hidden states are of texts; ask for logits")
    held = run.model.snapshot
    depth = int(held.base.config.num_hidden_layers)
    if not -depth - 1 <= layer <= depth:
        raise ValueError(
            f"layer {layer}: {held.base.name} has the embeddings, 0, and layers 1 to {depth}; -1 is the last"
        )
    if pool is not None and pool not in POOLS:
        raise ValueError(f"pool {pool!r}: expected {', '.join(POOLS)} or None")
    items = _items(run, inputs)
    units = [(row, unit) for row, item in enumerate(items) for unit in units_of(item)]
    found: list[list[Tensor]] = [[] for _ in units]
    own = [unit for _, unit in units]
    with torch.inference_mode(), autocast(run.device, run.precision):
        for rows, batch in batched(held, own, padding_id(held.base), tokens_per_batch, run.device):
            states = iter(_layer(held, batch.inputs, batch.route, layer).cpu())
            for part in batch.parts:
                for at, lengths in zip(part.rows, part.lengths, strict=True):
                    found[rows[at]] = [_pooled(next(states)[:length], pool) for length in lengths]
    owners = tuple(row for (row, _), own in zip(units, found, strict=True) for _ in own)
    flat = [state for own in found for state in own]
    axes = ("sequence", "token", "hidden") if pool is None else ("sequence", "hidden")
    return _padded(flat, axes, owners, ragged=pool is None)


def _layer(held: Snapshot, inputs: dict[str, Tensor], route: object, layer: int) -> Tensor:
    if layer in (-1, int(held.base.config.num_hidden_layers)):
        return held.states(inputs, route)  # type: ignore[arg-type]
    return held.all_states(inputs, route)[layer]  # type: ignore[arg-type]


def _pooled(states: Tensor, pool: Pool | None) -> Tensor:
    """(tokens, hidden) of one sequence to (hidden,), or as it is."""
    if pool is None:
        return states
    return states.mean(0) if pool == "mean" else states[0 if pool == "first" else -1]


def _items(run: LoadedRun, inputs: Sequence[Input]) -> list[Item]:
    task, base = run.task, run.model.base
    examples = [checked_input(task, value, at) for at, value in enumerate(inputs)]
    records = [carried(task.encode(example, base.tokenizer), example) for example in examples]
    check_tokens(base, records)
    return [Item(run.name, task.spec.kind, run.members, record) for record in records]


def _padded(
    parts: Sequence[Tensor],
    axes: tuple[str, ...],
    inputs: tuple[int, ...],
    names: tuple[str, ...] = (),
    *,
    ragged: bool,
) -> Axes:
    """Tensors that may differ in their first axis, as one, with its mask."""
    if not parts:
        empty = torch.zeros([0] * len(axes))
        return Axes(empty, axes, torch.zeros([0] * (2 if ragged else 1), dtype=torch.bool), ())
    if not ragged:
        return Axes(
            torch.stack(list(parts)), axes, torch.ones(len(parts), dtype=torch.bool), inputs, names
        )
    values = torch.nn.utils.rnn.pad_sequence(list(parts), batch_first=True)
    lengths = torch.tensor([len(part) for part in parts])
    mask = torch.arange(values.shape[1]) < lengths.unsqueeze(1)
    return Axes(values, axes, mask, inputs, names)

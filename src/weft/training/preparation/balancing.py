"""What a balance of tasks wants to know before the first step.

It is measured on each process alone, from the start values and the seed, so that all processes agree and a resumed run
finds the same.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import nn

from weft.answering.inference import autocast, padding_id, total_loss
from weft.config import Run
from weft.methods.balances import balances
from weft.methods.balances.contract import Balance
from weft.methods.gates.settings import Spec
from weft.model.batching import MOST_TOKENS, Item, collate, pieces
from weft.model.expert import Expert
from weft.model.heads import kind_of
from weft.model.mixing import MIX, Ingredient
from weft.model.model import Model
from weft.scoped import tell
from weft.training.learning import Stream

MOST_ROWS = 128
"""Of a task, whose loss is measured: a scale need not be exact, and this is to take little of a training."""
_OWN = "own expert"
"""What an expert is called while its loss is measured; no task's name has a space."""


def balance_of(
    spec: Spec | None,
    model: Model,
    streams: Sequence[Stream],
    ingredients: Mapping[str, Ingredient],
    run: Run,
) -> Balance | None:
    """The balance of a mixture's tasks, with what it wanted to know; None where there is no mixture.

    Args:
        spec: The mixture's settings.
        model: As training starts it, in training mode.
        streams: The tasks' rows.
        ingredients: The experts that are mixed, by task.
        run: Whose seed and precision count.

    Raises:
        ValueError: If a task's loss is 0 or no number, so that nothing can be divided by it.
    """
    if spec is None:
        return None
    kind = balances.load(spec.balance)
    if kind.measures is None:
        return kind()
    found = {}
    for stream in streams:
        tell(f"loss of {stream.name} before training")
        if kind.measures == "start":
            found[stream.name] = start_loss(model, stream, run)
        else:
            found[stream.name] = own_loss(model, stream, ingredients[stream.name], run)
        if not (math.isfinite(found[stream.name]) and found[stream.name] > 0):
            of = "the mixture's" if kind.measures == "start" else "its own expert's"
            raise ValueError(
                f"balance {spec.balance}: {of} loss on the first {len(_rows(stream))} training rows of "
                f"{stream.name} is {found[stream.name]:g}, and nothing can be divided by that; choose balance: none"
            )
    return kind(found)


def start_loss(model: Model, stream: Stream, run: Run) -> float:
    """The mean loss that training starts from over the first rows of a task, gates and dropout as in training."""
    device = next(model.trunk.parameters()).device
    total = count = 0.0
    with (
        _as_it_was(model.expert(MIX), run.seed),
        torch.no_grad(),
        autocast(device, run.training.precision),
    ):
        for piece in _pieces(stream, device):
            batch = collate(piece, padding_id(model.base)).to(device)
            answers = model(batch)
            for part in batch.parts:
                assert part.labels is not None
                loss = kind_of(part.kind).loss(
                    answers[part.head], part.labels, run.training.label_smoothing, part.weights
                )
                total += loss.double().item()
                count += part.count
    return total / (count or 1)


def own_loss(model: Model, stream: Stream, own: Ingredient, run: Run) -> float:
    """The mean loss of a task's own expert over its first rows, without dropout."""
    device = next(model.trunk.parameters()).device
    expert = Expert(_OWN, own.expert.adapters, own.expert.head, shared=own.expert.shared).to(device)
    items = [stream.item(row, step=0) for row in _rows(stream)]
    items = [replace(item, head=_OWN, members=(_OWN,)) for item in items]
    model.add(expert)
    try:
        total, count = total_loss(
            model,
            items,
            pad_id=padding_id(model.base),
            device=device,
            precision=run.training.precision,
        )
    finally:
        model.remove(_OWN)
    return total / (count or 1)


def _pieces(stream: Stream, device: torch.device) -> Iterator[list[Item]]:
    """The first rows by as many as a step has: rows of one step may learn from each other."""
    rows, size = _rows(stream), stream.training.batch_size
    for at in range(0, len(rows), size):
        items = [stream.item(row, step=0) for row in rows[at : at + size]]
        yield from pieces(items, 1, MOST_TOKENS.get(device.type))


def _rows(stream: Stream) -> range:
    return range(min(MOST_ROWS, len(stream.records)))


@contextmanager
def _as_it_was(mixture: nn.Module, seed: int) -> Iterator[None]:
    """What the block draws is the seed's and disturbs no draw after it; what it counts is forgotten."""
    before = {name: value.clone() for name, value in mixture.named_buffers()}
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            yield
    finally:
        with torch.no_grad():
            for name, value in mixture.named_buffers():
                value.copy_(before[name])

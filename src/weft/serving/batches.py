"""Forward passes for whatever waits: rows of any experts and kinds in one."""

from collections.abc import Sequence
from typing import Any

import torch

from weft.answering.inference import autocast, by_unit, order_of, padding_id
from weft.model.batching import Item, collate
from weft.model.snapshot import Snapshot


def answered(
    held: Snapshot, items: Sequence[Item], *, device: torch.device, precision: str
) -> list[Any]:
    """What each head says of its units, in the order given.

    Args:
        held: Has the experts.
        items: The units, as many as one batch may hold.
        device: Where the model is.
        precision: Arithmetic of the forward pass.
    """
    # As offline, so that the same units make the same batch.
    order = order_of(items)
    found: list[Any] = [None] * len(items)
    with torch.inference_mode(), autocast(device, precision):
        batch = collate([items[at] for at in order], padding_id(held.base)).to(device)
        for at, output in by_unit(batch, held(batch)):
            found[order[at]] = output
    return found

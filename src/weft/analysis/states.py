"""Vectors of a corpus' units at every layer, under one expert or the bare base."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence

import torch
from torch import Tensor

from weft.analysis.texts import Corpus
from weft.base.loading import Base
from weft.lowrank.route import Route
from weft.model.snapshot import Snapshot
from weft.scoped import tell

TOKENS_PER_BATCH = 4096
HELD_BYTES = 2**30
"""States that are kept in memory at most, so that questions that read the same need not wait for them again."""


class Held:
    """States that were read lately, in no more memory than `HELD_BYTES`, or those of one reading."""

    def __init__(self) -> None:
        self._found: OrderedDict[Hashable, list[Tensor]] = OrderedDict()

    def get(self, key: Hashable, read: Callable[[], list[Tensor]]) -> list[Tensor]:
        """What is kept under a key, else what `read` gives; those that were not wanted for longest go first."""
        if key not in self._found:
            self._found[key] = read()
        self._found.move_to_end(key)
        while len(self._found) > 1 and sum(map(_bytes, self._found.values())) > HELD_BYTES:
            self._found.popitem(last=False)
        return self._found[key]


def _bytes(states: Sequence[Tensor]) -> int:
    return sum(own.numel() * own.element_size() for own in states)


@torch.inference_mode()
def states_of(held: Snapshot, corpus: Corpus, route: Route | None, pad_id: int) -> list[Tensor]:
    """The mean state of each unit's tokens: of the embeddings and of every layer, (units, hidden) each, on the CPU.

    Args:
        held: Has the experts that the route names.
        corpus: What is read.
        route: Who speaks; None is the bare base.
        pad_id: The base's padding token.
    """
    starts = torch.tensor([len(own) for own in corpus.units]).cumsum(0)
    found: list[Tensor] = []
    done = 0
    for rows, inputs in batches(held.base, corpus, pad_id, next(held.trunk.parameters()).device):
        for layer, hidden in enumerate(held.all_states(inputs, route)):
            if len(found) == layer:
                found.append(torch.empty(len(corpus), hidden.shape[-1], dtype=hidden.dtype))
            for at, row in enumerate(rows):
                own, stop = corpus.units[row], int(starts[row])
                place = slice(stop - len(own), stop)
                found[layer][place] = pooled(hidden[at], own).cpu()
        done += len(rows)
        tell(f"reading {corpus.name}", done, len(corpus.records))
    return found


def pooled(hidden: Tensor, units: Sequence[Sequence[int]]) -> Tensor:
    """(seq, hidden) to the mean of each unit's tokens."""
    if all(len(own) == 1 for own in units):
        return hidden[[own[0] for own in units]]
    sizes = torch.tensor([len(own) for own in units], device=hidden.device)
    places = torch.tensor([at for own in units for at in own], device=hidden.device)
    owner = torch.arange(len(units), device=hidden.device).repeat_interleave(sizes)
    sums = hidden.new_zeros(len(units), hidden.shape[1]).index_add_(0, owner, hidden[places])
    return sums / sizes[:, None]


def batches(
    base: Base, corpus: Corpus, pad_id: int, device: torch.device
) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
    """Which sequences a batch holds, and what the trunk gets; those of like length together."""
    lengths = [len(record["input_ids"][0]) for record in corpus.records]
    order = sorted(range(len(lengths)), key=lambda at: -lengths[at])
    while order:
        width = lengths[order[0]]
        rows, order = (
            order[: max(1, TOKENS_PER_BATCH // width)],
            order[max(1, TOKENS_PER_BATCH // width) :],
        )
        ids = torch.full((len(rows), width), pad_id)
        inputs = {"input_ids": ids, "attention_mask": torch.zeros_like(ids)}
        if "token_type_ids" in base.tokenizer.model_input_names:
            inputs["token_type_ids"] = torch.zeros_like(ids)
        for at, row in enumerate(rows):
            own = corpus.records[row]
            inputs["attention_mask"][at, : lengths[row]] = 1
            for name in inputs.keys() & own.keys():
                inputs[name][at, : lengths[row]] = torch.tensor(own[name][0])
        yield rows, {name: value.to(device) for name, value in inputs.items()}

"""Forward passes for whatever waits: rows of any experts and kinds in one."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from weft.answering.gate_maps import TokenGates, token_gates
from weft.answering.generation import Continuation, Generation, generate
from weft.answering.inference import autocast, by_unit, order_of, padding_id
from weft.answering.recognition import features
from weft.lowrank.route import Members
from weft.model.batching import Item, collate
from weft.model.snapshot import Resident, Snapshot
from weft.storage.loading import Ground
from weft.tasks.chat import Prompt

Voices = Mapping[str, Resident]
"""What speaks for a row and no model holds: experts that a request weighs."""


@dataclass(frozen=True)
class Reading:
    """A unit that is read: a row, or one of its windows.

    Attributes:
        item: The unit.
        voices: What speaks for it beside the model's experts.
    """

    item: Item
    voices: Voices = field(default_factory=dict)


@dataclass(frozen=True)
class Whole:
    """A text that is written from beginning to end in one go: what continuous batches cannot hold.

    Attributes:
        head: The expert whose head writes.
        members: What speaks.
        prompts: Texts that are written together.
        settings: How.
        voices: What speaks beside the model's experts.
    """

    head: str
    members: Members
    prompts: tuple[Prompt, ...]
    settings: Generation
    voices: Voices = field(default_factory=dict)


Forward = Callable[[Snapshot, Sequence[Any], Ground], list[Any]]
"""A model's value of now, works of one group, where it computes: what came of each."""


@dataclass(frozen=True)
class Group:
    """Works that share a forward pass.

    Attributes:
        forward: What is done with them.
        ground: The model that does it.
    """

    forward: Forward
    ground: Ground

    def call(self, works: Sequence[Any]) -> Callable[[], list[Any]]:
        """To be called in the thread that computes; the model's value is that of now."""
        held = with_voices(self.ground.model.snapshot, [work.voices for work in works])
        return lambda: self.forward(held, works, self.ground)


def with_voices(held: Snapshot, voices: Iterable[Voices]) -> Snapshot:
    """The same value, and what speaks beside."""
    extra = {name: own for one in voices for name, own in one.items()}
    return replace(held, residents={**held.residents, **extra}) if extra else held


def read(held: Snapshot, works: Sequence[Reading], ground: Ground) -> list[Any]:
    """What each head says of its unit."""
    items = [work.item for work in works]
    # As offline, so that the same units make the same batch.
    order = order_of(items)
    found: list[Any] = [None] * len(items)
    with torch.inference_mode(), autocast(ground.device, ground.precision):
        batch = collate([items[at] for at in order], padding_id(held.base)).to(ground.device)
        for at, output in by_unit(batch, held(batch)):
            found[order[at]] = output
    return found


def recognise(held: Snapshot, works: Sequence[Reading], ground: Ground) -> list[Tensor]:
    """What each unit's task is told by, (sequences, features)."""
    sequences = [ids for work in works for ids in work.item.record["input_ids"]]
    found = features(held, sequences, device=ground.device, precision=ground.precision)
    return list(found.split([len(work.item.record["input_ids"]) for work in works]))


def gate(held: Snapshot, works: Sequence[Reading], ground: Ground) -> list[list[TokenGates]]:
    """What gates say of each unit, sequence by sequence."""
    return [
        token_gates(held, work.item, device=ground.device, precision=ground.precision)
        for work in works
    ]


def write_whole(held: Snapshot, works: Sequence[Whole], ground: Ground) -> list[list[Continuation]]:
    """What follows each work's prompts."""
    return [
        generate(
            held,
            work.head,
            work.prompts,
            work.settings,
            members=work.members,
            device=ground.device,
            precision=ground.precision,
        )
        for work in works
    ]

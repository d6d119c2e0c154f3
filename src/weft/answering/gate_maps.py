"""What a mixture's gates said of a task's rows: means by map and expert, for heat maps and tables."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from weft.answering.inference import autocast, outputs_of, padding_id
from weft.atomic import write_tensors
from weft.methods.gates.gate import Gate
from weft.methods.gates.trace import GateTrace, traced
from weft.model.batching import Item, collate
from weft.model.mixed import Mix
from weft.model.snapshot import Snapshot
from weft.storage.loading import LoadedRun
from weft.tasks.contract import Record


def gate_maps(loaded: LoadedRun, records: Sequence[Record]) -> dict[str, Any]:
    """Mean gates and selections of one task's rows over real tokens.

    Args:
        loaded: One task of a mixture.
        records: The task's encoded rows.

    Returns:
        `experts`, and by map lists over them: `gates` (the mean gate) and `selected` (the share of tokens that select
        it). A map may have fewer gates than there are experts, or one a rank.

    Raises:
        ValueError: If the run is no mixture.
    """
    mix = loaded.model.expert(loaded.members[0])
    if not isinstance(mix, Mix):
        raise ValueError(
            f"{loaded.name} is an expert and has no gates; give a mixture's run folder"
        )
    sums = _Sums()
    with traced(sums):
        outputs_of(loaded, records)
    found = sums.by_map
    return {
        "task": loaded.name,
        "experts": list(mix.mixture.experts),
        "gates": {module: (own.gates / own.tokens).tolist() for module, own in found.items()},
        "selected": {module: (own.selected / own.tokens).tolist() for module, own in found.items()},
        "tokens": max((own.tokens for own in found.values()), default=0),
    }


@dataclass
class _Sum:
    gates: Tensor
    selected: Tensor
    tokens: int


@dataclass
class _Sums(GateTrace):
    """Adds up over calls what a trace of one call holds."""

    by_map: dict[str, _Sum] = field(default_factory=dict)

    def record(self, module: str, logits: Tensor, found: Gate) -> None:
        gates, selected = (self.tokens(v).double() for v in (found.gates, found.selected))
        own = _Sum(gates.sum(0).cpu(), selected.sum(0).cpu(), len(gates))
        if module in self.by_map:
            before = self.by_map[module]
            own = _Sum(
                before.gates + own.gates, before.selected + own.selected, before.tokens + own.tokens
            )
        self.by_map[module] = own


def save_trace(trace: GateTrace, path: str | Path) -> None:
    """Write everything one call's gates said as safetensors: `<map>/gates`, `/scores`, `/selected`, `/logits`."""
    tensors = {
        f"{module}/{name}": value.detach().cpu().contiguous()
        for module, found in trace.gates.items()
        for name, value in (*found._asdict().items(), ("logits", trace.logits[module]))
    }
    for name in ("mask", "labels"):
        value = getattr(trace, name)
        if value is not None:
            tensors[name] = value.detach().cpu().contiguous()
    write_tensors(Path(path), tensors)


@dataclass(frozen=True)
class TokenGates:
    """What a mixture's gates said of one sequence.

    Attributes:
        tokens: As the tokenizer calls them.
        gates: By map, for each token how much each expert speaks: (tokens, experts).
    """

    tokens: list[str]
    gates: dict[str, list[list[float]]]


def token_gates(
    held: Snapshot, item: Item, *, device: torch.device, precision: str
) -> list[TokenGates]:
    """The gates of one row, sequence by sequence; maps without positions are left out.

    Args:
        held: Has the mixture.
        item: The row, with the mixture as its members.
        device: Where the model is.
        precision: Arithmetic of the forward pass.
    """
    trace = GateTrace()
    with torch.inference_mode(), autocast(device, precision), traced(trace):
        batch = collate([item], padding_id(held.base)).to(device)
        held.states(batch.inputs, batch.route)
    found = []
    for at, ids in enumerate(item.record["input_ids"]):
        gates = {
            module: own.gates[at, : len(ids)].float().cpu().tolist()
            for module, own in trace.gates.items()
            if own.gates.dim() == 3
        }
        tokens = held.base.tokenizer.convert_ids_to_tokens(list(ids))
        found.append(TokenGates([str(token) for token in tokens], gates))
    return found

"""What a mixture's gates say of each unit of a corpus, by map."""

import torch
from torch import Tensor

from weft.analysis.states import batches, pooled
from weft.analysis.texts import Corpus
from weft.lowrank.route import Route
from weft.methods.gates.trace import GateTrace, traced
from weft.model.snapshot import Snapshot
from weft.scoped import tell


@torch.inference_mode()
def gates_of(held: Snapshot, corpus: Corpus, route: Route, pad_id: int) -> dict[str, Tensor]:
    """The mean gates of each unit's tokens by map, (units, gates), on the CPU; maps without positions have none.

    Args:
        held: Has the mixture.
        corpus: What is read.
        route: The mixture.
        pad_id: The base's padding token.
    """
    starts = torch.tensor([len(own) for own in corpus.units]).cumsum(0)
    found: dict[str, Tensor] = {}
    done = 0
    for rows, inputs in batches(held.base, corpus, pad_id, next(held.trunk.parameters()).device):
        with traced(GateTrace()) as trace:
            held.states(inputs, route)
        assert trace is not None
        for module, said in trace.gates.items():
            if said.gates.dim() != 3:
                continue
            if module not in found:
                found[module] = torch.empty(len(corpus), said.gates.shape[-1], dtype=torch.float64)
            for at, row in enumerate(rows):
                own, stop = corpus.units[row], int(starts[row])
                mean = pooled(said.gates[at].double(), own)
                found[module][stop - len(own) : stop] = mean.cpu()
        done += len(rows)
        tell(f"reading gates on {corpus.name}", done, len(corpus.records))
    return found

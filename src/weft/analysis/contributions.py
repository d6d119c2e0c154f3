"""What each adapted map adds to what the frozen one says, token by token: `|dW x| / |W0 x|`."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from weft.analysis.measures.changes import Change
from weft.analysis.states import batches, pooled
from weft.analysis.texts import Corpus
from weft.lowrank.attach import module_at
from weft.lowrank.route import Route
from weft.model.snapshot import Snapshot


class _Ratio:
    """Hooked onto a map: of each token of the call under way what the change adds as a share of what was there."""

    def __init__(self, change: Change, weight: Tensor) -> None:
        self.A, self.B = (side.to(weight) for side in change.pair)
        self.weight = weight
        self.last: Tensor | None = None

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        x = inputs[0]
        added = ((x @ self.A.T) @ self.B.T).norm(dim=-1)
        self.last = added / (x @ self.weight.T).norm(dim=-1).clamp(min=1e-30)


@torch.inference_mode()
def contributions_of(
    held: Snapshot,
    corpus: Corpus,
    route: Route,
    pad_id: int,
    *,
    changes: Mapping[str, Change],
    weights: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """The mean ratio of each unit's tokens by map, (units,), on the inputs that the expert's own states give the map.

    Args:
        held: Has the expert.
        corpus: What is read.
        route: The expert.
        pad_id: The base's padding token.
        changes: dW by map.
        weights: W0 by map, where and as the model computes.
    """
    starts = torch.tensor([len(own) for own in corpus.units]).cumsum(0)
    found = {name: torch.empty(len(corpus), dtype=torch.float64) for name in changes}
    ratios = {name: _Ratio(change, weights[name]) for name, change in changes.items()}
    hooks = [
        module_at(held.trunk, name).register_forward_hook(ratio) for name, ratio in ratios.items()
    ]
    try:
        device = next(held.trunk.parameters()).device
        for rows, inputs in batches(held.base, corpus, pad_id, device):
            held.states(inputs, route)
            for name, ratio in ratios.items():
                assert ratio.last is not None, f"{name} was not called"
                for at, row in enumerate(rows):
                    own, stop = corpus.units[row], int(starts[row])
                    mean = pooled(ratio.last[at][:, None], own)[:, 0]
                    found[name][stop - len(own) : stop] = mean.cpu()
    finally:
        for hook in hooks:
            hook.remove()
    return found

"""Mixtures as a loop over experts: the reference that `mixture_speed.py` times them against.

    y = W0 x + b + sum_e G_e (B_e (A_e x)),    one expert after the other at each map

Gates are the mixture's own. MixLoRA's experts are whole feed-forward blocks: each runs on the tokens that chose it.
"""

from collections.abc import Iterable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from weft.methods.gates.call import Call
from weft.methods.gates.networks import Routers
from weft.methods.mixtures.contract import Mixture
from weft.model.mixed import layers_of


class Loop:
    """A mixture's maps as a loop over its experts: each one's own forward, times its gate."""

    def __init__(self, mixture: Mixture) -> None:
        self.mixture = mixture
        self.pairs = {module: _pairs(mixture, module) for module in mixture.modules_woven}

    def __call__(self, module: str, x: Tensor, call: Call) -> Tensor:
        stack = self.mixture.stack(module)
        wide = x.to(stack.A.dtype)
        # CoMoL's gate reads the projection; of others' only the leading sizes matter.
        z = wide if stack.cores is None else wide @ stack.A.T
        logits = self.mixture.logits(module, x, z, call)
        gates = self.mixture.gate(module, logits, x, call).gates.to(wide.dtype)
        found = wide.new_zeros(())
        for at, (A, B) in enumerate(self.pairs[module]):
            found = found + gates[..., at : at + 1] * ((wide @ A.T) @ B.T)
        return found


def _pairs(mixture: Mixture, module: str) -> list[tuple[Tensor, Tensor]]:
    """The factors of every expert (SMoRA: of every rank) at one map."""
    stack = mixture.stack(module)
    with torch.no_grad():
        A, B = stack.factors()
        if stack.cores is not None:
            return [((core.T @ A).contiguous(), B) for core in stack.cores]
        ranks = (
            list(stack.ranks) if mixture.gates_wide(module) == len(stack.ranks) else [1] * len(A)
        )
        ups = [up.contiguous() for up in B.split(ranks, dim=1)]
        downs = A.split(ranks) if len(A) == sum(ranks) else [A] * len(ups)
        return [(down.contiguous(), up) for down, up in zip(downs, ups, strict=True)]


def blocks(trunk: nn.Module, mixture: Mixture) -> None:
    """Make a trunk's feed-forward blocks loop over MixLoRA's experts; BERT, in place."""
    names, layers = list(mixture.modules_woven), cast(Iterable[Any], layers_of(trunk))
    for at, layer in enumerate(layers):
        first, last = names[2 * at : 2 * at + 2]
        routers = mixture.get_submodule("routers")
        assert isinstance(routers, Routers)
        pairs = list(zip(_pairs(mixture, first), _pairs(mixture, last), strict=True))
        layer.feed_forward_chunk = partial(_block, layer, routers.weight(first), pairs)


def _block(layer: Any, router: Tensor, pairs: list[Any], x: Tensor) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        p = (x.float() @ router.T).softmax(-1)
    best, chosen = p.topk(2)
    weights = best / best.sum(-1, keepdim=True)
    found = torch.zeros_like(x)
    for at, ((A1, B1), (A2, B2)) in enumerate(pairs):
        mine = (chosen == at).any(-1)
        own, by = x[mine], (weights * (chosen == at)).sum(-1)[mine]
        inner = layer.intermediate.dense(own) + (own @ A1.T) @ B1.T
        inner = layer.intermediate.intermediate_act_fn(inner)
        outer = layer.output.dense(inner) + (inner @ A2.T) @ B2.T
        found[mine] += (by.unsqueeze(-1) * outer).to(found.dtype)
    return layer.output.LayerNorm(found + x)

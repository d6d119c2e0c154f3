"""Uniform gates: every expert counts 1/n everywhere, the baseline without a gate.

    y = W0 x + b + (1/n) sum_e s_e B_e A_e x

Nothing is learned. It is the average of the experts' changes, "linear" model averaging (Wortsman et al. 2022, Model
soups, arXiv:2203.05482) of changes instead of weights, computed at run time.
"""

from torch import Tensor

from weft.methods.gates.call import Call
from weft.methods.gates.gate import GateSpec
from weft.methods.mixtures import contract


class Uniform(contract.Mixture):
    """The same gate for all."""

    settings_type = contract.Spec

    @property
    def gate_spec(self) -> GateSpec:
        return GateSpec(score="raw")

    def logits(self, module: str, x: Tensor, z: Tensor, call: Call) -> Tensor:
        wide = len(self.experts)
        return z.new_full((*z.shape[:-1], wide), 1 / wide)

"""AdaMoLE: how many experts a token goes to is learned, by a threshold that is a network of its own.

    y = W0 x + b + sum_e G_e s_e B_e A_e drop(x),    p = softmax(W_g x)
    tau = tau_max sigmoid(w x + v),    G_e = max(p_e - tau, 0) / sum_f max(p_f - tau, 0)
    loss += c E sum_e f_e mean(p_e - tau),    f_e: share of the tokens that select e

Liu and Luo 2024, AdaMoLE, arXiv:2405.00361. Read in the authors' code (github.com/zefang-liu/AdaMoLE,
`src/adamole/layer.py`): both networks read the map's own undropped input, the gate without bias, the threshold with
one; all start as torch's linear maps, U(±1/sqrt(in)), A too, B zero. tau_max is 1/E unless given; max p is never
below it, so at least one expert is selected. f sums to the mean number of experts a token selects and carries no
gradient, so the loss holds that number down as it balances.

Kept of their defaults: E 8 and dropout 0.05, of the published runs; c 1e-2, of the trainer (the published runs have
1e-3). Theirs are rank 32 / E, alpha 16, all four maps of attention and a rate of 1e-4 for a model of seven billion;
ours rank 8, query and value.

Differences. Their loss is summed over maps, here it is the mean: multiply c by the number of maps. Padding does not
count; there it does. Dropout is drawn once for all experts of a map, there for each. Scores are recorded as `p -
tau`, since a trace keeps no threshold; p is the softmax of the recorded logits.

Known defects: with tau_max above 1/E a token may select nobody and gets the bare base. The same happens where scores
are uniform and tau is at its bound: every excess is 0, and 0 of 0 is taken as 0, as in the authors' code.
"""

import torch
from pydantic import Field
from torch import Tensor, nn

from weft.methods.gates import losses
from weft.methods.gates.call import Call
from weft.methods.gates.gate import Gate, GateSpec, gate
from weft.methods.gates.networks import GateHead
from weft.methods.gates.settings import HeadSpec, TrainedSpec
from weft.methods.gates.trace import GateTrace
from weft.methods.mixtures import contract


class Spec(TrainedSpec):
    """Settings of AdaMoLE."""

    num_experts: int = Field(default=8, ge=1)
    """New experts at each map; experts of runs are as many as there are."""
    dropout: float = Field(default=0.05, ge=0, lt=1)
    """Fraction of a map's input dropped before the experts see it, while training."""
    max_threshold: float | None = Field(default=None, ge=0, le=1)
    """Bound of the threshold, tau_max; None is 1 / experts."""
    balance_weight: float = Field(default=1e-2, ge=0)
    """What the balance adds to the loss; 0 leaves it out."""


class AdaMoLE(contract.Routed):
    """Experts whose score reaches the token's own threshold, by their excess."""

    settings_type = Spec
    spec: Spec

    def build(self, generator: torch.Generator) -> None:
        super().build(generator)
        sizes = [self.stack(module).A.shape[1] for module in self.modules_woven]
        self.thresholds = nn.ModuleList(
            GateHead(size, 1, HeadSpec(depth=1), generator, self.like) for size in sizes
        )

    @property
    def gate_spec(self) -> GateSpec:
        return GateSpec(select="threshold", normalise="renormalise")

    def gate(self, module: str, logits: Tensor, x: Tensor, call: Call) -> Gate:
        tau = self.threshold(module, x)
        found = gate(logits, self.gating, threshold=tau)
        return found._replace(scores=found.scores - tau)

    def threshold(self, module: str, x: Tensor) -> Tensor:
        """What a score must reach, (..., 1), in single precision at least; x (..., in)."""
        own = self.spec.max_threshold
        said = self.thresholds[self.place(module)](x)
        wide = said.to(torch.promote_types(said.dtype, torch.float32))
        return wide.sigmoid() * (1 / len(self.experts) if own is None else own)

    def losses(self, trace: GateTrace) -> dict[str, tuple[float, Tensor]]:
        if not self.spec.balance_weight or not trace.gates:
            return {}
        found = losses.over(_balance(each, trace) for each in trace.gates.values())
        return {"balance": (self.spec.balance_weight, found)}


def _balance(found: Gate, trace: GateTrace) -> Tensor:
    """The loss of one map over real tokens."""
    excess, selected = trace.tokens(found.scores), trace.tokens(found.selected)
    f = selected.to(excess.dtype).mean(0)
    return excess.shape[-1] * (f * excess.mean(0)).sum()

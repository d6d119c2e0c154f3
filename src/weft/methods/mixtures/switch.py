"""Switch: the row's own task says which expert speaks, the reference that knows the answer.

    y = W0 x + b + s_t B_t A_t x,    t the task of the row

Nothing is learned and nothing is mixed; a row's outputs are those of its own expert alone. What a gate without task id
is measured against; with `--task auto` the task is the recognised one. See the multi-task strategies in Cappellazzo et
al. 2025, Omni-AVSR, arXiv:2511.07253, where the task-specific variant is this.
"""

from torch import Tensor

from weft.methods.gates.call import Call
from weft.methods.gates.gate import Gate, GateSpec, gate
from weft.methods.gates.lookup import labels_of
from weft.methods.mixtures import contract


class Switch(contract.Mixture):
    """One-hot gates by task."""

    settings_type = contract.Spec
    by_task = True

    @property
    def gate_spec(self) -> GateSpec:
        return GateSpec(score="raw", select="hard")

    def logits(self, module: str, x: Tensor, z: Tensor, call: Call) -> Tensor:
        return z.new_zeros(*z.shape[:-1], len(self.experts))

    def gate(self, module: str, logits: Tensor, x: Tensor, call: Call) -> Gate:
        return gate(logits, self.gating, labels=labels_of(call, logits))

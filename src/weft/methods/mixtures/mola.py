"""MoLA: each token goes to two of a map's experts, and higher layers have more experts than lower ones.

    y = W0 x + b + sum_e G_e s_e B_e A_e drop(x),    G = the k largest of softmax(W_g x), to sum 1
    loss += c E sum_e f_e p_e,    f_e: share of all selections, p_e: mean of the softmax;    E by layer

Gao et al. 2024, Higher Layers Need More LoRA Experts, arXiv:2402.08562. Read in the authors' code
(github.com/GCYZSL/MoLA, `src/mola_lora_hacked.py` and `mola_modeling_llama_hacked.py`): gate without bias on the
map's own undropped input, softmax in single precision, k 2, W_g and A start U(±1/sqrt(in)), B zero. Kept of their
defaults: rank 8, alpha 16, dropout 0.05, 2, 4, 6 and 8 experts in the four quarters of the layers, which the paper
found best, and c 1e-3, which the code has behind a switch that is off. Theirs are all seven maps of a layer and a
rate of 3e-4 for a model of seven billion; ours query and value.

Differences. The authors give one number of experts a layer; here they are given by groups of layers, so that one list
fits every depth. Their loss is summed over maps, here it is the mean (1 where balanced): multiply c by the number of
maps. Padding does not count; there it does. Dropout is drawn once for all experts of a map, there for each.

Experts of runs are one everywhere: every layer has all of them, and a list of other numbers is refused, as nothing
says which of them a lower layer should lose. A map with fewer than k experts is refused as well.
"""

from collections.abc import Sequence
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from weft.lowrank.roles import layer_index
from weft.methods.gates import losses
from weft.methods.gates.gate import GateSpec
from weft.methods.gates.settings import TrainedSpec, check_k
from weft.methods.gates.stack import Part, Stack
from weft.methods.gates.trace import GateTrace
from weft.methods.mixtures import contract


class Spec(TrainedSpec):
    """Settings of MoLA."""

    num_experts: int = Field(default=8, ge=1)
    """New experts at the maps that have the most; experts of runs are as many as there are."""
    experts_by_layer: list[int] | None = Field(default=None, min_length=1)
    """Experts in groups of layers of equal size, lowest first; None: 1/4 to 4/4 of `num_experts`, at least `top_k`."""
    dropout: float = Field(default=0.05, ge=0, lt=1)
    """Fraction of a map's input dropped before the experts see it, while training."""
    top_k: int = Field(default=2, ge=1)
    """Experts that a token goes to."""
    balance_weight: float = Field(default=1e-3, ge=0)
    """What the balance adds to the loss; 0 leaves it out."""

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        counts = self.experts_by_layer or [self.num_experts]
        if self.start == "nothing":
            check_k(self.top_k, min(counts))
            if max(counts) != self.num_experts:
                raise ValueError(
                    f"experts_by_layer {counts} and num_experts {self.num_experts}: expected its largest number; "
                    f"set num_experts to {max(counts)}"
                )
        return self


class MoLA(contract.Routed):
    """Top-k gates at each map, over as many experts as its layer has."""

    settings_type = Spec
    spec: Spec

    def build(self, generator: torch.Generator) -> None:
        super().build(generator)
        check_k(self.spec.top_k, min(map(self.gates_wide, self.modules_woven)))

    @classmethod
    def from_experts(
        cls, module: str, parts: Sequence[Part | None], frame: contract.Frame, spec: contract.Spec
    ) -> Stack:
        assert isinstance(spec, Spec)
        if any(count != len(parts) for count in spec.experts_by_layer or []):
            raise ValueError(
                f"experts_by_layer {spec.experts_by_layer}: the {len(parts)} experts of runs are at every layer, and "
                "nothing says which a layer should lose; leave it out, or start from nothing"
            )
        return super().from_experts(module, parts, frame, spec)

    @classmethod
    def from_nothing(
        cls,
        module: str,
        weight: Tensor,
        frame: contract.Frame,
        spec: TrainedSpec,
        generator: torch.Generator,
    ) -> Stack:
        assert isinstance(spec, Spec)
        return Stack.new(weight, _count(module, frame, spec), spec.rank, spec.alpha, generator)

    @property
    def gate_spec(self) -> GateSpec:
        return GateSpec(select="top_k", k=self.spec.top_k, normalise="renormalise")

    def losses(self, trace: GateTrace) -> dict[str, tuple[float, Tensor]]:
        if not self.spec.balance_weight or not trace.gates:
            return {}
        found = losses.over(
            losses.balance_norm(trace.tokens(each.scores), trace.tokens(each.selected))
            for each in trace.gates.values()
        )
        return {"balance": (self.spec.balance_weight, found)}


def _count(module: str, frame: contract.Frame, spec: Spec) -> int:
    """New experts at a map; one outside the layers has the most."""
    layer, counts = layer_index(module), spec.experts_by_layer
    groups = 4 if counts is None else len(counts)
    if counts is not None and groups > frame.layers:
        raise ValueError(
            f"experts_by_layer {counts} has {groups} groups for {frame.layers} layers; give at most {frame.layers}"
        )
    if layer is None:
        return spec.num_experts
    # Counted from 1 and rounded up: every group has a layer, and the last layer is in the last group.
    group = -(-(layer + 1) * groups // frame.layers)
    if counts is not None:
        return counts[group - 1]
    return max(spec.top_k, -(-spec.num_experts * group // groups))

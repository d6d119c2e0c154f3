"""SMoRA: one LoRA in which every rank is an expert; each token wakes k of its r ranks.

    q = sigmoid(W_g x), each entry for rank_partition ranks,    I = the k largest of q + b
    g_i = k (q_i + b_i) / sum_{j in I} (q_j + b_j) in I, else 0
    y = W0 x + bias + (alpha / k) B (g * A drop(x)),    after a step: b_i += u sign(mean(c) - c_i), c how often I had i

Zhao et al. 2025, Each Rank Could be an Expert, arXiv:2501.15103. Laws and start values are the authors' code's
(github.com/StyxXuan/smora, `tuners/srmole/layer.py`; there rank 64, k 8, alpha 16, u 1e-5, no dropout, every map, rate
1e-4): A and W_g as torch starts linear maps, B and b zero. The scale is alpha over the k awake ranks, and gates sum to
k, so equal gates are 1: k = r, W_g = 0, b = 0 is a plain LoRA. With rank_partition p it is a mixture of r/p LoRAs of
rank p of which k/p are awake, the identity that the paper starts from.

From experts: their ranks one under the other. Each keeps its own scale and alpha is not used, so that k = r, W_g = 0,
b = 0 is the experts' sum. With smaller k the awake ranks still count 1 on average; nothing makes up for the others.

Differences. b moves once an optimizer step, by counts over real tokens, all micro-batches and all processes; theirs in
every training forward, recomputed ones too, by one process's counts with padding in them. b has no gradient; theirs is
a parameter that PEFT's `set_adapter` makes trainable, so the optimizer moves it as well. W_g reads the whole input and
theirs the dropped one: the same without dropout, as they train; with it, the gate that learns is the one that answers.
Biased scores below 1e-6 count as 1e-6, so that gates sum to k and are finite where b has outweighed q. rank is 32 here.
Known limits: products run over all ranks, so what k saves is capacity, not time; p divides k; no merging.
"""

import torch
from pydantic import Field
from torch import Tensor

from weft.methods.gates.call import Call
from weft.methods.gates.gate import Gate, GateSpec, gate
from weft.methods.gates.networks import Routers
from weft.methods.gates.settings import TrainedSpec
from weft.methods.gates.stack import Stack
from weft.methods.gates.trace import GateTrace
from weft.methods.mixtures import contract


class Spec(TrainedSpec):
    """Settings of SMoRA."""

    num_experts: int = Field(default=1, ge=1, le=1)
    """Always 1: there is one LoRA, whose ranks are the experts."""
    rank: int = Field(default=32, ge=1)
    """Ranks of the new LoRA."""
    alpha: float = Field(default=16.0, gt=0)
    """Strength of the new LoRA: it is scaled by alpha / top_k."""
    top_k: int = Field(default=8, ge=1)
    """Ranks that each token wakes; a multiple of rank_partition."""
    rank_partition: int = Field(default=1, ge=1)
    """Neighbouring ranks that share a gate; 1 gates every rank by itself."""
    bias_rate: float = Field(default=1e-5, ge=0)
    """u: how far the selection bias of a rank moves at each step, against its use."""
    bias_counts: bool = True
    """Whether the bias enters the gates too, or selects and no more (Wang et al. 2024, arXiv:2408.15664)."""


class SMoRA(contract.Mixture):
    """A gate over ranks, kept in balance by a bias instead of a loss."""

    settings_type = Spec
    spec: Spec

    def build(self, generator: torch.Generator) -> None:
        shapes = {}
        for at, module in enumerate(self.modules_woven):
            ranks, inner = self.stack(module).A.shape
            shapes[module] = (_blocks(module, ranks, self.spec), inner)
            self.register_buffer(f"bias{at}", torch.zeros(ranks, device=self.like.device))
        self.routers = Routers(shapes, generator, self.like)
        self._counts: list[Tensor] = []

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
        made = super().from_nothing(module, weight, frame, spec, generator)
        made.scale.fill_(spec.alpha / spec.top_k)
        return made

    def bias(self, module: str) -> Tensor:
        """The selection bias of one map, (ranks,)."""
        return self.get_buffer(f"bias{self.place(module)}")

    @property
    def gate_spec(self) -> GateSpec:
        own = self.spec
        return GateSpec(
            score="sigmoid",
            select="top_k",
            k=own.top_k,
            normalise="sum_to_k",
            bias_counts=own.bias_counts,
        )

    def gates_wide(self, module: str) -> int:
        return self.stack(module).A.shape[0]

    def logits(self, module: str, x: Tensor, z: Tensor, call: Call) -> Tensor:
        return self.routers(module, x).repeat_interleave(self.spec.rank_partition, dim=-1)

    def gate(self, module: str, logits: Tensor, x: Tensor, call: Call) -> Gate:
        return gate(logits, self.gating, bias=self.bias(module))

    def mid(self, module: str, z: Tensor, gates: Tensor) -> Tensor:
        # Not by expert: where experts are as many as ranks, the contract's would take these gates for theirs.
        return z * gates.to(z.dtype)

    def observe(self, trace: GateTrace) -> None:
        for module, counts in zip(self.modules_woven, self.tallies(), strict=True):
            if self.training and module in trace.gates:
                counts.add_(trace.tokens(trace.gates[module].selected).sum(0))

    def tallies(self) -> list[Tensor]:
        if not self._counts:
            each = map(self.bias, self.modules_woven)
            self._counts = [torch.zeros_like(bias, dtype=torch.int64) for bias in each]
        return self._counts

    def after_step(self, done: int, total: int) -> None:
        for module, counts in zip(self.modules_woven, self.tallies(), strict=True):
            # In whole numbers, so that a rank of average use stays where it is.
            over = (len(counts) * counts - counts.sum()).sign()
            self.bias(module).sub_(over, alpha=self.spec.bias_rate)
        self._counts = []


def _blocks(module: str, ranks: int, spec: Spec) -> int:
    if spec.top_k > ranks:
        raise ValueError(
            f"top_k {spec.top_k} is more than the {ranks} ranks on {module}; choose at most {ranks}"
        )
    if ranks % spec.rank_partition or spec.top_k % spec.rank_partition:
        raise ValueError(
            f"rank_partition {spec.rank_partition} does not divide both the {ranks} ranks on {module} "
            f"and top_k {spec.top_k}; choose a divisor of both"
        )
    return ranks // spec.rank_partition

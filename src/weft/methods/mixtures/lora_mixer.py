"""LoRA-Mixer: linear gates that weigh all experts while they learn, and the few best afterwards.

    p = softmax(x W_gᵀ),    y = W0 x + b + sum_e p_e s_e B_e A_e drop(x)        training: all experts
                                                                               inference: top 3, to sum 1
    loss = task loss + RSL + beta sum_e |theta_e - theta_e0|^2
    RSL  = a sum_e p̄_e f̄_e - lambda mean_x H(p(x)),    H(p) = -sum_e p_e log p_e

p̄ is the mean score of the batch's tokens and f̄ each expert's share of their top-k selections, without gradient. The
routed projection is what attention goes on with ("serial"), as at every map here. Where experts learn too, training can
begin with hard routing: the gate is the one-hot of the row's own task, so that expert e learns from task e alone, and
gates get neither gradient nor RSL; meanwhile validation meets gates that have not learned.

Li et al. 2025, LoRA-Mixer, arXiv:2507.00029. The equations are from public summaries and reviews, not from the paper's
text; the authors' repository (github.com/hustcselwb/LoRA-Mixer) held no code in April 2026. Ours are therefore: a 0.01
an expert, lambda 1e-3, beta 0, top-k gates renormalised, means over maps where the paper sums, the share of hard
steps, and that theta_0 is where soft routing begins, so that beta does not undo the hard phase.

Known defects. As published, minimising -lambda H flattens the gates, while the text wants flat ones suppressed; reviews
say so. `entropy_sign` -1 is the formula, +1 the text. With as many selected as there are experts f̄ is constant, so with
up to three experts the first term of RSL has no gradient unless `top_k` is lowered.
"""

from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from weft.methods.gates import losses
from weft.methods.gates.call import Call
from weft.methods.gates.gate import Gate, GateSpec, gate
from weft.methods.gates.lookup import labels_of
from weft.methods.gates.settings import FrozenSpec, check_k
from weft.methods.gates.trace import GateTrace
from weft.methods.mixtures import contract


class Spec(FrozenSpec):
    """Settings of LoRA-Mixer."""

    top_k: int | None = Field(default=None, ge=1)
    """Experts that a token keeps in inference, and that RSL counts; None keeps 3, or all where there are fewer."""
    balance_weight: float | None = Field(default=None, ge=0)
    """a: weight of the load balance; None is 0.01 for each expert."""
    entropy_weight: float = Field(default=1e-3, ge=0)
    """lambda: weight of the gates' entropy."""
    entropy_sign: Literal[-1, 1] = -1
    """-1 as published: training raises the entropy, gates explore; +1 lowers it, gates specialise."""
    preserve_weight: float = Field(default=0.0, ge=0)
    """beta: weight of what holds trained experts where soft routing began; frozen ones stay there anyhow."""
    hard_share: float = Field(default=0.0, ge=0, le=1)
    """Share of the optimizer steps, at the beginning, that route each row to its own task's expert."""

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if self.hard_share and not self.train_experts:
            raise ValueError(
                "hard_share: hard routing trains the experts alone, which are frozen; set train_experts too"
            )
        return self


class LoRAMixer(contract.Routed):
    """Soft gates with a balance and an entropy of their own."""

    settings_type = Spec
    learning_rate = 5e-3
    spec: Spec
    hard: Tensor  # whether the hard phase goes on; a buffer, so that a checkpoint knows

    def build(self, generator: torch.Generator) -> None:
        super().build(generator)
        spec, count = self.spec, len(self.experts)
        check_k(spec.top_k, count)
        self.k = spec.top_k or min(3, count)
        self.register_buffer("hard", torch.full((), spec.hard_share > 0, device=self.like.device))
        self._held = spec.train_experts and spec.preserve_weight > 0
        for at, value in enumerate(self._factors() if self._held else []):
            self.register_buffer(f"start{at}", value.detach().clone())

    @property
    def gate_spec(self) -> GateSpec:
        if self.training:
            return GateSpec()
        return GateSpec(select="top_k", k=self.k, normalise="renormalise")

    def gate(self, module: str, logits: Tensor, x: Tensor, call: Call) -> Gate:
        # Once a call: to look at a buffer waits for the device.
        if "hard" not in call.once:
            call.once["hard"] = self._is_hard()
        if not call.once["hard"]:
            return gate(logits, self.gating)
        return gate(logits, GateSpec(select="hard"), labels=labels_of(call, logits))

    def losses(self, trace: GateTrace) -> dict[str, tuple[float, Tensor]]:
        if self._is_hard():
            return {}
        own = self.spec
        scores = [trace.tokens(said.scores) for said in trace.gates.values()]
        a = 0.01 * len(self.experts) if own.balance_weight is None else own.balance_weight
        found = {
            "balance": (a, losses.over(self._balance(p) for p in scores)),
            "entropy": (
                own.entropy_sign * own.entropy_weight,
                losses.over(map(losses.entropy, scores)),
            ),
        }
        if self._held:
            starts = [self.get_buffer(f"start{at}") for at in range(2 * len(self.stacks))]
            moved = losses.preserve_l2(self._factors(), starts) / len(self.stacks)
            found["preserve"] = (own.preserve_weight, moved)
        return found

    @torch.no_grad()
    def after_step(self, done: int, total: int) -> None:
        # Rounded, for 0.7 * 10 is a little more than 7.
        if self.spec.hard_share and self.hard and done >= round(self.spec.hard_share * total):
            self.hard.fill_(False)
            for at, value in enumerate(self._factors() if self._held else []):
                self.get_buffer(f"start{at}").copy_(value)

    def _is_hard(self) -> bool:
        return self.training and self.spec.hard_share > 0 and bool(self.hard)

    def _balance(self, p: Tensor) -> Tensor:
        """sum_e p̄_e f̄_e: 1 / experts where balanced, 1 / k where collapsed."""
        chosen = gate(p, GateSpec(score="raw", select="top_k", k=self.k)).selected
        return losses.balance_norm(p, chosen) / p.shape[-1]

    def _factors(self) -> list[Tensor]:
        stacks = [self.stack(module) for module in self.modules_woven]
        return [value for stack in stacks for value in (stack.A, stack.B)]

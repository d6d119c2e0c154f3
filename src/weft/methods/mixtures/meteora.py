"""MeteoRA: every map has its own linear gate over finished experts and feels the task by itself, token by token.

    l = x W_gᵀ,    I = the k largest of l,    w_I = softmax(l_I / T)
    y = W0 x + b + sum_{e in I} w_e s_e B_e A_e drop(x)
    loss = task loss + beta * mean over maps and tokens of -log softmax(l)_t,    t the row's own task

Xu, Lai and Huang 2024, MeteoRA, arXiv:2405.13053. From the authors' code (github.com/NJUDeepEngine/meteora:
`MoELoRA/layer.py`, `base_model/llama/modeling_llama_meteor.py`, `meteora_train.py`): k = 2, dropout 0.1, beta = 50,
peak rate 5e-4, a gate without bias that starts as torch's linear maps do (a draw from a normal law before is thrown
away). T is 1 in training and for single tasks; for texts made of 3, 5 and 10 tasks they took 15, 20 and 30.

Differences. From memory the paper holds the experts fixed; the authors' script trains them with the gates:
`train_experts`. Their label loss drops the last position of each text; here every real token counts, and rows whose
task has no expert do not. The softmax is over the selected logits; one over all experts, renormalised after the
selection, is another number unless T is 1. beta is a setting with their default; at 50 the label loss is most of the
sum, which then says little about the task, so the two come apart, to be logged apart.

Known limits. The label is the row's, on every token of it, prompts included: the gate learns to recognise domains. With
k = 1 the gate's weight is 1 whatever its logits, so that the label loss alone trains it.
"""

import torch
from pydantic import Field
from torch import Tensor

from weft.methods.gates import losses
from weft.methods.gates.gate import GateSpec
from weft.methods.gates.settings import FrozenSpec, check_k
from weft.methods.gates.trace import GateTrace
from weft.methods.mixtures import contract


class Spec(FrozenSpec):
    """Settings of MeteoRA."""

    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Fraction of a map's input dropped before the experts see it, while training; the gate sees all of it."""
    top_k: int | None = Field(default=None, ge=1)
    """Experts that a token keeps; None keeps 2, or the only one."""
    temperature: float = Field(default=1.0, gt=0)
    """What the selected logits are divided by in inference; training divides by 1."""
    label_weight: float = Field(default=50.0, ge=0)
    """beta: weight of the gates' cross-entropy against the row's own task; 0 trains by the task's loss alone."""


class MeteoRA(contract.Routed):
    """A top-k gate at each map, told in training which task each row belongs to."""

    settings_type = Spec
    learning_rate = 5e-3
    spec: Spec

    def build(self, generator: torch.Generator) -> None:
        super().build(generator)
        count = len(self.experts)
        check_k(self.spec.top_k, count)
        self.k = self.spec.top_k or min(2, count)

    @property
    def gate_spec(self) -> GateSpec:
        return GateSpec(
            score="raw",
            temperature=1.0 if self.training else self.spec.temperature,
            select="top_k",
            k=self.k,
            normalise="softmax",
        )

    def losses(self, trace: GateTrace) -> dict[str, tuple[float, Tensor]]:
        if not self.spec.label_weight:
            return {}
        each = [losses.task_ce(trace, logits) for logits in trace.logits.values()]
        return {"label_ce": (self.spec.label_weight, losses.over(each))}

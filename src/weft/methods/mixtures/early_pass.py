"""Early-pass gates: X-LoRA whose first pass ends after a layer, asked once for a sequence, told the task in training.

    H = state of the bare base after its first layers (constant: no gradient)
    h = [mean over real tokens; first token], at mean 0 and variance 1 over what training has seen
    S = softmax(head(h) / temperature), the same for all tokens and for all choices of a row
    y = W0 x + b + sum_e S_le s_e B_e A_e drop(x)
    loss = task loss + weight * mean over rows of -log S_t,    t the row's own task

This is ours, after X-LoRA (Buehler and Buehler 2024, arXiv:2402.07148), which runs the whole base first and gates every
token on its own, and MeteoRA (Xu et al. 2024, arXiv:2405.13053), whose label loss it takes. What a sequence is about is
there after one layer, when its first token has looked at all others; so the gates of every map, the first included, are
known before the pass that counts, for 1 / layers of a pass instead of a whole one.

Training mixes softly, so that the tasks' losses reach all experts' gates; inference keeps the likeliest expert: a soft
rest of others costs the recognised expert some of its score. Choices of one row are set against each other, so they get
one gate, from the mean of their logits.

On a decoder a token must not see those after it: there each token has gates of its own, from its own state after those
layers, and the label loss is a mean over tokens. Keys and values of both passes are cached in generation.
"""

from typing import Literal

import torch
from pydantic import Field

from weft.methods.gates.call import Pass
from weft.methods.gates.gate import GateSpec
from weft.methods.gates.settings import HeadSpec, check_k
from weft.methods.mixtures import contract


class Spec(HeadSpec):
    """Settings of early-pass gates."""

    pass_layers: int = Field(default=1, ge=1)
    """How many layers of the bare base are run before the gates speak; as many as it has, or more: all."""
    top_k: int | None = Field(default=1, ge=1)
    """Experts that are kept in inference, their gates summing to 1; None keeps all, as training does."""
    standardise: bool = True
    """Whether what the head reads is brought to mean 0 and variance 1 before, by all that training has seen."""
    reads: Literal["token", "sequence"] = "sequence"
    """Whether every token has gates of its own, as on a decoder it always has, or all of a sequence the same."""
    label_weight: float = Field(default=1.0, ge=0)
    """Weight of the gates' cross-entropy against the row's own task; 0 trains by the tasks' losses alone."""


class EarlyPass(contract.Headed):
    """Two passes, the first of which is short."""

    settings_type = Spec
    spec: Spec

    def build(self, generator: torch.Generator) -> None:
        check_k(self.spec.top_k, len(self.experts))
        super().build(generator)

    @property
    def by_sequence(self) -> bool:
        return self.spec.reads == "sequence" and not self.frame.causal

    @property
    def reads_pass(self) -> Pass:
        return Pass(layers=self.spec.pass_layers)

    @property
    def gate_spec(self) -> GateSpec:
        return GateSpec.kept(None if self.training else self.spec.top_k, self.spec.temperature)

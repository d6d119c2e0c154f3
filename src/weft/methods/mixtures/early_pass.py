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

import torch
from pydantic import Field
from torch import Tensor

from weft.methods.gates import losses
from weft.methods.gates.call import Call, Pass
from weft.methods.gates.gate import GateSpec
from weft.methods.gates.networks import Standard
from weft.methods.gates.reading import shared, summary
from weft.methods.gates.settings import HeadSpec, check_k
from weft.methods.gates.trace import GateTrace
from weft.methods.mixtures import contract


class Spec(HeadSpec):
    """Settings of early-pass gates."""

    pass_layers: int = Field(default=1, ge=1)
    """How many layers of the bare base are run before the gates speak; as many as it has, or more: all."""
    top_k: int | None = Field(default=1, ge=1)
    """Experts that are kept in inference, their gates summing to 1; None keeps all, as training does."""
    label_weight: float = Field(default=1.0, ge=0)
    """Weight of the gates' cross-entropy against the row's own task; 0 trains by the tasks' losses alone."""


class EarlyPass(contract.Headed):
    """Two passes, the first of which is short."""

    settings_type = Spec
    spec: Spec

    def build(self, generator: torch.Generator) -> None:
        check_k(self.spec.top_k, len(self.experts))
        super().build(generator)
        # What tells tasks apart is small beside what all sequences share, the first token's state above all.
        self.standard = Standard(self.inner, self.like)

    @property
    def inner(self) -> int:
        return self.frame.hidden * (1 if self.frame.causal else 2)

    @property
    def reads_pass(self) -> Pass:
        return Pass(layers=self.spec.pass_layers)

    @property
    def gate_spec(self) -> GateSpec:
        own = self.spec
        if self.training or own.top_k is None:
            return GateSpec(temperature=own.temperature)
        return GateSpec(
            temperature=own.temperature, select="top_k", k=own.top_k, normalise="renormalise"
        )

    def ask(self, hidden: Tensor, call: Call) -> Tensor:
        state = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
        if self.frame.causal:
            if self.training:
                self.standard.look(call.trace.tokens(state))
            return self.head(self.standard(state))
        state = summary(state, call.trace.mask, causal=False)
        if self.training:
            self.standard.look(state)
        said = shared(self.head(self.standard(state)), call.trace.rows)
        return said.unsqueeze(1).expand(-1, hidden.shape[1], -1)

    def tallies(self) -> list[Tensor]:
        return [self.standard.fresh]

    def after_step(self, done: int, total: int) -> None:
        self.standard.settle()

    @property
    def row_means(self) -> frozenset[str]:
        return frozenset() if self.frame.causal else frozenset({"label_ce"})

    def losses(self, trace: GateTrace) -> dict[str, tuple[float, Tensor]]:
        if not self.spec.label_weight:
            return {}
        said = list(trace.logits.values())[: None if self.spec.layerwise else 1]
        # An encoder's are the same for all tokens: a row counts once, however long it is.
        each = [own if self.frame.causal else own[:, 0] for own in said]
        return {
            "label_ce": (
                self.spec.label_weight,
                losses.over(losses.task_ce(trace, own) for own in each),
            )
        }

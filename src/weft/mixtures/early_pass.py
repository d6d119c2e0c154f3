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

from weft.gates import losses
from weft.gates.call import Call, Pass
from weft.gates.gate import Gate, GateSpec, gate
from weft.gates.lookup import AtOnce
from weft.gates.networks import GateHead, Standard
from weft.gates.reading import shared, summary
from weft.gates.trace import GateTrace
from weft.mixtures import base


class Spec(base.FrozenSpec):
    """Settings of early-pass gates."""

    pass_layers: int = Field(default=1, ge=1)
    """How many layers of the bare base are run before the gates speak; as many as it has, or more: all."""
    depth: int = Field(default=1, ge=1)
    """Linear maps in the head."""
    width: int = Field(default=128, ge=1)
    """Size between the head's maps."""
    head_dropout: float = Field(default=0.2, ge=0, lt=1)
    """Dropout between the head's maps, while training."""
    layerwise: bool = False
    """Gates of its own for every map, or the same for all."""
    temperature: float = Field(default=1.0, gt=0)
    """What logits are divided by in the softmax."""
    top_k: int | None = Field(default=1, ge=1)
    """Experts that are kept in inference, their gates summing to 1; None keeps all, as training does."""
    label_weight: float = Field(default=1.0, ge=0)
    """Weight of the gates' cross-entropy against the row's own task; 0 trains by the tasks' losses alone."""


class EarlyPass(base.Mixture):
    """Two passes, the first of which is short."""

    settings_type = Spec
    learning_rate = 5e-3
    spec: Spec

    def build(self, generator: torch.Generator) -> None:
        own = self.spec
        base.check_k(own.top_k, len(self.experts))
        wide = self.frame.hidden * (1 if self.frame.causal else 2)
        # What tells tasks apart is small beside what all sequences share, the first token's state above all.
        self.standard = Standard(wide, self.like)
        self.head = GateHead(
            wide,
            len(self.experts) * (len(self.modules_woven) if own.layerwise else 1),
            depth=own.depth,
            width=own.width,
            dropout=own.head_dropout,
            generator=generator,
            like=self.like,
        )

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

    def begin(self, call: Call) -> None:
        assert call.hidden is not None
        state = call.hidden.to(torch.promote_types(call.hidden.dtype, torch.float32))
        if not self.frame.causal:
            state = summary(state, call.trace.mask, causal=False).unsqueeze(1)
        if self.training:
            self.standard.look(call.trace.tokens(state) if self.frame.causal else state[:, 0])
        said = self.head(self.standard(state)).unflatten(-1, (-1, len(self.experts)))
        if not self.frame.causal:
            said = shared(said, call.trace.rows)
        said = said.expand(-1, call.hidden.shape[1], -1, -1)
        call.once["gates"] = AtOnce(said, gate(said, self.gating))

    def tallies(self) -> list[Tensor]:
        return [self.standard.fresh]

    def after_step(self, done: int, total: int) -> None:
        self.standard.settle()

    def logits(self, module: str, x: Tensor, z: Tensor, call: Call) -> Tensor:
        if "gates" not in call.once:
            self.begin(call)
        return call.once["gates"].logits_of(self._at(module))

    def gate(self, module: str, logits: Tensor, x: Tensor, call: Call) -> Gate:
        return call.once["gates"].gate_of(self._at(module))

    def losses(self, trace: GateTrace) -> dict[str, tuple[float, Tensor]]:
        if not self.spec.label_weight:
            return {}
        said = list(trace.logits.values())[: None if self.spec.layerwise else 1]
        # An encoder's are the same for all tokens: every sequence counts once, however long it is.
        each = [own if self.frame.causal else own[:, 0] for own in said]
        return {
            "label_ce": (
                self.spec.label_weight,
                losses.over(losses.task_ce(trace, own) for own in each),
            )
        }

    def _at(self, module: str) -> int:
        return self.place(module) if self.spec.layerwise else 0

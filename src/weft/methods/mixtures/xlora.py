"""X-LoRA: a head reads the frozen model's own answer and weighs the experts, token by token and map by map.

    H = last hidden state of a separate pass without experts (constant: no gradient)
    S = softmax(head(H) / temperature),    y = W0 x + b + g sum_e S_le s_e B_e A_e drop(x)

Buehler and Buehler 2024, X-LoRA, arXiv:2402.07148, section 2.1. The settings are those of the authors' code
(github.com/EricLBuehler/xlora) and of PEFT 0.21.2's `tuners/xlora`: depth, width, layerwise, top-k with or without a
softmax of its own, global weight g, the scaling pass's value. Both defaults are theirs, `layerwise` included.

Differences. Gates multiply the rank-sized projection, not the input: the same value for `in / rank` times less work.
The authors' own top-k softmax runs over all tokens at once; here it is each token's own, as PEFT corrected. Which
experts are selected is a mask, never `score != 0`.

The same settings give other gates in PEFT 0.21.2 (l the logits, T the temperature, K the selected):

    softmax  softmax_top_k  top_k   here                PEFT
    on       on             k       softmax_K(l / T)    softmax_K(softmax(l / T)), nearly uniform
    off      on             k       softmax_K(l / T)    softmax_K(l), whatever T
    on       on             none    softmax(l / T)      softmax(softmax(l / T)), nearly uniform
    off      on             none    l                   softmax(l), whatever T

and with `scaling_value` other than 0 the first pass runs with every gate at that number, where PEFT also multiplies it
by the global weight and selects. Import and export of PEFT folders translate what has a form on the other side and
refuse the rest (`storage/xlora_format.py`).

Ours, not theirs: `balance`, `head_start`, `standardise`, `reads`, `label_weight`, `infer_top_k`.
"""

from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from weft.methods.gates.call import Pass
from weft.methods.gates.gate import Gate, GateSpec
from weft.methods.gates.settings import HeadSpec, check_k
from weft.methods.mixtures import contract


class Spec(HeadSpec):
    """Settings of X-LoRA."""

    width: int = Field(default=2048, ge=1)
    """Size between the head's maps."""
    softmax: bool = True
    """Whether a token's gates sum to 1."""
    top_k: int | None = Field(default=None, ge=1)
    """How many experts a token keeps; None keeps all."""
    softmax_top_k: bool = False
    """Whether the kept gates sum to 1."""
    infer_top_k: int | None = Field(default=None, ge=1)
    """Experts that are kept in inference alone, their gates summing to 1; None keeps what training keeps."""
    global_weight: float = 1.0
    """What all gates are multiplied by."""
    scaling_value: float = 0.0
    """Gates of the first pass; 0 is the bare base."""

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if self.infer_top_k is not None and (self.top_k is not None or not self.softmax):
            raise ValueError(
                f"infer_top_k {self.infer_top_k} keeps the largest of a softmax over all experts; leave top_k away and "
                "softmax on"
            )
        return self


class XLoRA(contract.Headed):
    """Two passes: the first says the gates, the second runs with them."""

    settings_type = Spec
    learning_rate = 5e-3
    spec: Spec

    def build(self, generator: torch.Generator) -> None:
        check_k(self.spec.top_k, len(self.experts))
        check_k(self.spec.infer_top_k, len(self.experts), "infer_top_k")
        super().build(generator)

    @property
    def reads_pass(self) -> Pass | None:
        return Pass(self.spec.scaling_value)

    @property
    def gate_spec(self) -> GateSpec:
        own = self.spec
        if own.infer_top_k is not None:
            return GateSpec.kept(None if self.training else own.infer_top_k, own.temperature)
        inner = own.top_k is not None and own.softmax_top_k
        return GateSpec(
            score="softmax" if own.softmax and not inner else "raw",
            temperature=own.temperature,
            select="dense" if own.top_k is None else "top_k",
            k=own.top_k,
            normalise="softmax" if inner else "none",
        )

    def answer(self, logits: Tensor) -> Gate:
        found = super().answer(logits)
        if self.spec.global_weight == 1:
            return found
        return found._replace(gates=self.spec.global_weight * found.gates)

"""Single-pass X-LoRA: X-LoRA's gates from what one pass already has.

    S = softmax(head(H)),    y = W0 x + b + sum_e S_le s_e B_e A_e drop(x),    H one of three readers

    embedding   H is the input of the first layer, the same for all maps; one head, before layer 0
    layer       maps below layer k have a learned constant gate, softmax of scalars; from layer k on
                a head reads the input of layer k, detached
    local       every map has a linear gate without bias on its own input

This is ours, after X-LoRA (Buehler and Buehler 2024, arXiv:2402.07148), which runs the model twice. `local` is MeteoRA
without top-k and without its label loss. On a decoder a token's state depends on earlier tokens alone, so with keys and
values cached every reader gives the gates it would give without. How good the readers are beside two passes is for the
tables to say.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from weft.lowrank.roles import layer_index
from weft.methods.gates.call import Call
from weft.methods.gates.gate import Gate, GateSpec, gate
from weft.methods.gates.networks import Routers
from weft.methods.gates.settings import HeadSpec, check_k
from weft.methods.mixtures import contract


class Spec(HeadSpec):
    """Settings of single-pass X-LoRA; depth, width and dropout of the head are not for local."""

    reader: Literal["embedding", "layer", "local"] = "embedding"
    """What the gate reads."""
    layer: int = Field(default=1, ge=1)
    """reader layer: the layer, from 0, whose input is read."""
    layerwise: bool = True
    """Gates of its own for every map, or the same for all; local always has its own."""
    infer_top_k: int | None = Field(default=None, ge=1)
    """Experts that are kept in inference alone, their gates summing to 1; None keeps all, as training does."""


class SinglePass(contract.Headed):
    """One pass: the gates come from its own beginning."""

    settings_type = Spec
    learning_rate = 5e-3
    spec: Spec

    def build(self, generator: torch.Generator) -> None:
        own = self.spec
        check_k(own.infer_top_k, len(self.experts), "infer_top_k")
        if own.reader == "layer" and own.layer >= self.frame.layers:
            raise ValueError(
                f"layer {own.layer}: the base has layers 0 to {self.frame.layers - 1}; choose one of them"
            )
        if own.reader == "local":
            if own.standardise or own.reads == "sequence":
                raise ValueError(
                    "reader local: every map reads its own input, token by token, and has no head that standardise or "
                    "reads: sequence could change; choose reader embedding or layer"
                )
            self.standard = None
            shapes = {m: (len(self.experts), self.stack(m).A.shape[1]) for m in self.modules_woven}
            self.routers = Routers(shapes, generator, self.like)
            self._at = {}
            return
        super().build(generator)
        zeros = torch.zeros(len(self.experts), device=self.like.device)
        below = [module for module in self.modules_woven if module not in self._at]
        self.constants = nn.ParameterDict({_key(module): zeros.clone() for module in below})

    @property
    def served(self) -> Sequence[str]:
        found, is_known = [], False
        for module in self.modules_woven:
            at = layer_index(module)
            # Outside of the layers, what is read is known to a map after them, as a pooler's, and to none before.
            is_known = is_known if at is None else at >= self._first
            if is_known:
                found.append(module)
        return found

    @property
    def gate_spec(self) -> GateSpec:
        kept = None if self.training else self.spec.infer_top_k
        return GateSpec.kept(kept, self.spec.temperature)

    @property
    def reads_layer(self) -> int | None:
        return None if self.spec.reader == "local" else self._first

    def begin(self, call: Call) -> None:
        if self.spec.reader != "local":
            super().begin(call)

    def logits(self, module: str, x: Tensor, z: Tensor, call: Call) -> Tensor:
        if module in self._at:
            return super().logits(module, x, z, call)
        if self.spec.reader == "local":
            return self.routers(module, x)
        return self.constants[_key(module)].expand(*x.shape[:-1], -1)

    def gate(self, module: str, logits: Tensor, x: Tensor, call: Call) -> Gate:
        if module in self._at:
            return super().gate(module, logits, x, call)
        return gate(logits, self.gating)

    @property
    def _first(self) -> int:
        return self.spec.layer if self.spec.reader == "layer" else 0


def _key(module: str) -> str:
    # A parameter's name may hold no dot.
    return module.replace(".", "/")

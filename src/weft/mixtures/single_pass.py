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

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from weft.gates.call import Call
from weft.gates.gate import Gate, GateSpec, gate
from weft.gates.lookup import AtOnce
from weft.gates.networks import GateHead
from weft.lowrank.roles import layer_index
from weft.mixtures import base


class Spec(base.FrozenSpec):
    """Settings of single-pass X-LoRA."""

    reader: Literal["embedding", "layer", "local"] = "embedding"
    """What the gate reads."""
    layer: int = Field(default=1, ge=1)
    """reader layer: the layer, from 0, whose input is read."""
    depth: int = Field(default=1, ge=1)
    """Linear maps in the head; not for local."""
    width: int = Field(default=128, ge=1)
    """Size between the head's maps."""
    head_dropout: float = Field(default=0.2, ge=0, lt=1)
    """Dropout between the head's maps, while training."""
    layerwise: bool = True
    """Gates of its own for every map, or the same for all; local always has its own."""
    temperature: float = Field(default=1.0, gt=0)
    """What logits are divided by in the softmax."""


class SinglePass(base.Routed):
    """One pass: the gates come from its own beginning."""

    settings_type = Spec
    spec: Spec

    def build(self, generator: torch.Generator) -> None:
        own, count = self.spec, len(self.experts)
        self._first = 0 if own.reader == "embedding" else own.layer
        layers = {module: layer_index(module) for module in self.modules_woven}
        self._below = {m for m, at in layers.items() if at is not None and at < self._first}
        if own.reader == "layer" and own.layer >= self.frame.layers:
            raise ValueError(
                f"layer {own.layer}: the base has layers 0 to {self.frame.layers - 1}; choose one of them"
            )
        if own.reader == "local":
            super().build(generator)
            return
        self.constants = nn.ParameterDict(
            {
                _key(module): torch.zeros(count, device=self.like.device)
                for module in self.modules_woven
                if module in self._below
            }
        )
        read = [module for module in self.modules_woven if module not in self._below]
        self._read = {module: at for at, module in enumerate(read)}
        self.head = GateHead(
            self.frame.hidden,
            count * (len(read) if own.layerwise else 1),
            depth=own.depth,
            width=own.width,
            dropout=own.head_dropout,
            generator=generator,
            like=self.like,
        )

    @property
    def reads_layer(self) -> int | None:
        return None if self.spec.reader == "local" else self._first

    @property
    def gate_spec(self) -> GateSpec:
        return GateSpec(temperature=self.spec.temperature)

    def begin(self, call: Call) -> None:
        if self.spec.reader == "local":
            return
        assert call.hidden is not None
        said = self.head(call.hidden.detach()).unflatten(-1, (-1, len(self.experts)))
        # All maps at once; what is left for a map is to look up its own.
        call.once["gates"] = AtOnce(said, gate(said, self.gating))

    def logits(self, module: str, x: Tensor, z: Tensor, call: Call) -> Tensor:
        if self.spec.reader == "local":
            return super().logits(module, x, z, call)
        if module in self._below:
            return self.constants[_key(module)].expand(*x.shape[:-1], -1)
        if "gates" not in call.once:
            self.begin(call)
        return call.once["gates"].logits_of(self._at(module))

    def gate(self, module: str, logits: Tensor, x: Tensor, call: Call) -> Gate:
        if self.spec.reader == "local" or module in self._below:
            return super().gate(module, logits, x, call)
        return call.once["gates"].gate_of(self._at(module))

    def _at(self, module: str) -> int:
        return self._read[module] if self.spec.layerwise else 0


def _key(module: str) -> str:
    # A parameter's name may hold no dot.
    return module.replace(".", "/")

"""Linear maps of a base in 8 or 4 bits, by torchao: weights alone, rounded at load; what is computed stays as it is.

int8 has one scale for each row of a weight, int4 one for 32 numbers of a row, or for a row where its length is no
multiple of 32. torchao keeps what int4 rounds to in a byte each on a CPU, so it saves no more memory there than int8. A
product turns the weight back into the input's type first: memory is saved, not time.
"""

import importlib
import importlib.util
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from weft.registry import unknown

Bits = Literal["int8", "int4"]
GROUP = 32
"""Numbers of a row that share a scale in int4."""


class QuantisedLinear(nn.Linear):
    """A frozen linear map whose weight lies in few bits.

    Args:
        exact: The map whose weight is rounded; its bias is taken as it is.
        bits: int8 or int4.
    """

    def __init__(self, exact: nn.Linear, bits: Bits) -> None:
        nn.Module.__init__(self)
        torchao: Any = importlib.import_module("torchao.quantization")

        self.in_features, self.out_features = exact.in_features, exact.out_features
        if bits == "int8":
            config = torchao.Int8WeightOnlyConfig()
        else:
            whole_row = exact.in_features % GROUP
            scales = torchao.PerAxis(0) if whole_row else torchao.PerGroup(GROUP)
            levels: Any = getattr(torch, bits)
            config = torchao.IntxWeightOnlyConfig(weight_dtype=levels, granularity=scales)
        holder = nn.Sequential(nn.Linear(exact.in_features, exact.out_features, bias=False))
        holder[0].weight = nn.Parameter(exact.weight.detach(), requires_grad=False)
        torchao.quantize_(holder, config)
        self.packed = nn.Parameter(holder[0].weight.detach(), requires_grad=False)
        self.bias = exact.bias

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """What the rounded weight stands for, (out, in), made anew each time."""
        return self.packed.dequantize()

    def forward(self, input: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        return linear(input, self.packed, self.bias)


def check(bits: str | None, precision: str = "fp32") -> None:
    """Whether a base can be loaded in so many bits here; None is as it is.

    Raises:
        ValueError: If there is no such form, torchao is not there, or the arithmetic is double.
    """
    if bits is None:
        return
    if bits not in get_args(Bits):
        raise ValueError(f"quantise: {unknown('form', bits, get_args(Bits))}")
    if importlib.util.find_spec("torchao") is None:
        raise ValueError(
            f"quantise: {bits} needs torchao; install it with pip install 'weft[quantised]', or leave quantise away"
        )
    if precision == "fp64":
        raise ValueError(
            f"quantise: {bits} rounds weights, which training.precision=fp64 is to avoid; leave one of them away"
        )


def quantise(trunk: nn.Module, bits: Bits) -> None:
    """Put every linear map of a frozen trunk into few bits; embeddings and norms stay as they are."""
    exact = {
        name: module for name, module in trunk.named_modules() if isinstance(module, nn.Linear)
    }
    for name, module in exact.items():
        parent, _, last = name.rpartition(".")
        setattr(trunk.get_submodule(parent), last, QuantisedLinear(module, bits))


def whole(module: nn.Module) -> nn.Module:
    """A map, or a trunk whose maps are, as ordinary ones again, with the weights that the rounded ones stand for."""
    if isinstance(module, QuantisedLinear):
        found = nn.Linear(module.in_features, module.out_features, bias=False, device="meta")
        found.weight = nn.Parameter(module.weight, requires_grad=False)
        found.bias = module.bias
        return found.train(module.training)
    for name, child in list(module.named_children()):
        setattr(module, name, whole(child))
    return module

"""The networks of gates: a linear map at each map of the trunk, or one head for all of them.

Start values are torch's own for linear maps, U(±1/sqrt(in)), drawn from a CPU generator.
"""

import itertools
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from weft.lowrank.start import normal, uniform


class Routers(nn.Module):
    """One linear gate a map, without bias.

    Args:
        shapes: By map `(experts, in)`.
        generator: Source of the start values.
        like: Says the device.
        std: Draws from a normal law of this deviation instead.
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, int]],
        generator: torch.Generator,
        like: Tensor,
        std: float | None = None,
    ) -> None:
        super().__init__()
        self._place = {module: at for at, module in enumerate(shapes)}
        self.weights = nn.ParameterList(
            uniform(shape, 1 / math.sqrt(shape[1]), generator, like)
            if std is None
            else normal(shape, std, generator, like)
            for shape in shapes.values()
        )

    def weight(self, module: str) -> Tensor:
        """The gate of one map, (experts, in)."""
        return self.weights[self._place[module]]

    def forward(self, module: str, x: Tensor) -> Tensor:
        """(..., in) to logits (..., experts)."""
        weight = self.weight(module)
        return x.to(weight.dtype) @ weight.T


class GateHead(nn.Module):
    """An MLP from a hidden state to logits; `Linear` alone at depth 1.

    Args:
        inner: Size of the state.
        out: Number of logits.
        depth: Linear maps; between them ReLU and dropout.
        width: Size between the maps.
        dropout: Between the maps, while training.
        generator: Source of the start values.
        like: Says the device.
    """

    def __init__(
        self,
        inner: int,
        out: int,
        *,
        depth: int,
        width: int,
        dropout: float,
        generator: torch.Generator,
        like: Tensor,
    ) -> None:
        super().__init__()
        sizes = [inner, *[width] * (depth - 1), out]
        self.maps = nn.ModuleList(
            _linear(before, after, generator, like) for before, after in itertools.pairwise(sizes)
        )
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """(..., inner) to (..., out)."""
        x = x.to(next(self.parameters()).dtype)
        for at, layer in enumerate(self.maps):
            if at:
                x = nn.functional.dropout(x.relu(), self.dropout, self.training)
            x = layer(x)
        return x


def _linear(inner: int, out: int, generator: torch.Generator, like: Tensor) -> nn.Linear:
    layer = nn.Linear(inner, out, device="meta")
    bound = 1 / math.sqrt(inner)
    layer.weight = nn.Parameter(uniform((out, inner), bound, generator, like))
    layer.bias = nn.Parameter(uniform((out,), bound, generator, like))
    return layer

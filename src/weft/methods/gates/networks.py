"""The networks of gates: a linear map at each map of the trunk, or one head for all of them.

Start values are torch's own for linear maps, U(±1/sqrt(in)), drawn from a CPU generator.
"""

import itertools
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from weft.lowrank.start import normal, uniform
from weft.methods.gates.settings import HeadSpec

LEAST = 1e-6
"""The smallest variance that a feature is divided by the root of."""


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
        spec: How many maps, how wide, and the dropout between them; ReLU stands there too.
        generator: Source of the start values.
        like: Says the device.
    """

    def __init__(
        self,
        inner: int,
        out: int,
        spec: HeadSpec,
        generator: torch.Generator,
        like: Tensor,
    ) -> None:
        super().__init__()
        sizes = [inner, *[spec.width] * (spec.depth - 1), out]
        self.maps = nn.ModuleList(
            _linear(before, after, generator, like) for before, after in itertools.pairwise(sizes)
        )
        if spec.head_start == "uniform":
            # Drawn all the same, so that what is drawn after it does not change.
            with torch.no_grad():
                for value in self.maps[-1].parameters():
                    value.zero_()
        self.dropout = spec.head_dropout

    def forward(self, x: Tensor) -> Tensor:
        """(..., inner) to (..., out)."""
        x = x.to(next(self.parameters()).dtype)
        for at, layer in enumerate(self.maps):
            if at:
                x = nn.functional.dropout(x.relu(), self.dropout, self.training)
            x = layer(x)
        return x


class Standard(nn.Module):
    """Features at mean 0 and variance 1, by all that training has seen up to the last step.

    Batches are not measured by themselves: a piece of a step may hold one task alone, and inference one row.

    Args:
        size: Number of features.
        like: Says the device.
    """

    mean: Tensor
    scale: Tensor
    seen: Tensor
    fresh: Tensor

    def __init__(self, size: int, like: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size, device=like.device))
        self.register_buffer("scale", torch.ones(size, device=like.device))
        # Sums of features and of their squares, and the number of rows.
        for name in ("seen", "fresh"):
            self.register_buffer(name, torch.zeros(2 * size + 1, device=like.device))

    def forward(self, x: Tensor) -> Tensor:
        """(..., size) to the same shape."""
        return (x - self.mean.to(x.dtype)) * self.scale.to(x.dtype)

    def look(self, x: Tensor) -> None:
        """Remember rows of a training batch, (rows, size), until the step is done."""
        x = x.detach().to(self.fresh.dtype)
        self.fresh += torch.cat([x.sum(0), x.square().sum(0), x.new_tensor([len(x)])])

    def settle(self) -> None:
        """Take in what was remembered."""
        self.seen += self.fresh
        self.fresh.zero_()
        size = len(self.mean)
        mean, square = (self.seen[:-1] / self.seen[-1].clamp_min(1)).split(size)
        self.mean.copy_(mean)
        self.scale.copy_((square - mean.square()).clamp_min(LEAST).rsqrt())


def _linear(inner: int, out: int, generator: torch.Generator, like: Tensor) -> nn.Linear:
    layer = nn.Linear(inner, out, device="meta")
    bound = 1 / math.sqrt(inner)
    layer.weight = nn.Parameter(uniform((out, inner), bound, generator, like))
    layer.bias = nn.Parameter(uniform((out,), bound, generator, like))
    return layer

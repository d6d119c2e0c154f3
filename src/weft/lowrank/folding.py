"""What a PEFT adapter makes of a weight that is none of the layers' linear maps: heads, poolers, embeddings, biases.

Such a part belongs to one expert alone and is never mixed, so it is kept as the weight that results.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Change(Protocol):
    """A trained change of one parameter."""

    def applied(self, weight: Tensor) -> Tensor:
        """The parameter that results, in the type of `weight`; `weight` itself stays."""
        ...

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether a parameter of that shape can be changed so."""
        ...


@dataclass(frozen=True)
class Product:
    """W + s B A, or with DoRA's magnitudes diag(m / c) (W + s B A), c the row norms."""

    A: Tensor
    B: Tensor
    scaling: float
    magnitude: Tensor | None = None

    def applied(self, weight: Tensor) -> Tensor:
        dtype = torch.promote_types(weight.dtype, torch.float32)
        changed = weight.to(dtype) + self.scaling * (self.B.to(dtype) @ self.A.to(dtype))
        if self.magnitude is not None:
            norms = torch.linalg.vector_norm(changed, dim=1)
            changed = (self.magnitude.to(dtype) / norms.clamp_min(1e-30))[:, None] * changed
        return changed.to(weight.dtype)

    def fits(self, shape: tuple[int, ...]) -> bool:
        sides = self.A.dim() == self.B.dim() == 2 and self.A.shape[0] == self.B.shape[1]
        rows = self.magnitude is None or tuple(self.magnitude.shape) == shape[:1]
        return sides and rows and shape == (self.B.shape[0], self.A.shape[1])


@dataclass(frozen=True)
class Rows:
    """Some rows replaced: tokens that were trained alone."""

    indices: tuple[int, ...]
    values: Tensor

    def applied(self, weight: Tensor) -> Tensor:
        changed = weight.clone()
        changed[list(self.indices)] = self.values.to(weight.dtype)
        return changed

    def fits(self, shape: tuple[int, ...]) -> bool:
        inside = all(0 <= index < shape[0] for index in self.indices)
        return inside and tuple(self.values.shape) == (len(self.indices), *shape[1:])


@dataclass(frozen=True)
class Sum:
    """W + value."""

    value: Tensor

    def applied(self, weight: Tensor) -> Tensor:
        return weight + self.value.to(weight.dtype)

    def fits(self, shape: tuple[int, ...]) -> bool:
        return tuple(self.value.shape) == shape

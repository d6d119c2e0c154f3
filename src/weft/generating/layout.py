"""An expert as one flat vector and back: factors and head, tensor by tensor, in a fixed order."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from weft.lowrank.product import Pair, balanced

State = Mapping[str, Tensor]
"""`<module>.A`, `<module>.B` with every scale in B, and `head.<tensor>`."""

HEAD = "head."


@dataclass(frozen=True)
class Layout:
    """Names and shapes of an expert's tensors, in the order of the vector."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, state: State) -> "Layout":
        """That of a state."""
        return cls(tuple(state), tuple(tuple(value.shape) for value in state.values()))

    @property
    def sizes(self) -> list[int]:
        """Numbers in each tensor."""
        return [prod(shape) for shape in self.shapes]

    @property
    def length(self) -> int:
        """Numbers in all."""
        return sum(self.sizes)

    def flatten(self, state: State) -> Tensor:
        """The vector of a state, (length,), in the type of its tensors.

        Raises:
            ValueError: If a tensor is missing, unknown, or of another shape; names it.
        """
        odd = self.difference(Layout.of(state))
        if odd is not None:
            raise ValueError(odd)
        return torch.cat([state[name].flatten() for name in self.names])

    def unflatten(self, vector: Tensor) -> dict[str, Tensor]:
        """The state of a vector (length or more,); what stands behind is padding."""
        parts = vector[: self.length].split(self.sizes)
        return {
            name: part.view(shape)
            for name, part, shape in zip(self.names, parts, self.shapes, strict=True)
        }

    def difference(self, other: "Layout") -> str | None:
        """How another layout differs, of the first tensor that does; None if it does not."""
        own, others = (dict(zip(one.names, one.shapes, strict=True)) for one in (self, other))
        for name in [*own, *others]:
            if own.get(name) != others.get(name):
                return f"{name}: expected {_said(own.get(name))}, got {_said(others.get(name))}"
        return None


def state_of(factors: Mapping[str, Pair], head: State, form: str) -> dict[str, Tensor]:
    """The state of an expert, its factors in `form`: `canonical` or `trained`."""
    found: dict[str, Tensor] = {}
    for module, (A, B) in factors.items():
        found[f"{module}.A"], found[f"{module}.B"] = (
            balanced(A, B) if form == "canonical" else (A, B)
        )
    return found | {f"{HEAD}{name}": value for name, value in head.items()}


def parted(state: State) -> tuple[dict[str, Pair], dict[str, Tensor]]:
    """Factors by module and the head's tensors of a state."""
    modules = [n.removesuffix(".A") for n in state if n.endswith(".A") and not n.startswith(HEAD)]
    factors = {module: (state[f"{module}.A"], state[f"{module}.B"]) for module in modules}
    head = {n.removeprefix(HEAD): value for n, value in state.items() if n.startswith(HEAD)}
    return factors, head


def _said(shape: tuple[int, ...] | None) -> str:
    return "no such tensor" if shape is None else f"shape {shape}"

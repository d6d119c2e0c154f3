"""Uni-LoRA: every entry of every factor is one of a few trained numbers, which the whole expert shares.

    dW = B A,    entry k of all A and B = theta[i(k)] / sqrt(n[i(k)]),    theta ~ U(±0.02)

Li et al. 2025, Uni-LoRA: One Vector is All You Need, arXiv:2506.00799. All factors of an expert, laid end to end, are
`P theta`: each row of P has one entry, and 1 / sqrt(n), n being how many entries a number stands for, makes its columns
orthonormal, so that distances in theta are distances among the factors. i is drawn once and never trained. There is no
alpha. The start is no no-op; zeros would be one, and would have no gradient, ever.

The construction is the authors' code (github.com/KaiyangLi1992/Uni-LoRA), where we differ in three ways:

- They shuffle the indices of all maps at once; here each map draws its own, and what does not divide evenly goes to the
  numbers that stand for fewest entries so far. n differs by at most one either way, and here ranks may differ by map.
- They shuffle with the global generator, PEFT 0.21.2 with one of its own and makes the indices anew at load; here the
  expert's seed draws them on the CPU and they are saved, so the order of the maps need never be guessed.
- PEFT's `theta_d_length` is 256 by default, whatever the model. The authors' 23,040 numbers for rank 4 on query and
  value of RoBERTa large are a seventeenth of the entries; here, unless `length` is set, it is a sixteenth of them.

PEFT 0.21.2 rounds 1 / sqrt(n) to the base's type; here n is a whole number. The authors' code divides by sqrt(0) where
theta is longer than all factors together; here that is refused. Training spares vectors from weight decay, and theta is
one; the authors' scripts decay it.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from weft.lowrank.start import uniform
from weft.methods.adapters import contract

COMPRESSION = 16
"""Entries of the factors that a number stands for, where `length` is not set."""


class Spec(contract.Spec):
    """Settings of Uni-LoRA."""

    length: int | None = Field(default=None, ge=1)
    """Trained numbers of the whole expert; None takes a sixteenth of the entries of all factors of rank `rank`."""
    init_bound: float = Field(default=0.02, gt=0)
    """The numbers start uniform in ±init_bound."""


class Vector(nn.Module):
    """What the whole expert trains, and how many entries of its factors each number stands for.

    Args:
        length: How many numbers.
        maps: How many adapters will ask for indices.
        bound: Start values are uniform in ±bound.
        generator: Source of the start values.
        like: A tensor on the device to be on.
    """

    counts: Tensor

    def __init__(
        self, length: int, maps: int, bound: float, generator: torch.Generator, like: Tensor
    ) -> None:
        super().__init__()
        self.theta = nn.Parameter(uniform((length,), bound, generator, like))
        counts = torch.zeros(length, dtype=torch.int32, device=like.device)
        self.register_buffer("counts", counts)
        self._maps_left, self._entries = maps, 0

    def assign(self, entries: int, generator: torch.Generator) -> Tensor:
        """The numbers that a map's `entries` stand for, shuffled, (entries,).

        Raises:
            ValueError: If this was the last map and there are fewer entries than numbers.
        """
        length = self.theta.numel()
        self._maps_left -= 1
        self._entries += entries
        if not self._maps_left and self._entries < length:
            raise ValueError(
                f"length {length} is more than the {self._entries} entries of all factors, so some numbers would "
                f"stand for none; set length to at most {self._entries}, or raise the rank"
            )
        if self.counts.device.type == "meta":
            return torch.empty(entries, dtype=torch.int32, device="meta")
        order = torch.randperm(length, generator=generator)
        # A stable sort of the shuffled numbers: the least used first, at random among equals.
        order = order[self.counts.cpu()[order].argsort(stable=True)]
        turns = -(-entries // length)
        index = order.repeat(turns)[:entries].to(torch.int32)
        index = index[torch.randperm(entries, generator=generator)]
        self.counts += torch.bincount(index, minlength=length).to(self.counts.device)
        return index.to(self.counts.device)

    def scaled(self) -> Tensor:
        """`theta / sqrt(n)`, (length,)."""
        return self.theta * self.counts.to(self.theta.dtype).rsqrt()


class UniLoRA(contract.Factored):
    """Both factors are read out of the expert's vector; the adapter has nothing of its own to train."""

    spec_type: ClassVar[type[contract.Spec]] = Spec
    shared: Vector
    index: Tensor
    """Which number each entry of A and then of B is."""

    def start(self, weight: Tensor, generator: torch.Generator) -> None:
        assert isinstance(self.shared, Vector)
        entries = self.rank * sum(weight.shape)
        self.register_buffer("index", self.shared.assign(entries, generator))

    @classmethod
    def share(
        cls, weights: Mapping[str, Tensor], spec: contract.Spec, generator: torch.Generator
    ) -> Vector:
        assert isinstance(spec, Spec)
        entries = spec.rank * sum(sum(weight.shape) for weight in weights.values())
        length = spec.length or max(1, entries // COMPRESSION)
        like = next(iter(weights.values()))
        return Vector(length, len(weights), spec.init_bound, generator, like)

    @classmethod
    def parameter_count(cls, out_features: int, in_features: int, spec: contract.Spec) -> int:
        return 0

    def factors(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        entries = self.shared.scaled().index_select(0, self.index)
        A, B = entries.split([self.rank * weight.shape[1], self.rank * weight.shape[0]])
        return A.view(self.rank, -1), B.view(-1, self.rank)

"""The contract of a merge: the factors of several experts and their weights to the factors of one.

    wanted    dW = sum_i w_i B_i A_i
    error     |dW_merged - dW|_F / |dW|_F, over all maps together, over those of a role, or over one

Pure functions of the factors, map by map: no base, no data. A merge that is not exact says by `errors` how far it is
at every map, of the factors as they are returned. An expert without an adapter at a map counts as no change there, and
one with weight 0 takes no part.
"""

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import ClassVar, Literal, final

import torch
from pydantic import Field
from torch import Tensor

from weft.config import Settings
from weft.lowrank.product import Pair, split, stacked, truncated
from weft.lowrank.roles import Roles, role_of
from weft.lowrank.start import svd, wide

Factors = Mapping[str, Pair]
"""One expert's factors by module."""

_ROUNDING = 1e-14
"""Squares below this share of the ranks' own are what rounding leaves of zero."""


@dataclass(frozen=True)
class Missed:
    """How far one map, or several together, are from the exact weighted sum; squares, so that they add up."""

    squared: float
    """`|dW_merged - dW|_F^2`."""
    whole: float
    """`|dW|_F^2`."""

    def __add__(self, other: "Missed") -> "Missed":
        return Missed(self.squared + other.squared, self.whole + other.whole)

    @property
    def error(self) -> float:
        """The distance as a share of the sum; 0 is exact, infinity something where the sum is nothing."""
        if not self.whole:
            return math.inf if self.squared else 0.0
        return math.sqrt(self.squared / self.whole)


Shares = Sequence[tuple[Pair, float]]
"""The experts' factors at one map, each with what its change is multiplied by."""


@dataclass(frozen=True)
class Merged:
    """One expert's worth of factors, and what was lost."""

    factors: dict[str, Pair]
    wanted: Mapping[str, Shares]
    """What should have come out, by module: the weighted sum of these."""
    clamped: dict[str, int]
    """The rank that a map has where a higher one was asked for: it has no more to give."""

    @cached_property
    @torch.no_grad()
    def missed(self) -> dict[str, Missed]:
        """How far each map is from that; computed when it is asked for, since who only tries weights never does."""
        return {name: _missed(own, self.wanted[name]) for name, own in self.factors.items()}

    @property
    def error(self) -> float:
        """Distance from the exact weighted sum as a share of it, over all maps; 0 is exact."""
        return _together(self.missed.values()).error

    def errors(self, roles: Roles) -> dict[str, float]:
        """The same over the maps of each role; a map that plays none goes by its own name."""
        found: dict[str, list[Missed]] = {}
        for module, missed in self.missed.items():
            found.setdefault(role_of(roles, module) or module, []).append(missed)
        return {role: _together(parts).error for role, parts in found.items()}


class Merge(ABC):
    """Combines experts. A method overrides `pair`.

    Args:
        settings: The method's own settings; None takes their defaults.
    """

    settings_type: ClassVar[type[Settings]] = Settings
    keeps: ClassVar[str]
    """What of the experts is in the result, as a sentence."""
    loses: ClassVar[str]
    """And what is not."""
    alone: ClassVar[str] = ""
    """Why one expert with weight 1 does not come out as it went in, with the settings' defaults; empty: it does."""
    linear: ClassVar[bool] = False
    """Whether the result, before it is cut to a rank, is linear in the weights, with the settings' defaults."""
    one_rank: ClassVar[bool] = False
    """Whether it refuses experts that differ in rank at a map."""
    draws: ClassVar[bool] = False
    """Whether it draws random numbers; if so, the result depends on the seed and not on the order of the experts."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = self.settings_type() if settings is None else settings

    @abstractmethod
    def pair(
        self,
        pairs: Sequence[Pair],
        weights: Sequence[float],
        rank: int,
        generator: torch.Generator,
    ) -> Pair:
        """The merged factors of one map.

        Args:
            pairs: The factors of the experts that have an adapter there; at least one. All of one type, single
                precision or wider.
            weights: One for each.
            rank: The most that the result may have. What has more is brought to the nearest change of that rank
                afterwards, so that a method only heeds it where it can do better.
            generator: Its own for every map, on the CPU.
        """

    def coefficients(self, weights: Sequence[float]) -> Sequence[float]:
        """What the experts' changes are multiplied by in the sum that is wanted: the weights, as a rule."""
        return weights

    def default_rank(self, ranks: Sequence[int]) -> int:
        """The rank of the result where none is asked for, from those of the experts at a map: the largest."""
        return max(ranks)

    @final
    @torch.no_grad()
    def merge(
        self,
        experts: Sequence[Factors],
        weights: Sequence[float],
        *,
        rank: int | None = None,
        seed: int = 0,
    ) -> Merged:
        """Merge experts; a map that an expert leaves alone counts as no change.

        Args:
            experts: Their exact factors by module, in any ranks. A map's result has the type of the first that has it.
            weights: One an expert.
            rank: The most that any map may have; None takes the method's own choice.
            seed: For methods that draw.

        Raises:
            ValueError: If there is no expert, not one weight each, a weight that is not finite or none but zeros, a
                rank below 1, factors that are not finite, or two experts' maps differ in shape.
        """
        _check(experts, weights, rank)
        shares = self.coefficients(weights)
        parts = [(expert, share) for expert, share in zip(experts, shares, strict=True) if share]
        merged: dict[str, Pair] = {}
        wanted: dict[str, Shares] = {}
        clamped: dict[str, int] = {}
        for module in dict.fromkeys(name for expert, _ in parts for name in expert):
            own = [(expert[module], share) for expert, share in parts if module in expert]
            _check_map(module, [pair for pair, _ in own])
            dtype = own[0][0][0].dtype
            found = self._merged(module, own, rank, seed)
            merged[module] = found[0].to(dtype).contiguous(), found[1].to(dtype).contiguous()
            wanted[module] = own
            if rank is not None and len(found[0]) < rank:
                clamped[module] = len(found[0])
        return Merged(merged, wanted, clamped)

    def _merged(self, module: str, own: Shares, rank: int | None, seed: int) -> Pair:
        generator = torch.Generator()
        if self.draws:
            own = sorted(own, key=_fingerprint)
            generator.manual_seed(_seed(seed, module))
        pairs = _widened([pair for pair, _ in own])
        limit = self.default_rank([len(A) for A, _ in pairs]) if rank is None else rank
        A, B = self.pair(pairs, [share for _, share in own], limit, generator)
        return truncated(A, B, limit) if len(A) > limit else (A, B)


class EntrywiseSettings(Settings):
    """Settings that merges entry by entry share."""

    on: Literal["deltas", "factors"] = "deltas"
    """What is merged: the changes `B A`, which is exact but for the method's own losses and the cut to a rank, or A and
    B each for itself as PEFT does, which adds cross terms, depends on how a change was factored and needs one rank."""


class SparseSettings(EntrywiseSettings):
    """Settings of merges that leave entries out."""

    density: float = Field(default=0.5, gt=0, le=1)
    """Share of the entries of every expert that stay."""


class Entrywise(Merge):
    """A merge that treats every entry of a matrix alike. A method overrides `combined`.

    Of the dense changes one expert's is held at a time, and the few sums that a method keeps, for one map.
    """

    settings_type: ClassVar[type[Settings]] = EntrywiseSettings
    settings: EntrywiseSettings

    @abstractmethod
    def combined(
        self, matrices: Iterable[tuple[Tensor, float]], generator: torch.Generator
    ) -> Tensor:
        """One matrix made of several of one shape, each with its weight; at least one, and each is seen once."""

    def pair(
        self,
        pairs: Sequence[Pair],
        weights: Sequence[float],
        rank: int,
        generator: torch.Generator,
    ) -> Pair:
        def combine(matrices: Iterable[tuple[Tensor, float]]) -> Tensor:
            return self.combined(matrices, generator)

        if self.settings.on == "factors":
            return added_factors(pairs, weights, combine)
        changes = (B @ A for A, B in pairs)
        return split(*svd(combine(zip(changes, weights, strict=True))), rank)


def added_factors(
    pairs: Sequence[Pair],
    weights: Sequence[float],
    combine: Callable[[Iterable[tuple[Tensor, float]]], Tensor],
) -> Pair:
    """Factors of one change, the A's combined to one and the B's to another, as PEFT does.

    Each takes the root of a weight's size, and A its sign.

    Raises:
        ValueError: If the experts differ in rank.
    """
    check_one_rank(pairs, "merge the changes instead (cat, svd, sum, or `on: deltas`)")
    roots = [math.sqrt(abs(weight)) for weight in weights]
    signed = [math.copysign(root, weight) for root, weight in zip(roots, weights, strict=True)]
    A = combine(zip((A for A, _ in pairs), signed, strict=True))
    return A, combine(zip((B for _, B in pairs), roots, strict=True))


def weighted_sum(matrices: Iterable[tuple[Tensor, float]]) -> Tensor:
    """The sum of matrices, each times its weight; one is held at a time."""
    parts = iter(matrices)
    matrix, weight = next(parts)
    total = weight * matrix
    for matrix, weight in parts:
        total.add_(matrix, alpha=weight)
    return total


def _together(parts: Iterable[Missed]) -> Missed:
    return reduce(lambda one, other: one + other, parts, Missed(0.0, 0.0))


def _missed(merged: Pair, own: Shares) -> Missed:
    """The distance of factors from a weighted sum, in double precision and without the dense product."""
    pairs = [(A.double(), B.double()) for (A, B), _ in own]
    A, B = stacked(pairs, [share for _, share in own])
    down, up = (value.double() for value in merged)
    # <b a, b' a'> = <b, b'> <a, a'> for every two ranks; a squared norm is a sum of these.
    A, B = torch.cat([down, A]), torch.cat([up, B], dim=1)
    products = (B.T @ B) * (A @ A.T)
    n = len(down)
    theirs = products[n:, n:]
    whole = theirs.sum()
    squared = products[:n, :n].sum() - 2 * products[:n, n:].sum() + whole
    # No square can be known better than the rounding of what it was summed from.
    floor = _ROUNDING * (products[:n, :n].sum() + theirs.diagonal().sum())
    return Missed(*(value.item() if value > floor else 0.0 for value in (squared, whole)))


def _widened(pairs: Sequence[Pair]) -> list[Pair]:
    values = [(wide(A), wide(B)) for A, B in pairs]
    dtype = reduce(torch.promote_types, [A.dtype for A, _ in values])
    return [(A.to(dtype), B.to(dtype)) for A, B in values]


def _fingerprint(own: tuple[Pair, float]) -> tuple[bytes, float]:
    """An order of experts that is not the one they came in."""
    digest = hashlib.blake2b(digest_size=16)
    for value in own[0]:
        digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.digest(), own[1]


def _seed(seed: int, module: str) -> int:
    """A map's own seed, which does not change with the other maps."""
    found = hashlib.blake2b(f"{seed} {module}".encode(), digest_size=7).digest()
    return int.from_bytes(found, "big")


def check_weights(weights: Sequence[float]) -> None:
    """Refuse weights that make no merge.

    Raises:
        ValueError: If one is not finite, or none is other than zero.
    """
    shown = ", ".join(f"{weight:g}" for weight in weights)
    if not all(map(math.isfinite, weights)):
        raise ValueError(f"weights {shown}: every weight is a finite number")
    if not any(weights):
        raise ValueError(f"weights {shown}: nothing would be left; give at least one that is not 0")


def check_one_rank(pairs: Sequence[Pair], instead: str) -> None:
    """Refuse experts whose factors cannot be added up.

    Args:
        pairs: Theirs at one map.
        instead: What to do, as the error says it.

    Raises:
        ValueError: If they differ in rank.
    """
    ranks = sorted({len(A) for A, _ in pairs})
    if len(ranks) > 1:
        said = ", ".join(map(str, ranks))
        raise ValueError(f"experts of ranks {said} have no sum of factors; {instead}")


def _check(experts: Sequence[Factors], weights: Sequence[float], rank: int | None) -> None:
    if not experts or len(experts) != len(weights):
        raise ValueError(
            f"{len(experts)} experts and {len(weights)} weights: give at least one expert, and a weight each"
        )
    check_weights(weights)
    if rank is not None and rank < 1:
        raise ValueError(f"rank {rank}: a merged expert has at least rank 1")


def _check_map(module: str, pairs: Sequence[Pair]) -> None:
    shapes = {(B.shape[0], A.shape[1]) for A, B in pairs}
    if len(shapes) > 1:
        raise ValueError(
            f"{module} is {' and '.join(f'{out} x {inner}' for out, inner in sorted(shapes))} in different "
            "experts: they belong to different bases"
        )
    if not all(bool(value.isfinite().all()) for pair in pairs for value in pair):
        raise ValueError(
            f"{module} has factors that are not finite in one of the experts: its training went wrong, leave it out"
        )

"""What an expert has woven into a trunk: a value, which the calls that name the expert carry with them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from torch import Tensor, nn


class Term(Protocol):
    """What equation (U) asks of an adapter at one map."""

    rank: int
    dropout: float
    low_rank: ClassVar[bool]

    def __call__(self, x: Tensor, weight: Tensor) -> Tensor: ...

    def factors(self, weight: Tensor) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True, eq=False)
class Woven:
    """One expert in a trunk; never changed: another version of the expert is another value.

    Attributes:
        terms: What it adds, by the name of the linear map.
        copies: Its own modules by the name of the base's that they stand for.
        finishing: Maps whose output, base and experts together, goes through `finish`.
    """

    terms: Mapping[str, Term] = field(default_factory=dict)
    copies: Mapping[str, nn.Module] = field(default_factory=dict)
    finishing: frozenset[str] = frozenset()

    def finish(self, module: str, y: Tensor) -> Tensor:
        """The output of one of `finishing` as the trunk gets it."""
        return y

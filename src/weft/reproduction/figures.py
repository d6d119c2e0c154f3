"""One published number and its address."""

from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple


class Address(NamedTuple):
    """Where a figure stands; None where the table makes no difference."""

    table: int
    base: str | None
    method: str | None
    task: str | None
    metric: str

    def __str__(self) -> str:
        return "/".join("-" if part is None else str(part) for part in self)


@dataclass(frozen=True)
class Figure:
    """One published number."""

    address: Address
    printed: str
    unit: str
    machine: str | None

    @property
    def value(self) -> Decimal:
        return Decimal(self.printed)

"""Which experts speak for which sequences in *this* call.

A route is a value that travels with the call in a context variable. No module remembers it, so threads that call one
model with different routes cannot disturb each other.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from weft.scoped import scoped

Members = tuple[str, ...]
"""Names of the experts whose adapters add up for a sequence; () is the bare base."""


@dataclass(frozen=True)
class Route:
    """Experts by sequence. Build one with `Route.everywhere`, `Route.by_row` or `Route.by_sequence`.

    Attributes:
        members: The distinct sets of experts of this call.
        choice: For every sequence its index into `members`; None if one set serves the whole call.
        owners: For every sequence the expert whose head answers, which gates by task read; a single one owns the
            whole call, None is unknown.
        rows: For every sequence the first of those that it is answered together with, as choices of a row are; None:
            each for itself.
    """

    members: tuple[Members, ...]
    choice: tuple[int, ...] | None = None
    owners: tuple[str, ...] | None = None
    rows: tuple[int, ...] | None = None

    @classmethod
    def everywhere(cls, *experts: str) -> "Route":
        """The same experts for every sequence, however many there are."""
        return cls((tuple(dict.fromkeys(experts)),))

    @classmethod
    def by_row(
        cls, rows: Sequence[str | Members | None], sequences_per_row: Sequence[int]
    ) -> "Route":
        """Experts by row of a heterogeneous batch, expanded once to the sequences each row owns.

        Args:
            rows: For each row an expert's name, several names whose adapters add up, or None for the bare base.
            sequences_per_row: How many sequences each row owns (choices, windows).

        Raises:
            ValueError: If the two differ in length.
        """
        if len(rows) != len(sequences_per_row):
            raise ValueError(
                f"a route needs one entry a row: got {len(rows)} names for {len(sequences_per_row)} rows"
            )
        return cls.by_sequence(
            [row for row, count in zip(rows, sequences_per_row, strict=True) for _ in range(count)]
        )

    @classmethod
    def by_sequence(cls, sequences: Sequence[str | Members | None]) -> "Route":
        """Experts by sequence, in the order of the batch."""
        sets = [
            () if item is None else (item,) if isinstance(item, str) else tuple(dict.fromkeys(item))
            for item in sequences
        ]
        members = tuple(dict.fromkeys(sets))
        if len(members) == 1:
            return cls(members)
        place = {item: number for number, item in enumerate(members)}
        return cls(members, tuple(place[item] for item in sets))

    @cached_property
    def experts(self) -> tuple[str, ...]:
        """Every expert that takes part, once, in order of appearance."""
        return tuple(dict.fromkeys(name for members in self.members for name in members))

    @cached_property
    def pairs(self) -> dict[str, list[int]]:
        """For each expert the sequences it speaks for, ascending; only where `choice` is set."""
        found: dict[str, list[int]] = {name: [] for name in self.experts}
        for sequence, number in enumerate(self.choice or ()):
            for name in self.members[number]:
                found[name].append(sequence)
        return found

    def mask(self, ranks: dict[str, int], like: Tensor) -> Tensor:
        """1 where a sequence's experts own the rank, else 0: (sequences, 1, sum of ranks), as `like`."""
        rows = torch.tensor(
            [[float(name in members) for name in ranks] for members in self.members],
            dtype=like.dtype,
        )
        wide = rows.repeat_interleave(torch.tensor(list(ranks.values())), dim=1)
        return wide[list(self.choice or (0,))].unsqueeze(1).to(like.device)

    def owned(self, owners: Sequence[str]) -> "Route":
        """The same experts, and who owns the sequences: one name for each, or one for all."""
        return replace(self, owners=tuple(owners))

    def together(self, rows: Sequence[int]) -> "Route":
        """The same experts, and which sequences are answered with which: for each the first of its row."""
        return replace(self, rows=tuple(rows) if len(set(rows)) < len(rows) else None)


_current: ContextVar[Route | None] = ContextVar("weft_route", default=None)
_rows: ContextVar[Tensor | None] = ContextVar("weft_rows", default=None)


def current_route() -> Route | None:
    """The route of the call under way in this thread or task; None means the bare base."""
    return _current.get()


def routed(route: Route | None) -> AbstractContextManager[Route | None]:
    """Calls inside the block follow `route`; the route outside returns afterwards."""
    return scoped(_current, route)


def current_rows() -> Tensor | None:
    """Which of the call's sequences a term is being given, ascending; None means all."""
    return _rows.get()


def given_rows(index: Tensor) -> AbstractContextManager[Tensor | None]:
    """Terms inside the block see the sequences in `index` only."""
    return scoped(_rows, index)

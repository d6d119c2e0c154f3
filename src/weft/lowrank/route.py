"""Which experts speak for which sequences in *this* call, and what they say.

A route, and with it what its experts have woven in, travels with the call in a context variable. No module remembers
either: threads that call one model with different routes cannot disturb each other, and a call that is under way while
an expert is replaced goes on with the one it began with.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from weft.lowrank.woven import Woven
from weft.registry import unknown
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
        states: For every sequence numbers that gates may read, of whom its row is for; None where it has none, or
            where no sequence has.
    """

    members: tuple[Members, ...]
    choice: tuple[int, ...] | None = None
    owners: tuple[str, ...] | None = None
    rows: tuple[int, ...] | None = None
    states: tuple[Sequence[float] | None, ...] | None = None

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

    def told(self, states: Sequence[Sequence[float] | None]) -> "Route":
        """The same experts, and what is known of whom each sequence is for."""
        known = any(state is not None for state in states)
        return replace(self, states=tuple(states)) if known else self


class Voices(NamedTuple):
    """Who speaks in a call, and what they have woven in.

    Attributes:
        route: Which experts speak for which sequences.
        woven: What each of them has woven in, by name, in the order of `route.experts`.
        finishing: Those of them that have the last word on some map's output.
        kept: What maps keep, by name, for the next call by the same experts of the same sequences; None where a call
            stands alone.
    """

    route: Route
    woven: Mapping[str, Woven]
    finishing: tuple[Woven, ...]
    kept: dict[str, Any] | None = None


_current: ContextVar[Voices | None] = ContextVar("weft_voices", default=None)
_rows: ContextVar[Tensor | None] = ContextVar("weft_rows", default=None)


def current_voices() -> Voices | None:
    """Who speaks in the call under way in this thread or task; None means the bare base."""
    return _current.get()


def current_route() -> Route | None:
    """The route of the call under way in this thread or task; None means the bare base."""
    voices = _current.get()
    return None if voices is None else voices.route


def routed(
    route: Route | None,
    woven: Mapping[str, Woven] | None = None,
    kept: dict[str, Any] | None = None,
) -> AbstractContextManager[Voices | None]:
    """Calls inside the block follow `route`; the route outside returns afterwards.

    Args:
        route: Who speaks; None is the bare base.
        woven: What experts have woven in, by name; those that the route does not name may be missing.
        kept: As of `Voices`; the same mapping for all calls that are alike.

    Raises:
        KeyError: If the route names an expert that has nothing here.
    """
    if route is None:
        return scoped(_current, None)
    known = woven or {}
    for name in route.experts:
        if name not in known:
            raise KeyError(unknown("expert", name, known))
    own = {name: known[name] for name in route.experts}
    finishing = tuple(one for one in own.values() if one.finishing)
    return scoped(_current, Voices(route, own, finishing, kept))


def voiced(voices: Voices | None) -> AbstractContextManager[Voices | None]:
    """Calls inside the block are those of `voices`, as where a layer is computed a second time."""
    return scoped(_current, voices)


def current_rows() -> Tensor | None:
    """Which of the call's sequences a term is being given, ascending; None means all."""
    return _rows.get()


def given_rows(index: Tensor) -> AbstractContextManager[Tensor | None]:
    """Terms inside the block see the sequences in `index` only."""
    return scoped(_rows, index)

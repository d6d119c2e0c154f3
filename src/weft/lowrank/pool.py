"""The adapters of many experts at one linear map, and the paths that compute their sum.

    dense     z = x A_catᵀ, masked by sequence, then z B_catᵀ: two large products, work grows with all ranks
    grouped   every sequence meets only its own experts' factors: one batched product for each distinct rank
    segments  for adapters that have no factors: each expert's own forward on its own sequences

All three are the same equation (U) with one-hot gates and agree in values and gradients. Ranks may differ: nothing is
padded. A call stacks the factors of its own experts, so how many others there are costs nothing, and none of them is
stacked anew when one comes or goes.
"""

import operator
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from weft.base.dropout import dropout
from weft.lowrank.route import Route, Voices, given_rows
from weft.lowrank.woven import Term, Woven
from weft.scoped import scoped

DENSE_UP_TO = {"cpu": 8, "cuda": 64, "mps": 64}
"""Sum of ranks up to which the dense path runs, by device type; benchmarks/overhead.py measures the crossover."""


class Factors:
    """A trained adapter reduced to its exact factors, for inference: `delta = B @ A`.

    Args:
        A: (rank, in).
        B: (out, rank), every scale folded in.
    """

    dropout = 0.0
    low_rank: ClassVar[bool] = True

    def __init__(self, A: Tensor, B: Tensor) -> None:
        self.A, self.B = A, B
        self.rank = A.shape[0]

    def __call__(self, x: Tensor, weight: Tensor) -> Tensor:
        return _product(x, self.A, self.B)

    def factors(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return self.A, self.B


class Scaled:
    """A term without factors, times a number.

    Args:
        term: The term.
        weight: The number.
    """

    dropout = 0.0
    low_rank: ClassVar[bool] = False

    def __init__(self, term: Term, weight: float) -> None:
        self.term, self.weight, self.rank = term, weight, term.rank

    def __call__(self, x: Tensor, weight: Tensor) -> Tensor:
        return self.weight * self.term(x, weight)

    def factors(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError("a term without factors has none times a number either")


def scaled(own: Woven, weight: float) -> Woven:
    """What an expert has woven in as it answers, times a number.

    Raises:
        ValueError: If it has copies of modules, or the last word on some map: neither can be weighed.
    """
    if own.copies or own.finishing:
        what = "its own copy of " + next(iter(own.copies)) if own.copies else "gates"
        raise ValueError(
            f"it has {what}, which no weight can be given to; give it the weight 1 alone"
        )
    terms: dict[str, Term] = {}
    for name, term in own.terms.items():
        if isinstance(term, Factors):
            terms[name] = Factors(term.A, weight * term.B)
        else:
            terms[name] = Scaled(term, weight)
    return Woven(terms)


_forced: ContextVar[str | None] = ContextVar("weft_path", default=None)


def along(path: str | None) -> AbstractContextManager[str | None]:
    """Heterogeneous batches inside the block are computed by `path` (dense, grouped, segments); None: the constant."""
    return scoped(_forced, path)


def add_up(
    y: Tensor,
    x: Tensor,
    weight: Tensor,
    module: str,
    voices: Voices,
    *,
    training: bool,
) -> Tensor:
    """`y` plus what the call's experts add at one map.

    Args:
        y: The frozen map's output, (sequences, seq, out).
        x: Its input, (sequences, seq, in).
        weight: The frozen weight, (out, in).
        module: The map's name.
        voices: Who speaks for which sequence, and with what.
        training: Whether dropout acts.

    Raises:
        ValueError: If a heterogeneous route meets an input with another number of sequences.
    """
    route, woven, finishing, kept = voices
    here = {name: own.terms[module] for name, own in woven.items() if module in own.terms}
    if not here:
        return y
    y = _sum(y, x, weight, _At(module, route, here, kept), training=training)
    for own in finishing:
        if module in own.finishing:
            y = own.finish(module, y)
    return y


def _sum(
    y: Tensor,
    x: Tensor,
    weight: Tensor,
    at: "_At",
    *,
    training: bool,
) -> Tensor:
    route, here = at.route, at.terms
    rates = {term.dropout for term in here.values()} if training else {0.0}
    if route.choice is None:
        if len(rates) == 1:
            x = _dropout(x, rates.pop())
            return _everywhere(y, x, weight, here)
        for term in here.values():
            y = y + term(_dropout(x, term.dropout), weight).to(y.dtype)
        return y
    if x.shape[0] != len(route.choice):
        raise ValueError(
            f"the route names experts for {len(route.choice)} sequences, the module got an input of "
            f"shape {tuple(x.shape)}; say `sequences_per_row` for rows that own several"
        )
    if len(rates) > 1:
        return _segments(y, x, weight, route, here, training=training)
    x = _dropout(x, rates.pop())
    path = _forced.get() or _path(here, x.device.type)
    if path == "segments":
        return _segments(y, x, weight, route, here)
    if path == "dense":
        return _dense(y, x, weight, route, here)
    for group in at.groups(weight):
        chosen = x if group.index is None else x[group.index]
        delta = torch.bmm(torch.bmm(chosen.to(group.A.dtype), group.A.mT), group.B.mT).to(y.dtype)
        y = y + delta if group.index is None else y.index_add(0, group.index, delta)
    return y


def _everywhere(y: Tensor, x: Tensor, weight: Tensor, here: Mapping[str, Term]) -> Tensor:
    if len(here) == 1 or not all(term.low_rank for term in here.values()):
        for term in here.values():
            y = y + term(x, weight).to(y.dtype)
        return y
    A, B = _concatenated([term.factors(weight) for term in here.values()])
    return y + _product(x, A, B).to(y.dtype)


def _dense(y: Tensor, x: Tensor, weight: Tensor, route: Route, here: Mapping[str, Term]) -> Tensor:
    factors = {name: term.factors(weight) for name, term in here.items()}
    A, B = _concatenated(factors.values())
    z = x.to(A.dtype) @ A.T
    # Exact factors may have more rows than the adapter's own rank.
    ranks = {name: down.shape[0] for name, (down, _) in factors.items()}
    return y + ((z * route.mask(ranks, z)) @ B.T).to(y.dtype)


class _Group(NamedTuple):
    """Sequences whose experts' factors are of one rank.

    Attributes:
        index: Their places in the batch; None where they are all of it, in order.
        A: Each sequence's own, (sequences, rank, in).
        B: Each sequence's own, (sequences, out, rank).
    """

    index: Tensor | None
    A: Tensor
    B: Tensor


class _At(NamedTuple):
    """Who speaks at one map.

    Attributes:
        module: The map's name.
        route: Which experts speak for which sequences.
        terms: What they say here, by name.
        kept: As of `Voices`.
    """

    module: str
    route: Route
    terms: Mapping[str, Term]
    kept: dict[str, Any] | None

    def groups(self, weight: Tensor) -> list[_Group]:
        """The factors of the batch put together, or as the call before left them for the same terms and sequences."""
        terms = tuple(self.terms.values())
        if self.kept is None or not all(type(term) is Factors for term in terms):
            return _grouped(self.route, self.terms, weight)
        choice, own, found = self.kept.get(self.module, (None, (), []))
        # The very same terms: names may have come to mean others.
        same = len(own) == len(terms) and all(map(operator.is_, own, terms))
        if choice != self.route.choice or not same:
            found = _grouped(self.route, self.terms, weight)
            self.kept[self.module] = self.route.choice, terms, found
        return found


def _grouped(route: Route, here: Mapping[str, Term], weight: Tensor) -> list[_Group]:
    factors = {name: term.factors(weight) for name, term in here.items()}
    by_rank: dict[int, list[str]] = defaultdict(list)
    for name, (A, _) in factors.items():
        by_rank[A.shape[0]].append(name)
    found = []
    for names in by_rank.values():
        pairs = sorted((sequence, name) for name in names for sequence in route.pairs[name])
        sequences = [sequence for sequence, _ in pairs]
        A = _rows(names, pairs, [factors[name][0] for name in names])
        B = _rows(names, pairs, [factors[name][1] for name in names])
        # Row by row in the batch's own order where each sequence has exactly one expert: no gather of x.
        whole = sequences == list(range(len(route.choice or ())))
        index = None if whole else torch.tensor(sequences, device=weight.device)
        found.append(_Group(index, A, B))
    return found


def _segments(
    y: Tensor,
    x: Tensor,
    weight: Tensor,
    route: Route,
    here: Mapping[str, Term],
    *,
    training: bool = False,
) -> Tensor:
    for name, term in here.items():
        index = torch.tensor(route.pairs[name], device=x.device)
        chosen = _dropout(x[index], term.dropout if training else 0.0)
        with given_rows(index):
            change = term(chosen, weight)
        y = y.index_add(0, index, change.to(y.dtype))
    return y


def _path(here: Mapping[str, Term], device: str) -> str:
    if not all(term.low_rank for term in here.values()):
        return "segments"
    total = sum(term.rank for term in here.values())
    return "dense" if total <= DENSE_UP_TO.get(device, 0) else "grouped"


def _dropout(x: Tensor, rate: float) -> Tensor:
    return dropout(x, rate) if rate else x


def _product(x: Tensor, A: Tensor, B: Tensor) -> Tensor:
    return (x.to(A.dtype) @ A.T) @ B.T


def _concatenated(factors: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """`A_cat (ranks, in)` and `B_cat (out, ranks)` of the experts that take part."""
    downs, ups = zip(*factors, strict=True)
    return torch.cat(downs), torch.cat(ups, dim=1)


def _rows(names: list[str], pairs: list[tuple[int, str]], matrices: list[Tensor]) -> Tensor:
    """Each pair's own matrix, stacked: (pairs, ...)."""
    place = {name: number for number, name in enumerate(names)}
    index = torch.tensor([place[name] for _, name in pairs], device=matrices[0].device)
    return torch.stack(matrices)[index]

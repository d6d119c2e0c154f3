"""Rows as people look at them: what was said beside what is right; the worst of them; what confidence is worth.

A kind makes a `Case` of a row (`Task.case`); `mistakes_of` keeps of all rows the worst few and, of every claim, how
confident it was and whether it was right. Plain values: no model, no task and no data is needed to show them later.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np

WORST = 24
"""Rows that are kept with their text."""
LONGEST = 600
"""Characters that are kept of a text: a longer one is cut around what is marked."""
BINS = 10
"""Parts of equal width that confidences from 0 to 1 fall into."""

Verdict = Literal["right", "wrong", "missed", "said"]
Resample = Callable[[np.ndarray], np.ndarray]
"""Makes of what is counted row by row, (rows, k), its sums in resamples of the rows, (resamples, k)."""


@dataclass(frozen=True)
class Mark:
    """A part of a text and what there is to say of it."""

    start: int
    end: int
    """Characters."""
    label: str
    verdict: Verdict
    """Said and right; said and not right; right and not said; said where nobody knows what is right."""


@dataclass(frozen=True)
class Option:
    """One of several possible answers."""

    text: str
    probability: float
    is_right: bool


@dataclass(frozen=True)
class Claim:
    """One thing that was said, which is right or not: an answer, an entity."""

    confidence: float
    """0 to 1."""
    is_right: bool


@dataclass(frozen=True)
class Case:
    """One row with its answer and the right one."""

    id: str
    text: str
    said: str
    right: str
    claims: tuple[Claim, ...]
    wrong: tuple[str, ...] = ()
    """What is wrong with it, a word for each mistake; nothing where all is right."""
    loss: float = 0.0
    """How wrong it is, comparable within a task alone."""
    asked: str = ""
    """The question, where there is one."""
    marks: tuple[Mark, ...] = ()
    """In the order of the text, apart from each other."""
    options: tuple[Option, ...] = ()


@dataclass(frozen=True)
class Reliability:
    """Of claims of like confidence, how many are right: by bin of confidence, the lowest first."""

    counts: tuple[int, ...]
    right: tuple[int, ...]
    confidence: tuple[float, ...]
    """Sum over the claims of a bin."""
    ece: float
    """Expected calibration error: the mean distance of a claim's bin from its share of right claims, 0 to 1."""
    low: float
    high: float
    """Its 95 % bootstrap interval over rows."""


@dataclass(frozen=True)
class Mistakes:
    """What an expert got wrong on one split."""

    n: int
    """Rows."""
    wrong: int
    """Rows with a mistake."""
    kinds: dict[str, int]
    """How often each mistake was made, the commonest first."""
    worst: tuple[Case, ...]
    """The largest losses first; at most `WORST`."""
    reliability: Reliability | None
    """None where nothing was claimed."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Mistakes":
        """What `as_json` gave, read back."""
        found = values["reliability"]
        reliability = None
        if found is not None:
            lists = {key: tuple(found[key]) for key in ("counts", "right", "confidence")}
            reliability = Reliability(**{**found, **lists})
        own = {**values, "worst": tuple(map(_case, values["worst"])), "reliability": reliability}
        return cls(**own)


def _case(values: Mapping[str, Any]) -> Case:
    parts = {"claims": Claim, "marks": Mark, "options": Option}
    inner = {name: tuple(kind(**one) for one in values[name]) for name, kind in parts.items()}
    return Case(**{**values, **inner, "wrong": tuple(values["wrong"])})


def mistakes_of(cases: Sequence[Case], resample: Resample) -> Mistakes:
    """What rows show together.

    Args:
        cases: Every row.
        resample: Draws rows anew.
    """
    wrong = [case for case in cases if case.wrong]
    worst = sorted(wrong, key=lambda case: -case.loss)[:WORST]
    kinds = Counter(word for case in wrong for word in case.wrong)
    return Mistakes(
        len(cases),
        len(wrong),
        dict(kinds.most_common()),
        tuple(map(shortened, worst)),
        reliability(cases, resample),
    )


def reliability(cases: Sequence[Case], resample: Resample) -> Reliability | None:
    """How far confidence is from the share of right claims; None where nothing was claimed."""
    rows = np.zeros((len(cases), 3, BINS))
    for at, case in enumerate(cases):
        for claim in case.claims:
            place = min(BINS - 1, int(claim.confidence * BINS))
            rows[at, :, place] += (1, claim.is_right, claim.confidence)
    total = rows.sum(0)
    if not total[0].any():
        return None
    drawn = resample(rows.reshape(len(cases), -1)).reshape(-1, 3, BINS)
    low, high = np.nanquantile(_ece(drawn), [0.025, 0.975]).tolist()
    counts, right, confidence = total
    return Reliability(
        tuple(counts.astype(int).tolist()),
        tuple(right.astype(int).tolist()),
        tuple(confidence.tolist()),
        float(_ece(total)),
        low,
        high,
    )


def _ece(totals: np.ndarray) -> np.ndarray:
    """Expected calibration error (Guo et al. 2017, arXiv:1706.04599, equation 3) from (..., 3, bins)."""
    counts, right, confidence = np.moveaxis(totals, -2, 0)
    all_ = counts.sum(-1)
    apart = np.abs(right - confidence).sum(-1)
    return np.divide(apart, all_, out=np.full(np.shape(all_), np.nan), where=all_ > 0)


def loss_of(probability: float) -> float:
    """Minus the logarithm of what the right answer got; finite."""
    return -math.log(max(probability, 1e-12))


def shortened(case: Case) -> Case:
    """A case whose text is at most `LONGEST` characters: what is marked stays, as far as it fits."""
    if len(case.text) <= LONGEST:
        return case
    middle = (case.marks[0].start + case.marks[-1].end) // 2 if case.marks else 0
    start = max(0, min(middle - LONGEST // 2, len(case.text) - LONGEST))
    end = start + LONGEST
    before = "…" if start else ""
    text = before + case.text[start:end] + ("…" if end < len(case.text) else "")
    shift = len(before) - start
    marks = tuple(
        replace(mark, start=max(mark.start, start) + shift, end=min(mark.end, end) + shift)
        for mark in case.marks
        if mark.end > start and mark.start < end
    )
    return replace(case, text=text, marks=marks)


def apart(marks: Sequence[Mark]) -> tuple[Mark, ...]:
    """Marks in the order of the text; of two that overlap, the later begins where the other ends, if any is left."""
    found: list[Mark] = []
    for mark in sorted(marks, key=lambda mark: (mark.start, mark.end)):
        start = max(mark.start, found[-1].end) if found else mark.start
        if start < mark.end:
            found.append(replace(mark, start=start))
    assert all(a.end <= b.start for a, b in pairwise(found))
    return tuple(found)

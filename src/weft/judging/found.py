"""What an evaluation on two tracks found, as values."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from weft.judging.agreement import Flag
from weft.judging.trust import Trust
from weft.tasks.scoring import Score


@dataclass(frozen=True, eq=False)
class Lexical:
    """One metric of one system, or of two."""

    name: str
    signature: str
    candidates: Score
    against: Score | None
    difference: Score | None
    """Candidates minus against, of the whole corpus; both are resampled together."""
    rows: np.ndarray
    """By row the difference, or of one system alone the score."""

    def as_json(self) -> dict[str, Any]:
        """JSON values."""
        own = {
            name: _score(getattr(self, name)) for name in ("candidates", "against", "difference")
        }
        return {"metric": self.name, "signature": self.signature, **own, "rows": self.rows.tolist()}


@dataclass(frozen=True, eq=False)
class Judged:
    """One judge of one system, or of two."""

    name: str
    description: dict[str, Any]
    """Who it is and how it was asked, protocol and criteria included."""
    trust: Trust
    rows: np.ndarray
    """By row how much better the candidate is, or of one system alone its points."""
    difference: Score
    """The mean of that."""
    points: tuple[Score, ...]
    """Of each system, where each was scored."""
    consistency: Score | None
    """Rows where it said the same in both orders, as a share; None where there is one order."""
    wins: int | None
    ties: int | None
    losses: int | None
    win_rate: Score | None
    """Wins and half of the ties; None, like the counts, of one system alone."""
    p: float | None
    """Of wins and losses so uneven by chance, two-sided."""

    def as_json(self) -> dict[str, Any]:
        """JSON values."""
        return {
            **self.description,
            "name": self.name,
            "trust": self.trust.as_json(),
            **{
                name: _score(getattr(self, name))
                for name in ("difference", "consistency", "win_rate")
            },
            "points": [asdict(one) for one in self.points],
            **{name: getattr(self, name) for name in ("wins", "ties", "losses", "p")},
            "rows": self.rows.tolist(),
        }


@dataclass(frozen=True)
class Agreement:
    """One metric beside one judge. What is None is no number: one of the two says the same of every row."""

    metric: str
    judge: str
    signs: Score | None
    """Rows with the same sign, of those where neither sees a tie; None of one system alone."""
    kendall: Score | None
    spearman: Score | None
    given_length: Score | None
    """Spearman's rho with what the length of the answers explains taken out."""
    kappa: Score | None
    """Cohen's, of three-way verdicts; None of one system alone."""
    flag: Flag | None
    """None of one system alone."""

    def as_json(self) -> dict[str, Any]:
        """JSON values."""
        names = ("signs", "kendall", "spearman", "given_length", "kappa")
        return {
            "metric": self.metric,
            "judge": self.judge,
            **{name: _score(getattr(self, name)) for name in names},
            "flag": self.flag,
        }


@dataclass(frozen=True)
class Judging:
    """Both tracks, and how far they agree."""

    ids: tuple[str, ...]
    lexical: tuple[Lexical, ...]
    judges: tuple[Judged, ...]
    agreement: tuple[Agreement, ...]
    alpha: float | None
    """Krippendorff's, of several judges' verdicts; None of one."""
    words: tuple[float, ...]
    """Mean words of an answer, of each system: what a judge may take for quality."""
    settings: dict[str, Any]
    """Seed, resamples and margin."""

    def as_json(self) -> dict[str, Any]:
        """JSON values; what is no number is None."""
        return {
            "rows": len(self.ids),
            "settings": self.settings,
            "words": list(self.words),
            "lexical": [one.as_json() for one in self.lexical],
            "judges": [one.as_json() for one in self.judges],
            "agreement": [one.as_json() for one in self.agreement],
            "alpha": self.alpha,
            "ids": list(self.ids),
        }


def _score(value: Score | None) -> dict[str, float] | None:
    return None if value is None or math.isnan(value.value) else asdict(value)

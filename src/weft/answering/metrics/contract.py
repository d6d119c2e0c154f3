"""The contract of a lexical metric: texts beside their references, in sums that a bootstrap can draw anew.

A corpus score such as BLEU is no mean of its rows' scores, but a function of sums over rows. A metric hands out each
row's part of those sums, so that ten thousand resamples cost one matrix product and not ten thousand readings.
"""

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np


@dataclass(frozen=True, eq=False)
class Measured:
    """One score of a system.

    Attributes:
        rows: The score of each row alone, 0 to 1 (a cosine: -1 to 1), (rows,).
        statistics: What each row adds to the corpus score's sums, (rows, statistics).
        value: The corpus score from such a sum, (statistics,).
        signature: What must be the same for two numbers to be comparable: library, version, settings.
    """

    rows: np.ndarray
    statistics: np.ndarray
    value: Callable[[np.ndarray], float]
    signature: str

    def corpus(self) -> float:
        """The score over all rows."""
        return self.value(self.statistics.sum(0))

    def drawn(self, counts: np.ndarray) -> np.ndarray:
        """The score in each resample, (resamples,).

        Args:
            counts: How often each resample draws each row, (resamples, rows).
        """
        return np.array([self.value(total) for total in counts @ self.statistics])


class Metric(ABC):
    """How near texts are to what people wrote.

    Raises:
        ValueError: If a library that it needs is not installed.
    """

    needs: ClassVar[str | None] = None
    """A package that the extra `text` brings."""

    def __init__(self) -> None:
        if self.needs is not None and importlib.util.find_spec(self.needs) is None:
            name = type(self).__module__.rpartition(".")[2]
            package = self.needs.replace("_", "-")
            raise ValueError(
                f"metric {name} needs {package}, which is not installed: pip install 'weft[text]'"
            )

    @abstractmethod
    def measure(
        self, candidates: Sequence[str], references: Sequence[str]
    ) -> Mapping[str, Measured]:
        """Its scores by name; more is better.

        Args:
            candidates: One a row; may be empty texts.
            references: One a row.
        """


def of_corpus(
    corpus: Any, alone: Any, candidates: Sequence[str], references: Sequence[str]
) -> Measured:
    """A score that sacreBLEU computes of a corpus from sums over rows; percent there, a fraction here.

    Args:
        corpus: Its metric.
        alone: The same for a row by itself.
        candidates: One a row.
        references: One a row.
    """
    # What its own resampling stands on: there is no public way to the sums of a row.
    sums = corpus._extract_corpus_statistics(list(candidates), [list(references)])
    pairs = zip(candidates, references, strict=True)
    return Measured(
        np.array([alone.sentence_score(own, [wanted]).score for own, wanted in pairs]) / 100,
        np.array(sums, dtype=np.float64),
        lambda total: corpus._compute_score_from_stats(total.tolist()).score / 100,
        # Asked after a measurement: before one, the library does not know how many references there are.
        f"sacrebleu {corpus.get_signature()}",
    )


def averaged(rows: np.ndarray, signature: str) -> Measured:
    """A score whose value over a corpus is the mean over its rows."""
    statistics = np.stack([rows, np.ones(len(rows))], axis=1)
    return Measured(rows, statistics, lambda total: float(total[0] / total[1]), signature)

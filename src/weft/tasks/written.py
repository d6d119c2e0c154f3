"""Scores of written texts against references, with intervals: BLEU, chrF, ROUGE.

    bleu, chrf                of the corpus, by sacrebleu (Post 2018, aclanthology.org/W18-6319; Papineni et al. 2002,
                              doi:10.3115/1073083.1073135; Popovic 2015, doi:10.18653/v1/W15-3049)
    rouge1, rouge2, rougeL    the mean of the rows' F1, by rouge-score with its stemmer off (Lin 2004,
                              aclanthology.org/W04-1013)

All as fractions, where the libraries say BLEU and chrF in percent. Corpus scores are no means: each resample adds up
the rows' counts of n-grams and is scored anew.
"""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np

from weft.registry import unknown
from weft.tasks.scoring import LEVEL, RESAMPLES, Score, interval, resampled

CORPUS = ("bleu", "chrf")
MEANS = ("rouge1", "rouge2", "rougeL")
WRITTEN = (*CORPUS, *MEANS)
"""All that can be asked for."""


def check_written(names: Sequence[str]) -> None:
    """Refuse a score that nobody knows, or whose library is absent.

    Raises:
        ValueError: If there is one.
    """
    for name in names:
        if name not in WRITTEN:
            raise ValueError(f"scores: {unknown('score of written text', name, WRITTEN)}")
        _library("sacrebleu" if name in CORPUS else "rouge_score")


def written_scores(
    said: Sequence[str],
    references: Sequence[str],
    names: Sequence[str],
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> dict[str, Score]:
    """Each score over the rows, by name.

    Args:
        said: What was written, one a row.
        references: What is right, one a row.
        names: Of `WRITTEN`.
        resamples: Bootstrap resamples of rows.
        level: Probability that the interval is meant to cover, 0 to 1.
        seed: Decides the resamples.

    Raises:
        ValueError: If a name is unknown, its library is absent, or there are no rows.
    """
    check_written(names)
    if not said or len(said) != len(references):
        raise ValueError(
            f"written text: {len(said)} texts for {len(references)} references; give one a row"
        )
    found = {}
    for name in names:
        statistics, of_sums = (_corpus if name in CORPUS else _mean)(name, said, references)
        value = of_sums(statistics.sum(0))
        drawn = [
            of_sums(total) for part in resampled(statistics, resamples, seed) for total in part
        ]
        found[name] = interval(value, np.array(drawn), level)
    return found


Compute = Callable[[np.ndarray], float]
"""From sums over rows to the score."""


def _corpus(
    name: str, said: Sequence[str], references: Sequence[str]
) -> tuple[np.ndarray, Compute]:
    """Counts of n-grams by row, (rows, counts), and the score of their sums."""
    metrics = _library("sacrebleu").metrics
    metric: Any = metrics.BLEU() if name == "bleu" else metrics.CHRF()
    # What its own resampling stands on: there is no public way to the counts of a row.
    statistics = np.array(metric._extract_corpus_statistics(said, [references]), dtype=np.float64)

    def of_sums(totals: np.ndarray) -> float:
        return metric._compute_score_from_stats(totals.astype(int).tolist()).score / 100

    return statistics, of_sums


def _mean(name: str, said: Sequence[str], references: Sequence[str]) -> tuple[np.ndarray, Compute]:
    """F1 of each row and 1, (rows, 2), and their ratio."""
    scorer = _library("rouge_score", "rouge_scorer").RougeScorer([name], use_stemmer=False)
    rows = [
        [scorer.score(right, own)[name].fmeasure, 1.0]
        for own, right in zip(said, references, strict=True)
    ]
    return np.array(rows), lambda totals: float(totals[0] / totals[1])


def reference_of(example: Mapping[str, Any]) -> str:
    """What a row of kind `causal_lm` would have been answered: its completion, or the assistant's last turn.

    Raises:
        ValueError: If it has neither.
    """
    if "completion" in example:
        return example["completion"].strip()
    messages = example.get("messages", ())
    if len(messages) > 1 and messages[-1]["role"] == "assistant":
        return messages[-1]["content"].strip()
    raise ValueError(
        f"row {example['id']!r} has no reference for what is written: give rows with 'completion', or messages that "
        "end with the assistant's"
    )


def _library(package: str, module: str = "") -> ModuleType:
    try:
        return import_module(f"{package}.{module}" if module else package)
    except ModuleNotFoundError:
        raise ValueError(
            f"scores of written text need {package.replace('_', '-')}, which is not installed: pip install 'weft[text]'"
        ) from None

"""ROUGE by rouge-score: the F1 of words (rouge1), pairs of words (rouge2) and the longest common subsequence (rougeL).

Lin 2004, https://aclanthology.org/W04-1013. Lower-cased, letters and digits of English alone, stemmed by Porter; a
corpus's score is the mean of its rows'. `rougeL` is the one over whole texts, not the union over lines (rougeLsum). A
text of one word has no pairs, so that its rouge2 is 0 whatever the reference.
"""

from collections.abc import Mapping, Sequence
from importlib.metadata import version

import numpy as np

from weft.answering.metrics.contract import Measured, Metric, averaged

KINDS = ("rouge1", "rouge2", "rougeL")


class ROUGE(Metric):
    """ROUGE-1, ROUGE-2 and ROUGE-L, F1."""

    needs = "rouge_score"

    def measure(
        self, candidates: Sequence[str], references: Sequence[str]
    ) -> Mapping[str, Measured]:
        from rouge_score.rouge_scorer import RougeScorer

        scorer = RougeScorer(list(KINDS), use_stemmer=True)
        pairs = zip(candidates, references, strict=True)
        found = [scorer.score(wanted, own) for own, wanted in pairs]
        signature = f"rouge-score {version('rouge-score')} F1 stemmed"
        return {
            kind: averaged(np.array([row[kind].fmeasure for row in found]), signature)
            for kind in KINDS
        }

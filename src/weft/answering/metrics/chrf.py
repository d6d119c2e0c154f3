"""chrF by sacreBLEU: the F-score of a text's 1- to 6-grams of characters.

    chrF = (1 + b^2) precision recall / (b^2 precision + recall),    b = 2

Popovic 2015, doi:10.18653/v1/W15-3049. sacreBLEU's numbers are percent; these are fractions.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from weft.answering.metrics.contract import Measured, Metric


class CHRF(Metric):
    """Corpus chrF2, without words."""

    needs = "sacrebleu"

    def measure(
        self, candidates: Sequence[str], references: Sequence[str]
    ) -> Mapping[str, Measured]:
        from sacrebleu.metrics import chrf as library

        corpus = library.CHRF()
        sums = corpus._extract_corpus_statistics(list(candidates), [list(references)])
        pairs = zip(candidates, references, strict=True)
        return {
            "chrf": Measured(
                np.array([corpus.sentence_score(own, [wanted]).score for own, wanted in pairs])
                / 100,
                np.array(sums, dtype=np.float64),
                lambda total: corpus._compute_score_from_stats(total.tolist()).score / 100,
                # Asked after a measurement: before one, the library does not know how many references there are.
                f"sacrebleu {corpus.get_signature()}",
            )
        }

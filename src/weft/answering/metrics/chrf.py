"""chrF by sacreBLEU: the F-score of a text's 1- to 6-grams of characters.

    chrF = (1 + b^2) precision recall / (b^2 precision + recall),    b = 2

Popovic 2015, doi:10.18653/v1/W15-3049. sacreBLEU's numbers are percent; these are fractions.
"""

from collections.abc import Mapping, Sequence

from weft.answering.metrics.contract import Measured, Metric, of_corpus


class CHRF(Metric):
    """Corpus chrF2, without words."""

    needs = "sacrebleu"

    def measure(
        self, candidates: Sequence[str], references: Sequence[str]
    ) -> Mapping[str, Measured]:
        from sacrebleu.metrics import chrf as library

        corpus = library.CHRF()
        return {"chrf": of_corpus(corpus, corpus, candidates, references)}

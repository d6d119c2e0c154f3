"""BLEU by sacreBLEU: how many of a text's 1- to 4-grams stand in the reference, and whether it is as long.

    BLEU = BP exp(mean_n log p_n),    BP = min(1, exp(1 - reference length / candidate length))

Papineni et al. 2002, doi:10.3115/1073083.1073135; Post 2018, arXiv:1804.08771, whose signature is kept. A row alone is
scored with effective order (`sentence_bleu` of sacreBLEU), since a short text has no 4-grams. sacreBLEU's numbers are
percent; these are fractions.
"""

from collections.abc import Mapping, Sequence

from weft.answering.metrics.contract import Measured, Metric, of_corpus


class BLEU(Metric):
    """Corpus BLEU, tokenizer 13a, exponential smoothing."""

    needs = "sacrebleu"

    def measure(
        self, candidates: Sequence[str], references: Sequence[str]
    ) -> Mapping[str, Measured]:
        from sacrebleu.metrics import bleu as library

        measured = of_corpus(
            library.BLEU(), library.BLEU(effective_order=True), candidates, references
        )
        return {"bleu": measured}

"""BLEU and chrF of translations, by sacrebleu, with the signatures that say how they were counted.

Papineni et al. 2002 (BLEU), doi:10.3115/1073083.1073135; Popovic 2015 (chrF), doi:10.18653/v1/W15-3049; Post 2018
(sacrebleu), arXiv:1804.08771. Scores are fractions here, 0 to 1; sacrebleu prints percent.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from weft.tasks.scoring import RESAMPLES, Score


@dataclass(frozen=True)
class Written:
    """A score of written text.

    Attributes:
        score: With the ends of its interval, from resampled rows.
        signature: How sacrebleu counted it.
    """

    score: Score
    signature: str


def translation_scores(
    said: Sequence[str], references: Sequence[str], *, resamples: int = RESAMPLES
) -> dict[str, Written]:
    """`bleu` and `chrf` of translations against one reference each.

    Args:
        said: The translations.
        references: The right ones, one for each.
        resamples: Bootstrap resamples of sacrebleu's (its seed is in the signature); below 2 both ends are the score.

    Raises:
        ValueError: If there are none, or not as many of both; or sacrebleu is not installed.
    """
    if not said or len(said) != len(references):
        raise ValueError(
            f"{len(said)} translations and {len(references)} references; give one reference for each, at least one"
        )
    try:
        from sacrebleu.metrics import BLEU, CHRF
    except ImportError:
        raise ValueError(
            "BLEU and chrF are counted by sacrebleu, which is not installed: pip install 'weft[text]'"
        ) from None
    found = {}
    for name, metric in (("bleu", BLEU()), ("chrf", CHRF())):
        result = metric.corpus_score(
            list(said), [list(references)], n_bootstrap=resamples if resamples > 1 else 1
        )
        value = result.score / 100
        low = high = value
        if resamples > 1:
            ends = ((result._mean + sign * result._ci) / 100 for sign in (-1, 1))
            low, high = (min(1.0, max(0.0, end)) for end in ends)
        found[name] = Written(Score(value, low, high), str(metric.get_signature()))
    return found

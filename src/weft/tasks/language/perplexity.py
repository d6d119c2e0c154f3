"""Likelihood of a text set against what a tokenizer has no say in, and what the tokenizer does to it.

    perplexity        exp(N / tokens)                 depends on the tokenizer
    bits_per_byte     N / (ln 2 bytes)                does not
    ..._of_units      exp(N / units)                  a character that is split into bytes counts once

N is the negative log-likelihood in nats. Byte fallback splits one character into two to four tokens of which all but
the first are nearly certain, so it lowers perplexity without a better model; units undo that. A run of fallback is one
character: a whole sentence of a script that the vocabulary lacks is as many units as it has characters.
"""

from collections.abc import Sequence

import numpy as np

from weft.tasks.language.pieces import Pieces
from weft.tasks.metrics import ratio

COUNTS = ("nll", "tokens", "bytes", "units", "raw_tokens", "characters", "words")
"""What `tokenization_scores` is given sums of, in this order."""
SCORES = (
    "perplexity_of_units",
    "perplexity_of_characters",
    "perplexity_of_words",
    "byte_fallback_share",
    "tokens_per_byte",
)


def counted(pieces: Pieces, ids: Sequence[int], scored: Sequence[bool]) -> tuple[int, int]:
    """Units and raw tokens among the scored tokens of one text.

    Args:
        pieces: The vocabulary.
        ids: All tokens of the text, in order.
        scored: Which of them count.
    """
    joins = pieces.joins(ids)
    units = sum(
        own and not (joined and at and scored[at - 1])
        for at, (own, joined) in enumerate(zip(scored, joins, strict=True))
    )
    raw = sum(own and pieces.is_raw(number) for own, number in zip(scored, ids, strict=True))
    return units, raw


def tokenization_scores(totals: np.ndarray) -> dict[str, np.ndarray]:
    """The scores of `SCORES`; NaN where nothing was scored.

    Args:
        totals: (..., 7) sums of `COUNTS`.
    """
    nll, tokens, size, units, raw, characters, words = np.moveaxis(
        np.asarray(totals, dtype=np.float64), -1, 0
    )
    with np.errstate(over="ignore"):
        by = {
            f"perplexity_of_{name}": np.exp(ratio(nll, count, empty=np.nan))
            for name, count in (("units", units), ("characters", characters), ("words", words))
        }
    return {
        **by,
        "byte_fallback_share": ratio(raw, tokens, empty=np.nan),
        "tokens_per_byte": ratio(tokens, size, empty=np.nan),
    }

"""A logits processor: the style of a corpus as a prior on the next token, before temperature, top-k and top-p.

    l'(v) = l(v) + strength b(v)    =>    p'(v) ~ p_LM(v) prod_n p~_n(v | c_n)^(strength w_n)

A product of experts over the tokens V that text is made of. Special tokens are exempt: they keep the probability that
the model gives them, so that a text ends as often as it would. Left without a bias they would gain by every penalty of
the others; so what V has together is kept as well, by a constant on all of V, which among them changes nothing.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor

from weft.answering.style.ngrams import NGrams


class Steering(LogitsProcessor):
    """The processor of one batch.

    Args:
        ngrams: Of the style.
        strength: 0 leaves logits alone, bit for bit.
        starts: Where each row's text begins, behind its padding.
    """

    def __init__(self, ngrams: NGrams, strength: float, starts: Sequence[int]) -> None:
        self.ngrams = ngrams
        self.strength = strength
        self.starts = starts

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # type: ignore[override]
        """Logits of the next token, (rows, vocabulary).

        Args:
            input_ids: What was written so far, (rows, tokens).
            scores: The model's logits, (rows, vocabulary).
        """
        if self.strength == 0:
            return scores
        rows = [
            steered(own, ids[start:][-2:], self.ngrams, self.strength)
            for own, ids, start in zip(scores, input_ids.tolist(), self.starts, strict=True)
        ]
        return torch.stack(rows)


def steered(logits: Tensor, context: Sequence[int], ngrams: NGrams, strength: float) -> Tensor:
    """One row's logits, (vocabulary,), in their own type; computed in double precision where the device has it."""
    if strength == 0:
        return logits
    wide = torch.float32 if logits.device.type == "mps" else torch.float64
    chosen = ngrams.tokens.to(logits.device)
    own = logits.to(wide)[chosen]
    moved = own + strength * ngrams.bias(context).to(logits.device, wide)
    moved += own.logsumexp(0) - moved.logsumexp(0)
    return logits.index_copy(0, chosen, moved.to(logits.dtype))

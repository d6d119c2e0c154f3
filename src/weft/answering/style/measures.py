"""What steering does to what is written: nearer to the style, away from the model, and where it collapses.

Perplexity under the base falls for text that repeats itself, so it is read beside `distinct` and `repetition`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from weft.answering.style.ngrams import NGrams, perplexity
from weft.answering.style.steering import steered

REPEATED = 4
"""Tokens in a row that count as a repetition where they stand in the same text before."""


@dataclass(frozen=True)
class Measured:
    """Of all texts together."""

    style_perplexity: float
    """Under the interpolated n-grams; of ordinary tokens."""
    base_perplexity: float
    """Under the model without steering."""
    divergence: float
    """Jensen-Shannon's between the model's next token and the steered one, in nats, 0 to ln 2; mean over steps."""
    token_overlap: float
    """Share of the written tokens that the corpus has."""
    type_overlap: float
    """The same of different ones."""
    bigram_overlap: float
    """Share of pairs of neighbours that the corpus has."""
    trigram_overlap: float
    distinct_1: float
    """Different tokens, of all that were written."""
    distinct_2: float
    repetition: float
    """Share of four neighbours that stand in the same text before."""


def style_perplexity(ngrams: NGrams, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> float:
    """Perplexity under the interpolated n-grams, exp(-1/T sum_t log sum_n w_n p~_n(y_t)), over ordinary tokens.

    Args:
        ngrams: Of the style.
        rows: Prompt and what was written behind it, as ids.
    """
    known = set(ngrams.tokens.tolist())
    return perplexity(
        [
            math.log(ngrams.interpolated([*prompt, *written[:at]], token))
            for prompt, written in rows
            for at, token in enumerate(written)
            if token in known
        ]
    )


def jensen_shannon(one: Tensor, other: Tensor) -> Tensor:
    """Half the divergences of both from their mean, in nats, over the last axis: 0 to ln 2.

    Args:
        one: Probabilities, (..., outcomes).
        other: The same.
    """
    middle = (one + other) / 2
    return sum(
        torch.where(p > 0, p * (p / middle).log(), torch.zeros_like(p)).sum(-1) / 2
        for p in (one, other)
    )  # type: ignore[return-value] - sum begins with an int, which adds nothing


def distinct(rows: Sequence[Sequence[int]], order: int) -> float:
    """Different n-grams of all rows, as a share of all; NaN where no row is so long."""
    grams = [gram for row in rows for gram in _grams(row, order)]
    return len(set(grams)) / len(grams) if grams else math.nan


def repetition(rows: Sequence[Sequence[int]]) -> float:
    """Share of four neighbours that stand before in the same row; NaN where no row is so long."""
    counts = [(len(grams), len(set(grams))) for grams in (_grams(row, REPEATED) for row in rows)]
    total = sum(all_ for all_, _ in counts)
    return sum(all_ - own for all_, own in counts) / total if total else math.nan


def overlap(ngrams: NGrams, rows: Sequence[Sequence[int]], order: int) -> float:
    """Share of n-grams of the rows that the corpus has; NaN of none."""
    grams = [gram for row in rows for gram in _grams(row, order)]
    return sum(map(ngrams.has, grams)) / len(grams) if grams else math.nan


def measured(
    writer: Any,
    tokenizer: PreTrainedTokenizerFast,
    ngrams: NGrams,
    rows: Sequence[tuple[Sequence[int], Sequence[int]]],
    strength: float,
) -> Measured:
    """All of it, of texts that were written with a strength.

    Args:
        writer: Transformers' causal language model that wrote them, without steering.
        tokenizer: Its own.
        ngrams: Of the style.
        rows: Prompt and what was written behind it, as ids.
        strength: With which the model was steered.

    Raises:
        ValueError: If the n-grams are of another tokenizer.
    """
    ngrams.check(tokenizer)
    likelihoods: list[float] = []
    apart: list[float] = []
    for prompt, written in rows:
        if not written:
            continue
        ids = torch.tensor([[*prompt, *written]], device=writer.device)
        with torch.inference_mode():
            logits = writer(ids).logits[0, len(prompt) - 1 : -1]
        plain = logits.double().log_softmax(-1)
        likelihoods += plain.gather(1, torch.tensor(written, device=plain.device)[:, None])[
            :, 0
        ].tolist()
        moved = torch.stack(
            [
                steered(own, [*prompt, *written[:at]][-2:], ngrams, strength)
                for at, own in enumerate(logits)
            ]
        )
        # By the same operations, so that what was not moved is apart by nothing.
        steps = jensen_shannon(plain.exp(), moved.double().log_softmax(-1).exp())
        apart += steps.tolist()
    texts = [written for _, written in rows]
    kinds = {token for text in texts for token in text}
    return Measured(
        style_perplexity(ngrams, rows),
        perplexity(likelihoods),
        math.fsum(apart) / len(apart) if apart else math.nan,
        overlap(ngrams, texts, 1),
        sum(ngrams.has([token]) for token in kinds) / len(kinds) if kinds else math.nan,
        overlap(ngrams, texts, 2),
        overlap(ngrams, texts, 3),
        distinct(texts, 1),
        distinct(texts, 2),
        repetition(texts),
    )


def _grams(row: Sequence[int], order: int) -> list[tuple[int, ...]]:
    return [tuple(row[at : at + order]) for at in range(len(row) - order + 1)]

"""Similarity: the cosine of two texts' vectors by the embedded sentence encoder, all-MiniLM-L6-v2.

Up to 256 tokens of a text are read; what is behind is not. An empty text has the vector of the encoder's special
tokens.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from weft.answering.metrics.contract import Measured, Metric, averaged
from weft.answering.texts.vectors import ENCODER, LONGEST, vectors_of
from weft.base.loading import Base, load_base


class Similarity(Metric):
    """Cosine similarity of mean-pooled states."""

    def __init__(self) -> None:
        super().__init__()
        self._encoder: Base | None = None

    def measure(
        self, candidates: Sequence[str], references: Sequence[str]
    ) -> Mapping[str, Measured]:
        if self._encoder is None:
            self._encoder = load_base(ENCODER)
        own, wanted = (
            vectors_of(self._encoder, texts).astype(np.float64)
            for texts in (candidates, references)
        )
        signature = f"{ENCODER} mean-pooled, {LONGEST}"
        return {"similarity": averaged((own * wanted).sum(axis=1), signature)}

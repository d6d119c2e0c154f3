"""Similarity: the cosine of two texts' vectors by the embedded sentence encoder, all-MiniLM-L6-v2.

The mean of the encoder's last states over a text's tokens (Reimers and Gurevych 2019, arXiv:1908.10084), up to 256 of
them, as the encoder was published; what is behind is not read. An empty text has the vector of the encoder's special
tokens.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from weft.answering.inference import outputs, padding_id
from weft.base.loading import Base, load_base
from weft.judging.metrics.contract import Measured, Metric, averaged
from weft.model.batching import Item
from weft.model.expert import Expert
from weft.model.head import Head
from weft.model.model import Model

ENCODER = "minilm"
LONGEST = 256
"""Tokens of a text that are read, `max_seq_length` of the published encoder."""


class Similarity(Metric):
    """Cosine similarity of mean-pooled states."""

    def __init__(self) -> None:
        self._model: Model | None = None

    def measure(
        self, candidates: Sequence[str], references: Sequence[str]
    ) -> Mapping[str, Measured]:
        if self._model is None:
            self._model = encoder()
        own, wanted = (vectors(self._model, texts) for texts in (candidates, references))
        cosines = torch.cosine_similarity(own, wanted, dim=1).double().numpy()
        return {"similarity": averaged(np.asarray(cosines), f"{ENCODER} mean-pooled, {LONGEST}")}


def encoder() -> Model:
    """The encoder as it was published: a base, and a head without parameters."""
    base: Base = load_base(ENCODER)
    model = Model(base)
    model.add(Expert(ENCODER, {}, Head("embedding", base, 0, seed=0)))
    return model


def vectors(model: Model, texts: Sequence[str]) -> torch.Tensor:
    """(texts, hidden)."""
    tokenizer = model.base.tokenizer
    items = []
    for at, text in enumerate(texts):
        encoded = tokenizer(text, truncation=True, max_length=LONGEST)
        names = [name for name in ("input_ids", "token_type_ids") if name in encoded]
        record = {"id": str(at), **{name: [list(encoded[name])] for name in names}}
        items.append(Item(ENCODER, "embedding", (), record))
    found = outputs(model, items, pad_id=padding_id(model.base), device="cpu")
    return torch.stack([torch.as_tensor(np.asarray(one)).reshape(-1) for one in found])

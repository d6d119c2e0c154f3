"""An index of texts: which of them are nearest to a text, by the embedded sentence encoder.

The index is faiss's exact one: inner products of unit vectors, which are cosines (Douze et al. 2024, The Faiss
library, arXiv:2401.08281).
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from weft.answering.texts.vectors import ENCODER, vectors_of
from weft.atomic import make_folder, write_tensors
from weft.base.loading import load_base
from weft.guard import guarded


class Index:
    """Which of some texts are nearest to others.

    Args:
        texts: What is found, each once.
        cache: Folder where the texts' vectors are kept for the next time; None keeps nothing.

    Raises:
        ValueError: If there are no texts, or faiss is not installed.
    """

    def __init__(self, texts: Sequence[str], *, cache: Path | None) -> None:
        if not texts:
            raise ValueError("an index of no texts finds nothing")
        faiss = _faiss()
        self.texts = list(texts)
        self._encoder = load_base(ENCODER)
        vectors = self._kept(cache) if cache is not None else self._encoded()
        self._index = faiss.IndexFlatIP(vectors.shape[1])
        self._index.add(vectors)

    def nearest(self, queries: Sequence[str], count: int) -> list[list[int]]:
        """Places of the `count` nearest texts of each query, the nearest first; all where there are fewer."""
        found = self._index.search(vectors_of(self._encoder, queries), min(count, len(self.texts)))
        return found[1].tolist()

    def _encoded(self) -> np.ndarray:
        return vectors_of(self._encoder, self.texts)

    def _kept(self, cache: Path) -> np.ndarray:
        from safetensors.torch import load_file

        hasher = hashlib.sha256(self._encoder.digest.encode())
        for text in self.texts:
            hasher.update(f"{len(text)} {text}".encode())
        path = cache / "vectors" / f"{hasher.hexdigest()}.safetensors"
        if path.is_file():
            return guarded(path, lambda: load_file(path))["vectors"].numpy()
        vectors = self._encoded()
        make_folder(path.parent)
        write_tensors(path, {"vectors": torch.from_numpy(vectors)})
        return vectors


def _faiss() -> Any:
    try:
        import faiss
    except ModuleNotFoundError:
        raise ValueError(
            "the nearest texts are found by faiss, which is not installed: pip install 'weft[retrieval]'"
        ) from None
    return faiss

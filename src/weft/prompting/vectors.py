"""Texts as vectors of the embedded sentence encoder, and an index of them: which texts are nearest to a text.

The encoder is used as it was made to be: the mean of the last states, of unit length, texts cut at 256 tokens
(all-MiniLM-L6-v2's `sentence_bert_config.json` and `modules.json`). The index is faiss's exact one: inner products of
unit vectors, which are cosines (Douze et al. 2024, The Faiss library, arXiv:2401.08281).
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from weft.answering.inference import padding_id, tokens_for
from weft.atomic import make_folder, write_tensors
from weft.base.loading import Base, load_base
from weft.guard import guarded
from weft.model.heads.embedding import MeanPooled
from weft.scoped import tell
from weft.tasks.text import encoding_of

ENCODER = "minilm"
LONGEST = 256
"""Tokens of a text that the encoder was made to read."""


def vectors_of(base: Base, texts: Sequence[str]) -> np.ndarray:
    """The unit vector of each text, (texts, hidden), float32.

    Args:
        base: A sentence encoder.
        texts: Any number; an end beyond `LONGEST` tokens is not read.
    """
    device = base.trunk.device
    encoded = [_ids(base, text) for text in texts]
    order = sorted(range(len(texts)), key=lambda at: len(encoded[at]))
    found = np.empty((len(texts), base.config.hidden_size), dtype=np.float32)
    pooled = MeanPooled(base.config, base.trunk)
    most = tokens_for(device)
    done = 0
    with torch.inference_mode():
        while done < len(order):
            rows = order[done : done + 1]
            for at in order[done + 1 :]:
                if (len(rows) + 1) * len(encoded[at]) > most:
                    break
                rows.append(at)
            width = max(len(encoded[at]) for at in rows)
            pad = padding_id(base)
            ids = [[*encoded[at], *[pad] * (width - len(encoded[at]))] for at in rows]
            mask = [[1] * len(encoded[at]) + [0] * (width - len(encoded[at])) for at in rows]
            vectors = pooled(
                input_ids=torch.tensor(ids, device=device),
                attention_mask=torch.tensor(mask, device=device),
            ).logits
            found[rows] = torch.nn.functional.normalize(vectors, dim=-1).float().cpu().numpy()
            done += len(rows)
            tell("texts encoded", done, len(order))
    return found


def _ids(base: Base, text: str) -> list[int]:
    """A text's tokens, those that the tokenizer adds kept where it is cut."""
    ids = encoding_of(base.tokenizer, text.strip()).ids
    return ids if len(ids) <= LONGEST else [*ids[: LONGEST - 1], ids[-1]]


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

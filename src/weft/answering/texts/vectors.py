"""Texts as vectors of the embedded sentence encoder.

It is used as it was made to be: the mean of the last states, of unit length, texts cut at 256 tokens
(all-MiniLM-L6-v2's `sentence_bert_config.json` and `modules.json`; Reimers and Gurevych 2019, arXiv:1908.10084).
"""

from collections.abc import Sequence

import numpy as np
import torch

from weft.answering.inference import padding_id, tokens_for
from weft.base.loading import Base
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

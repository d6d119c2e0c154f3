"""An expert folded into a copy of its base: one module, tokens in, the head's answer out.

    W = W0 + dW    at every map that the expert changes

What runs has no adapter and no route in it, so that a graph can be made of it.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weft.model.head import Head
from weft.model.heads import kind_of
from weft.model.model import Model
from weft.model.passage import ask

LOGITS, VECTOR = "logits", "sentence_embedding"
"""What answers are called where transformers and sentence-transformers write graphs."""


class Folded(nn.Module):
    """The trunk with one expert's change in its weights, and that expert's head.

    Args:
        model: Has the expert resident; neither it nor its base is changed.
        name: The expert, which has a head.
        normalize: Whether vectors get length 1; of embeddings alone.

    Raises:
        ValueError: If no weights stand for the expert.
    """

    def __init__(self, model: Model, name: str, *, normalize: bool = False) -> None:
        super().__init__()
        head = model.snapshot.head(name)
        self.trunk = model.merged(name)
        self.head: Head = head
        self.normalize = normalize
        self._extra: dict[str, Any] = {"use_cache": False} if model.snapshot.is_decoder else {}
        self.eval().requires_grad_(False)

    @property
    def answers(self) -> tuple[str, ...]:
        """Names of what comes out: of spans `start_logits` and `end_logits`, else one."""
        kind = self.head.kind
        if kind.outcomes:
            return tuple(f"{name}_{LOGITS}" for name in kind.outcomes)
        return (VECTOR,) if kind.is_trunk else (LOGITS,)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """One tensor for each of `answers`.

        Args:
            input_ids: (sequences, seq); where sequences of a row are set against each other (rows, choices, seq).
            attention_mask: 1 for tokens, 0 for padding; as `input_ids`.
            token_type_ids: Which text a token is of, where the base knows; as `input_ids`.
        """
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids.flatten(0, -2)}
        hidden = self.trunk(
            input_ids=input_ids.flatten(0, -2),
            attention_mask=attention_mask.flatten(0, -2),
            **types,
            **self._extra,
        ).last_hidden_state
        hidden = hidden.view(*input_ids.shape, hidden.shape[-1])
        found = ask(self.head.module, self.head.kind, hidden, attention_mask, input_ids)
        if self.normalize:
            found = F.normalize(found, dim=-1)
        return found.unbind(-1) if self.head.kind.outcomes else (found,)


def example_inputs(shape: tuple[int, ...], vocabulary: int, *, types: bool) -> dict[str, Tensor]:
    """Inputs of a shape, of which the last sequence is padded; the same for the same arguments.

    Args:
        shape: Of `input_ids`.
        vocabulary: Tokens are below.
        types: Whether the base is told which text a token is of.
    """
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, vocabulary, shape, generator=generator)
    mask = torch.ones_like(ids)
    mask.view(-1, shape[-1])[-1, 1 + shape[-1] // 2 :] = 0
    found = {"input_ids": ids, "attention_mask": mask}
    return found | ({"token_type_ids": torch.zeros_like(ids)} if types else {})


def axes_of(kind: str) -> tuple[str, ...]:
    """What the axes of a kind's inputs are called."""
    return ("batch", "choices", "length") if kind_of(kind).compares else ("batch", "length")

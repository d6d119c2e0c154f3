"""An expert folded into a copy of its base: one module, tokens in, the head's answer out.

    W = W0 + dW    at every map that the expert changes

What runs has no adapter and no route in it: a graph can be made of it (`Folded`), and it answers in the time of the
bare base (`alone`).
"""

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weft.lowrank.attach import frozen_linear
from weft.lowrank.pool import Factors
from weft.lowrank.woven import Woven
from weft.model.head import Head
from weft.model.heads import kind_of
from weft.model.model import Model
from weft.model.passage import ask
from weft.model.snapshot import Resident, Snapshot, twin

LOGITS, VECTOR = "logits", "sentence_embedding"
"""What answers are called where transformers and sentence-transformers write graphs."""


MOST_FOLDED = 2**30
"""Bytes that the changed weights of an expert may take a second time."""
_ALONE: "WeakKeyDictionary[Resident, Snapshot]" = WeakKeyDictionary()
"""Folded snapshots by what was folded; they go with it."""


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


def is_folded(held: Snapshot, name: str) -> bool:
    """Whether `alone` has been asked for this expert as it is now."""
    return held.resident(name) in _ALONE


def alone(held: Snapshot, name: str) -> Snapshot | None:
    """The same expert on a trunk of its own, whose weights have its change in them; None where nothing is to be gained.

    Weights that it does not change are the base's, not copies. Answers are those of `held` but for rounding: the change
    is added to a weight once in place of to every output.

    Args:
        held: Has the expert resident.
        name: The expert. One that is being trained, that changes with its input, that has no exact factors (DoRA), or
            whose changed weights take more than `MOST_FOLDED`, stays as it is.
    """
    if held.base.quantised is not None:
        return None  # a whole weight is what its base saves
    own = held.resident(name)
    if own in _ALONE:
        return _ALONE[own]
    terms = {module: term for module, term in own.woven.terms.items() if isinstance(term, Factors)}
    if not terms or len(terms) < len(own.woven.terms) or own.woven.finishing:
        return None
    sizes = [frozen_linear(held.trunk, module).weight for module in terms]
    if sum(weight.numel() * weight.element_size() for weight in sizes) > MOST_FOLDED:
        return None
    trunk = twin(held.base.trunk, own_config=True)
    for module, copied in own.woven.copies.items():
        trunk.set_submodule(module, copied)
    for module, term in terms.items():
        old = frozen_linear(trunk, module)
        new = nn.Linear(old.in_features, old.out_features, bias=False, device="meta")
        with torch.no_grad():
            weight = torch.addmm(old.weight, term.B.to(old.weight), term.A.to(old.weight))
        new.weight = nn.Parameter(weight, requires_grad=False)
        new.bias = old.bias
        trunk.set_submodule(module, new.eval())
    found = Snapshot(
        held.base, trunk, {name: Resident(own.expert, Woven(), own.head)}, held.is_decoder
    )
    return _ALONE.setdefault(own, found)

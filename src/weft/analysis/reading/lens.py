"""An expert's own head on the states of every layer: what it would answer if the trunk ended there."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from weft.analysis.states import batches
from weft.analysis.study import Study, route_of
from weft.analysis.subjects import Subject
from weft.analysis.texts import Corpus
from weft.answering.inference import padding_id
from weft.model.head import Head
from weft.model.mixed import layers_of

BY_TOKEN = ("token_classification", "span_extraction")
"""Kinds whose heads answer token by token."""


def head_of(subject: Subject) -> Head | None:
    """The head of a subject's task, where it answers token by token."""
    found = subject.found
    if found.card.head not in BY_TOKEN:
        return None
    return subject.model.snapshot.head(found.task if found.mixes else subject.member)


@torch.inference_mode()
def logits_by_layer(
    head: Head, states: list[Tensor], norm: Callable[[Tensor], Tensor] | None
) -> list[Tensor]:
    """What a head says of every unit from the embeddings and from each layer, (units, outcomes) each, on the CPU.

    Args:
        head: Answers token by token.
        states: As `Study.states` gives them.
        norm: What the trunk does to its last state alone; None is nothing.
    """
    like = next(head.parameters())
    found = []
    for layer, own in enumerate(states):
        hidden = own.to(like)[None]
        if norm is not None and layer < len(states) - 1:
            hidden = norm(hidden)
        mask = torch.ones(hidden.shape[:2], dtype=torch.long, device=hidden.device)
        found.append(head(hidden, mask, (1,))[0].double().cpu())
    return found


@torch.inference_mode()
def last_norm(study: Study, subject: Subject, corpus: Corpus) -> nn.Module | None:
    """The norm between the last layer and the last state; encoders of BERT's kind have none.

    Found by what it does: beside the list of layers stands a module whose output is the last state.
    """
    held = subject.model.snapshot
    layers = layers_of(held.trunk)
    beside = [
        child
        for parent in held.trunk.modules()
        if any(child is layers for child in parent.children())
        for child in parent.children()
        if child is not layers
    ]
    seen: dict[nn.Module, object] = {}

    def keep(module: nn.Module, inputs: object, output: object) -> None:
        seen[module] = output

    hooks = [module.register_forward_hook(keep) for module in beside]
    try:
        device = next(held.trunk.parameters()).device
        _, inputs = next(batches(held.base, corpus, padding_id(study.base), device))
        last = held.states(inputs, route_of(subject))
    finally:
        for hook in hooks:
            hook.remove()
    return next(
        (
            module
            for module, output in seen.items()
            if isinstance(output, Tensor)
            and output.shape == last.shape
            and torch.equal(output, last)
        ),
        None,
    )


def decisions(kind: str, logits: Tensor, sentence: Tensor) -> Tensor:
    """What is decided: the class of each token; of spans, where in each sequence the answer starts and ends.

    Args:
        kind: The head's.
        logits: (units, outcomes).
        sentence: Each unit's sequence by number.

    Returns:
        (units,), or for spans (2 * sequences,), start and end of one after the other.
    """
    if kind == "token_classification":
        return logits.argmax(-1)
    return torch.stack(
        [own.argmax(0) for own in logits.split(torch.bincount(sentence).tolist())]
    ).flatten()

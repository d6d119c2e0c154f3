"""A task as one vector, from a few of its rows: what a generator is told of it.

    decoder   c = mean over rows of the last layer's state at the last position, which has seen question and answer
    encoder   c = mean over rows of the mean over tokens of the last layer's states, since no position has seen all

Of the bare base. ICM-LoRA (arXiv:2501.17635) says the decoder's; its code asks the model that was tuned to the task,
which a new task does not have. Where a task has classes, that is not enough: an encoder never sees the answers, and two
tasks on the same texts (nouns, verbs) have the same vector. `labelled`, our default, is for that reason the mean state
of what has each class (tokens, or rows), one behind the other in class order; `pooled` is the above.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from weft.answering.evaluation import sampled
from weft.answering.inference import batched, padding_id, units_of
from weft.base.loading import Base
from weft.methods.gates.reading import summary
from weft.model.batching import Batch, Item
from weft.model.heads import kind_of
from weft.model.heads.contract import IGNORE
from weft.model.model import Model
from weft.tasks.contract import Record, Task


@dataclass(frozen=True)
class TaskVector:
    """The vector and what it is one of."""

    values: Tensor
    """(condition,), double precision."""
    digest: str
    """Identity of the base whose states they are."""
    base: str
    how: str
    """`labelled` or `pooled`."""
    rows: int
    """How many it is the mean of."""


def how_of(task: Task, wanted: str) -> str:
    """`labelled` where that is wanted and the task has classes, else `pooled`."""
    classes = kind_of(task.spec.kind).has_classes and bool(task.labels)
    return "labelled" if wanted == "labelled" and classes else "pooled"


def task_vector(
    base: Base, task: Task, records: Sequence[Record], how: str, device: torch.device
) -> TaskVector:
    """The vector of a task.

    Args:
        base: The frozen base.
        task: The task, with its classes.
        records: Some of its rows, with their answers.
        how: As `how_of` says.
        device: Where the base is.

    Raises:
        ValueError: If there is no row, or a class that no row has.
    """
    if not records:
        raise ValueError(
            f"{task.spec.name}: a task's vector is a mean over rows, and there is none"
        )
    held = Model(base).to(device).snapshot
    kind = task.spec.kind
    causal = kind_of("causal_lm").fits(base.config)
    groups = len(task.labels) if how == "labelled" else 1
    sums = torch.zeros(groups, base.config.hidden_size, dtype=torch.float64)
    counts = torch.zeros(groups, dtype=torch.float64)
    items = [Item("", kind, (), record) for record in sampled(task, records)]
    units = [unit for item in items for unit in units_of(item)]
    with torch.inference_mode():
        for _, batch in batched(held, units, padding_id(base), None, device):
            states = held.states(batch.inputs, None).double()
            places, shares = _places(batch, states, causal), None
            if how == "labelled":
                labels = batch.parts[0].labels
                assert labels is not None  # rows with answers
                if labels.shape == states.shape[:2]:
                    places = states.flatten(0, 1)
                shares = _shares(labels, groups)
            else:
                shares = torch.ones(len(places), 1, dtype=torch.float64, device=places.device)
            sums += (shares.T @ places).cpu()
            counts += shares.sum(0).cpu()
    if not bool(counts.all()):
        missing = [label for label, n in zip(task.labels, counts.tolist(), strict=True) if not n]
        raise ValueError(
            f"{task.spec.name}: a task's vector needs every class at least once, and no row has {', '.join(missing)}; "
            "give rows that have it, or use a generator of pooled vectors (vector=pooled)"
        )
    values = (sums / counts[:, None]).flatten()
    return TaskVector(values, base.digest, base.name, how, len(records))


def _places(batch: Batch, states: Tensor, causal: bool) -> Tensor:
    """One state for each sequence, (sequences, hidden)."""
    both = summary(states, batch.inputs["attention_mask"], causal=causal)
    return both[:, states.shape[2] :] if causal else both[:, : states.shape[2]]


def _shares(labels: Tensor, classes: int) -> Tensor:
    """(places, classes): 1 where a place has a class."""
    if labels.is_floating_point():
        return labels.double()
    flat = labels.flatten()
    own = torch.nn.functional.one_hot(flat.clamp(min=0), classes).double()
    return own * (flat != IGNORE).double()[:, None]

"""Soups: a gate for every map and expert, trained on rows of all tasks; everything else is frozen."""

from collections.abc import Iterator, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from weft.answering.inference import autocast, padding_id
from weft.config import MergeSettings
from weft.lowrank.product import Pair
from weft.merging.combine import Learned
from weft.merging.learned.contract import Learner
from weft.merging.search import held_items, seen_in_training
from weft.merging.stage import MERGED, Stage
from weft.methods.adapters.contract import Factored, Spec
from weft.methods.merges.contract import Merge
from weft.methods.merges.soups import Soups, SoupsSettings
from weft.model.batching import Batch, Item, collate
from weft.model.expert import Expert
from weft.model.heads import kind_of
from weft.scoped import tell


class Weighed(Factored):
    """Several experts' changes of one map, each times a weight that learns; factors are frozen.

    Args:
        pairs: By expert; None where one has no adapter here.
        softmax: Whether weights are positive with sum 1.
    """

    A: Tensor
    B: Tensor
    owner: Tensor

    def __init__(self, pairs: Sequence[Pair | None], *, softmax: bool) -> None:
        there = [(at, pair) for at, pair in enumerate(pairs) if pair is not None]
        A = torch.cat([A for _, (A, _) in there])
        B = torch.cat([B for _, (_, B) in there], dim=1)
        shape = torch.empty(B.shape[0], A.shape[1], device="meta")
        super().__init__(shape, Spec(rank=len(A)), torch.Generator())
        self.softmax = softmax
        self.register_buffer("A", A)
        self.register_buffer("B", B)
        owner = torch.tensor([at for at, (down, _) in there for _ in range(len(down))])
        self.register_buffer("owner", owner)
        start = 0.0 if softmax else 1 / len(pairs)
        self.weights = nn.Parameter(torch.full((len(pairs),), start, dtype=A.dtype))

    @property
    def gates(self) -> Tensor:
        """What each expert's change is multiplied by."""
        return self.weights.softmax(0) if self.softmax else self.weights

    def factors(self, weight: Tensor) -> Pair:
        return self.A, self.B * self.gates[self.owner]


class SoupsLearner(Learner):
    """Weights by map, by AdamW on the mean of the tasks' losses."""

    def learn(self, stage: Stage, method: Merge, settings: MergeSettings) -> Learned:
        own = cast(Soups, method).settings
        items = [held_items(stage, one, own.rows) for one in stage.answered]
        gates = woven(stage, softmax=own.normalise == "softmax")
        stage.put_expert(Expert(MERGED, gates, None), trainable=True)
        losses = fitted(stage, list(gates.values()), items, own, settings.seed)
        with torch.no_grad():
            by_map = {name: gate.gates.double().tolist() for name, gate in gates.items()}
        means = np.mean(list(by_map.values()), axis=0).tolist()
        return Learned(
            means,
            by_map=by_map,
            trained=sum(gate.weights.numel() for gate in gates.values()),
            rows=sum(map(len, items)),
            told={"by": "gradients on held-out rows of train", "loss": [losses[0], losses[-1]]},
            notes=seen_in_training(stage),
        )


def woven(stage: Stage, *, softmax: bool) -> dict[str, Weighed]:
    """A gate at every map that some expert adapts."""
    names = dict.fromkeys(name for source in stage.sources for name in source.factors)
    return {
        name: Weighed([source.factors.get(name) for source in stage.sources], softmax=softmax)
        for name in names
    }


def fitted(
    stage: Stage,
    gates: Sequence[Weighed],
    items: Sequence[Sequence[Item]],
    settings: SoupsSettings,
    seed: int,
) -> list[float]:
    """Train the gates that are woven in; the mean loss of every epoch."""
    batches = list(_batches(stage, items, settings, seed))
    parameters = [gate.weights for gate in gates]
    optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LinearLR(
        optimizer, 1.0, 0.0, total_iters=max(1, len(batches) - 1)
    )
    found = []
    precision = stage.answered[0].part.folder.run.training.precision
    for at, batch in enumerate(batches):
        tell("steps of the weights", at, len(batches))
        with autocast(stage.device, precision):
            logits = stage.model(batch)
        parts = [
            kind_of(part.kind).loss(logits[part.head], part.labels, 0.0, part.weights) / part.count
            for part in batch.parts
            if part.labels is not None and part.count
        ]
        loss = torch.stack([part.double() for part in parts]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        found.append(loss.item())
    steps = len(batches) // settings.epochs
    return [float(np.mean(found[at : at + steps])) for at in range(0, len(found), steps)]


def _batches(
    stage: Stage, items: Sequence[Sequence[Item]], settings: SoupsSettings, seed: int
) -> Iterator[Batch]:
    """Rows of every task in each step; a task with fewer rows begins again."""
    generator = np.random.default_rng([seed, *b"soups"])
    steps = -(-max(map(len, items)) // settings.batch_size)
    for _ in range(settings.epochs):
        orders = [generator.permutation(len(own)) for own in items]
        for step in range(steps):
            first = step * settings.batch_size
            chosen = [
                own[int(order[(first + at) % len(own)])]
                for own, order in zip(items, orders, strict=True)
                for at in range(min(settings.batch_size, len(own)))
            ]
            yield collate(chosen, padding_id(stage.base)).to(stage.device)

"""Short trainings of a task in a space of some size, from the bare base: what a task needs, not what an expert has.

All of one task see the same rows in the order of their seed, for so many steps, with a head of their own that is
trained beside. What the space is differs: nothing at all, a random subspace of the weights of the adapted maps, plain
LoRA of some rank, or all of these weights.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from weft.analysis.measures.projections import Dense, Everything, Fastfood, Isometry, Projection
from weft.analysis.needs.altered import Rows, held_rows, within
from weft.analysis.study import Study
from weft.analysis.subjects import Subject
from weft.analysis.texts import task_rows
from weft.answering.evaluation import predictions
from weft.answering.inference import padding_id, total_loss
from weft.config import RecipeSettings
from weft.lowrank.attach import frozen_linear
from weft.lowrank.roles import resolve as resolve_targets
from weft.methods.adapters.contract import Adapter, NotLowRank, Spec
from weft.methods.recipes import resolve
from weft.model.batching import Item, collate, epoch_batches
from weft.model.expert import Expert, build
from weft.model.head import Head, trained_dtype
from weft.model.heads import kind_of
from weft.model.model import Model
from weft.scoped import tell

STEPS, BATCH = 60, 16
TRAIN_TOKENS = 64_000
"""Tokens of all training rows at most; so long texts are fewer rows, seen more often."""
SEEDS = 3
TARGETS = ["query", "value"]
RATE = 3e-4
"""AdamW's for all weights. In a subspace of d of D it is sqrt(D / d) times that: a step is then as long among them."""
HEAD_RATE = 1e-2
"""So high that in so few steps the head alone learns how often classes occur, which is no use of a space."""
WARMUP, CLIP = 0.06, 1.0
SPACES: Mapping[str, type[Projection]] = {
    "dense": Dense,
    "fastfood": Fastfood,
    "isometry": Isometry,
    "all weights": Everything,
}
LORA, NOTHING = "lora", "nothing"


@dataclass(frozen=True)
class Trial:
    """How a short training ended, on rows that it did not see."""

    score: float
    """The task's own."""
    loss: float
    """The mean."""


@dataclass(frozen=True, eq=False)
class Ground:
    """What all trials of one task share."""

    subject: Subject
    train: Rows
    held: Rows
    maps: tuple[str, ...]
    """What may be changed."""

    @property
    def task(self) -> str:
        return self.subject.found.task


class Subspace(nn.Module):
    """The trained numbers, and the change of every map that follows from them.

    Args:
        projection: From the numbers to the entries of all maps, one after another.
        shapes: Of the maps' weights by name, in order.
        like: Of the type and device to be on.
    """

    def __init__(
        self, projection: Projection, shapes: Mapping[str, torch.Size], like: Tensor
    ) -> None:
        super().__init__()
        self.projection, self.shapes = projection, dict(shapes)
        self.theta = nn.Parameter(like.new_zeros(projection.dimensions))
        self._parts: dict[str, Tensor] = {}

    def expand(self) -> None:
        """Follow the numbers: to be called before every forward call, once for all maps."""
        flat = self.projection(self.theta)
        sizes = [math.prod(shape) for shape in self.shapes.values()]
        self._parts = {
            name: part.view(shape)
            for (name, shape), part in zip(self.shapes.items(), flat.split(sizes), strict=True)
        }

    def part(self, name: str) -> Tensor:
        """The change of one map, (out, in)."""
        return self._parts[name]


class Within(Adapter):
    """The change of one map in a subspace that all maps share; of no name, so that no recipe can have it."""

    low_rank = False

    def name(self, module: str) -> "Within":
        """Say which map it is."""
        self.module = module
        return self

    def delta(self, weight: Tensor) -> Tensor:
        assert isinstance(self.shared, Subspace)
        return self.shared.part(self.module)

    def factors(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        raise NotLowRank("a random direction of all weights has full rank in each")


def grounds(study: Study) -> list[Ground]:
    """What there is to try of each task among the experts, once a task.

    Raises:
        NotAtHandError: If rows of one are not there; says why.
    """
    found: dict[str, Ground] = {}
    for subject, _ in study.experts:
        if subject.found.task not in found:
            most = STEPS * BATCH
            loaded, records = task_rows(subject.found, study.base, study.data, "train", most)
            examples, records = within(loaded.splits["train"], records, TRAIN_TOKENS)
            maps = tuple(resolve_targets(study.base.trunk, TARGETS))
            found[subject.found.task] = Ground(
                subject, Rows(loaded.task, examples, records), held_rows(study, subject), maps
            )
    return list(found.values())


def tried(
    study: Study, ground: Ground, space: str, size: int, seed: int, *, steps: int = STEPS
) -> Trial:
    """A short training in a space, or what an earlier call has kept of it.

    Args:
        study: Keeps it.
        ground: The task.
        space: One of `SPACES`, `lora` or `nothing`.
        size: Dimensions, or ranks; without meaning for all weights and for nothing.
        seed: Of the space, the head and the order of rows.
        steps: How many.
    """
    key = f"{ground.task} {space} {size} {seed} {steps}"

    def make() -> dict[str, Any]:
        trial = _trained(study, ground, space, size, seed=seed, steps=steps)
        return {"score": trial.score, "loss": trial.loss}

    return Trial(**study.notes.once(key, make))


def weights_of(study: Study, ground: Ground) -> int:
    """How many weights the maps have that may be changed."""
    return sum(frozen_linear(study.base.trunk, name).weight.numel() for name in ground.maps)


def _trained(
    study: Study, ground: Ground, space: str, size: int, *, seed: int, steps: int
) -> Trial:
    expert, rate = expert_in(study, ground, space, size, seed)
    model = Model(study.base).eval()
    device = next(model.trunk.parameters()).device
    model.add(expert.to(device), trainable=True)
    assert expert.head is not None
    head = [value for value in expert.head.parameters() if value.requires_grad]
    own = {id(value) for value in head}
    rest = [value for value in expert.trained().values() if id(value) not in own]
    groups = [{"params": head, "lr": HEAD_RATE}, {"params": rest, "lr": rate}]
    optimizer = torch.optim.AdamW([one for one in groups if one["params"]], weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / (WARMUP * steps), 1 - step / steps)
    )
    kind, pad = ground.train.task.spec.kind, padding_id(study.base)
    members = (expert.name,) if expert.adapters else ()
    items = [Item(expert.name, kind, members, one) for one in ground.train.records]
    for step, rows in enumerate(_order(items, seed, steps)):
        tell(f"training {ground.task}, {space} {size}, seed {seed}", step, steps)
        batch = collate([items[at] for at in rows], pad).to(device)
        expand(expert)
        logits = model(batch)
        loss = torch.zeros((), device=device)
        for part in batch.parts:
            assert part.labels is not None
            found = kind_of(kind).loss(logits[part.head], part.labels, 0.0, part.weights)
            loss = loss + found / (part.count or 1)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_([*head, *rest], CLIP)
        optimizer.step()
        schedule.step()
    return _asked(study, ground, model, expert, members)


def _order(items: Sequence[Item], seed: int, steps: int) -> list[list[int]]:
    """The rows of every step."""
    lengths, found, epoch = [item.length for item in items], [], 0
    while len(found) < steps:
        found += epoch_batches(lengths, BATCH, seed=seed, epoch=epoch, bucketing=True)
        epoch += 1
    return found[:steps]


def expand(expert: Expert) -> None:
    """Bring the maps of an expert in a subspace to its numbers, if it is in one."""
    if isinstance(expert.shared, Subspace):
        expert.shared.expand()


@torch.no_grad()
def _asked(
    study: Study, ground: Ground, model: Model, expert: Expert, members: tuple[str, ...]
) -> Trial:
    expand(expert)
    held, kind, pad = ground.held, ground.held.task.spec.kind, padding_id(study.base)
    device = next(model.trunk.parameters()).device
    common: dict[str, Any] = {"pad_id": pad, "device": device, "precision": study.precision}
    said = predictions(
        model, held.task, held.examples, held.records, head=expert.name, kind=kind, members=members,
        **common,
    )  # fmt: skip
    items = [Item(expert.name, kind, members, record) for record in held.records]
    loss, count = total_loss(model, items, **common)
    return Trial(held.score(said).value, loss / (count or 1))


def expert_in(
    study: Study, ground: Ground, space: str, size: int, seed: int
) -> tuple[Expert, float]:
    """An expert that changes nothing yet, and the rate of what is no head."""
    base, name = study.base, "trial"
    head = Head(ground.train.task.spec.kind, base, ground.train.task.num_labels, seed=seed)
    if space == NOTHING:
        return Expert(name, {}, head), RATE
    if space == LORA:
        said = {"name": LORA, "rank": size, "targets": TARGETS}
        recipe = resolve(RecipeSettings.model_validate(said))
        return build(name, base, recipe, head, seed=seed), recipe.learning_rate
    weights = {module: frozen_linear(base.trunk, module).weight for module in ground.maps}
    count = sum(weight.numel() for weight in weights.values())
    generator = torch.Generator().manual_seed(seed)
    dimensions = count if space == "all weights" else size
    projection = SPACES[space](dimensions, count, generator)
    like = next(iter(weights.values())).to(trained_dtype(base))
    shapes = {module: weight.shape for module, weight in weights.items()}
    subspace = Subspace(projection, shapes, like)
    adapters = {
        module: Within(weight, Spec(rank=min(weight.shape)), generator, subspace).name(module)
        for module, weight in weights.items()
    }
    return Expert(name, adapters, head, shared=subspace), RATE * math.sqrt(count / dimensions)

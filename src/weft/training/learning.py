"""What learns together: the parameters of one or more experts under one optimizer, schedule and stopping rule."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import get_scheduler

from weft.config import TrainingSettings
from weft.lowrank.route import Members
from weft.methods.balances.contract import Balance
from weft.methods.recipes import Recipe
from weft.model.batching import Item, epoch_batches
from weft.model.expert import Expert
from weft.tasks.contract import Example, Record, Task
from weft.training.adamw import AdamW

_FORM = "form//"
"""Before the names of what the best weights' shapes follow from, which no parameter is called."""


@dataclass
class Stream:
    """One task's training rows, in the order its own run would see them.

    Attributes:
        head: Expert whose head answers.
        members: Experts whose adapters speak for its rows.
        held: Rows kept out of training, with their records; stopping looks at them.
        class_weights: What each class counts in the loss; None is 1 everywhere.
        loss_weight: What the task's mean loss counts beside those of others.
    """

    name: str
    task: Task
    kind: str
    head: str
    members: Members
    records: Sequence[Record]
    held: tuple[Sequence[Example], Sequence[Record]] | None
    training: TrainingSettings
    seed: int
    class_weights: tuple[float, ...] | None = None
    loss_weight: float = 1.0
    _epoch: tuple[int, list[list[int]]] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.lengths = [self.task.length(record) for record in self.records]

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self.records) / self.training.batch_size)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of this task's training."""
        if self.training.max_steps is not None:
            return self.training.max_steps
        return max(1, math.ceil(self.training.epochs * self.steps_per_epoch))

    def items(self, step: int) -> list[Item]:
        """The rows of step `step` (from 0); a function of the seed and the step alone."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if self._epoch is None or self._epoch[0] != epoch:
            batches = epoch_batches(
                self.lengths,
                self.training.batch_size,
                seed=self.seed,
                epoch=epoch,
                bucketing=self.training.bucketing,
            )
            self._epoch = (epoch, batches)
        return [self.item(row, step) for row in self._epoch[1][place]]

    def weight(self, step: int) -> float:
        """What this task's mean loss counts in step `step`."""
        return self.loss_weight

    def item(self, row: int, step: int) -> Item:
        """One row as step `step` sees it: what is drawn anew each time (masks) is drawn."""
        draw = np.random.default_rng([self.seed, step, row])
        record = self.task.at_step(self.records[row], seed=self.seed, step=step)
        return self.item_of(self.task.sample(record, draw))

    def item_of(self, record: Record) -> Item:
        """A record of this task on its way into a batch."""
        return Item(self.head, self.kind, self.members, record, self.class_weights)


class Stopper:
    """Remembers the best score or loss and says when patience is over.

    Args:
        patience: Evaluations without a better one before training stops; None never stops.
        higher_is_better: Direction of what is watched.
    """

    def __init__(self, patience: int | None, higher_is_better: bool) -> None:
        self.patience = patience
        self.sign = 1.0 if higher_is_better else -1.0
        self.best: float | None = None
        self.best_step = 0
        self.misses = 0

    def better(self, score: float, step: int) -> bool:
        """Whether `score` is the best so far; counts it."""
        if self.best is None or self.sign * score > self.sign * self.best:
            self.best, self.best_step, self.misses = score, step, 0
            return True
        self.misses += 1
        return False

    @property
    def is_over(self) -> bool:
        return self.patience is not None and self.misses >= self.patience


def rate_factor(training: TrainingSettings, step: int, total: int) -> float:
    """The learning rate of step `step` (from 0) of `total` as a fraction of its peak."""
    warmup = round(training.warmup * total)
    if step < warmup:
        # Theirs rises from 0, which would be a step for nothing.
        return float(_schedule("constant", warmup, total)(step + 1))
    return float(_schedule(training.schedule, warmup, total)(step))


@cache
def _schedule(name: str, warmup: int, total: int) -> Callable[[int], float]:
    """Transformers' schedule as what it is: a function of the step, so that nothing of it has to be kept to resume."""
    # It wants an optimizer to steer; the learner sets its own rates.
    steered = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    theirs = "constant_with_warmup" if name == "constant" else name
    scheduler: Any = get_scheduler(theirs, steered, warmup, total)
    return scheduler.lr_lambdas[0]


class Learner:
    """Experts that are optimised, scheduled, clipped and stopped together.

    Clipping is by expert. The optimizer holds trained parameters only.

    Args:
        streams: Where its gradients come from; its schedule is as long as the longest.
        experts: What it trains, with each expert's recipe.
        training: The run's settings.
        trunk: The private trunk of recipe `full`, whose weights are trained too.
        balance: What each task's loss counts; None counts all alike.
    """

    def __init__(
        self,
        streams: Sequence[Stream],
        experts: Sequence[tuple[Expert, Recipe]],
        training: TrainingSettings,
        trunk: nn.Module | None = None,
        balance: Balance | None = None,
    ) -> None:
        self.streams = list(streams)
        self.experts = list(experts)
        self.training = training
        self.balance = balance or Balance()
        self._trunk = trunk
        self._resizes = any(own.resizes for e, _ in experts for own in e.adapters.values())
        self.parameters = self._trained()
        self.rebuild_optimizer()
        self.total = max(stream.total_steps for stream in streams)
        higher = streams[0].task.higher_is_better and training.early_stopping_on == "score"
        self.stopper = Stopper(training.early_stopping, higher)
        self.best: dict[str, Tensor] = {}
        self.is_over = False
        self.done = 0
        """Optimizer steps taken."""

    def rebuild_optimizer(self) -> None:
        """A fresh AdamW over what the recipes' rules say now."""
        self.optimizer = AdamW({**group, "peak": group["lr"]} for group in self._groups())

    @property
    def peaks(self) -> list[float]:
        """The peak rate of each of the optimizer's groups."""
        return [group["peak"] for group in self.optimizer.param_groups]

    def _trained(self) -> dict[str, nn.Parameter]:
        """All that is trained now, by a stable name."""
        trunk = {} if self._trunk is None else dict(self._trunk.named_parameters())
        return _once(
            {
                f"{expert.name}/{name}": value
                for expert, _ in self.experts
                for name, value in expert.trained().items()
            }
            | {f"trunk/{name}": value for name, value in trunk.items()}
        )

    def _adopt(self) -> None:
        """Follow a method that gave parameters to train, whose groups it made, or took some away."""
        if not self._resizes:
            return
        now = self._trained()
        if now.keys() == self.parameters.keys():
            return
        self.parameters, kept = now, {id(value) for value in now.values()}
        for group in self.optimizer.param_groups:
            group["params"] = [value for value in group["params"] if id(value) in kept]
        self.optimizer.param_groups[:] = [g for g in self.optimizer.param_groups if g["params"]]
        for value in [value for value in self.optimizer.state if id(value) not in kept]:
            del self.optimizer.state[value]

    def _groups(self) -> list[dict[str, Any]]:
        groups: list[dict[str, Any]] = []
        for expert, recipe in self.experts:
            rate = self.training.rate or recipe.learning_rate
            own = recipe.optimizer.param_groups(expert.adapters, rate)
            held = {id(value) for group in own for value in group["params"]}
            head = list(expert.head.parameters()) if expert.head else []
            head = [value for value in head if value.requires_grad]
            held |= {id(value) for value in head}
            rest = [value for value in expert.trained().values() if id(value) not in held]
            own.append({"params": head, "lr": self.training.head_learning_rate or rate})
            own.append({"params": rest, "lr": rate})
            groups += own
        if self._trunk is not None:
            rate = self.training.rate or self.experts[0][1].learning_rate
            trained = [value for value in self._trunk.parameters() if value.requires_grad]
            groups.append({"params": trained, "lr": rate})
        seen: set[int] = set()
        for group in groups:
            group["params"] = [
                p for p in group["params"] if id(p) not in seen and not seen.add(id(p))
            ]
        return [part for group in groups for part in self._by_decay(group)]

    def _by_decay(self, group: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Biases, norms and other vectors are not decayed."""
        decay = group.get("weight_decay", self.training.weight_decay)
        found = [
            {
                **group,
                "params": [p for p in group["params"] if p.dim() >= 2],
                "weight_decay": decay,
            },
            {**group, "params": [p for p in group["params"] if p.dim() < 2], "weight_decay": 0.0},
        ]
        return [part for part in found if part["params"]]

    def factor(self, step: int) -> float:
        """The learning rate of step `step` (from 0) as a fraction of its peak."""
        return rate_factor(self.training, step, self.total)

    def before_step(self, step: int) -> None:
        """Let the methods act before the rows of step `step` (from 0) are seen."""
        for expert, recipe in self.experts:
            if expert.adapters:
                seed = np.random.SeedSequence([self.streams[0].seed, step]).generate_state(1)
                draws = torch.Generator().manual_seed(int(seed[0]))
                recipe.controller.before_step(
                    expert.adapters, self.optimizer, step, self.total, draws
                )
        self._adopt()

    def step(self, step: int, scaler: torch.amp.GradScaler) -> None:
        """Clip, transform, update, and let the methods act; gradients are cleared."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * self.factor(step) * _risen(group, step)
        scaler.unscale_(self.optimizer)
        self._clip()
        for expert, recipe in self.experts:
            if expert.adapters:
                recipe.optimizer.transform(expert.adapters, step)
        scaler.step(self.optimizer)
        for expert, recipe in self.experts:
            expert.after_step(step + 1, self.total)
            if expert.adapters:
                with torch.no_grad():
                    recipe.controller.after_step(expert.adapters, self.optimizer, step, self.total)
        self._adopt()
        self.optimizer.zero_grad(set_to_none=True)
        self.done = step + 1

    def _clip(self) -> None:
        if not self.training.max_grad_norm:
            return
        seen: set[int] = set()
        for expert, _ in self.experts:
            own = [*expert.trained().values()]
            if self._trunk is not None:
                own += [value for value in self._trunk.parameters() if value.requires_grad]
            # What several experts share is clipped with the first of them.
            own = [p for p in own if p.grad is not None and id(p) not in seen]
            seen |= {id(p) for p in own}
            nn.utils.clip_grad_norm_(own, self.training.max_grad_norm)

    def keep_best(self) -> None:
        """Remember the weights as they are."""
        self.best = {
            name: value.detach().cpu().clone()
            for name, value in (*self.parameters.items(), *self._changing().items())
        } | {f"{_FORM}{name}": value.clone() for name, value in self.forms().items()}

    def restore_best(self) -> None:
        """Return to the remembered weights, if there are any."""
        if not self.best:
            return
        forms = {n.removeprefix(_FORM): v for n, v in self.best.items() if n.startswith(_FORM)}
        self.take_forms(forms)
        held = {**self.parameters, **self._changing()}
        with torch.no_grad():
            for name, value in self.best.items():
                if not name.startswith(_FORM):
                    held[name].copy_(value)

    def forms(self) -> dict[str, Tensor]:
        """What the shapes of all adapters follow from, where methods change them."""
        return {
            f"{expert.name}/{key}": value
            for expert, recipe in self.experts
            for key, value in recipe.controller.form().items()
        }

    def take_forms(self, forms: Mapping[str, Tensor]) -> None:
        """Bring adapters and groups to the shapes they had when `forms` was asked."""
        for expert, recipe in self.experts:
            prefix = f"{expert.name}/"
            own = {n.removeprefix(prefix): v for n, v in forms.items() if n.startswith(prefix)}
            if own:
                recipe.controller.take_form(expert.adapters, self.optimizer, own)
        self._adopt()

    def _changing(self) -> dict[str, Tensor]:
        """What changes by no gradient, under names that no parameter has."""
        return {
            f"{expert.name}//{name}": value
            for expert, _ in self.experts
            for name, value in expert.changing().items()
        }

    def hooks(self) -> dict[str, Any]:
        """Everything with a state besides weights and optimizer, by a stable name."""
        found: dict[str, Any] = {"/balance": self.balance}
        for expert, recipe in self.experts:
            found[f"{expert.name}/optimizer"] = recipe.optimizer
            found[f"{expert.name}/controller"] = recipe.controller
            found[f"{expert.name}/expert"] = expert.untrained
            for number, penalty in enumerate(recipe.penalties):
                found[f"{expert.name}/penalty{number}"] = penalty
        return found


def _risen(group: Mapping[str, Any], step: int) -> float:
    """How far a group that was made during training has come in its own warm-up; 1 for all others."""
    return min(1.0, (step - group["born"] + 1) / group["rise"]) if group.get("rise") else 1.0


def _once(parameters: Mapping[str, nn.Parameter]) -> dict[str, nn.Parameter]:
    """Each parameter under its first name: a head's output map may be the trunk's embeddings."""
    found = {id(value): name for name, value in reversed(list(parameters.items()))}
    return {name: value for name, value in parameters.items() if found[id(value)] == name}

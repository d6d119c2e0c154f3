"""IncreLoRA's growth: maps that matter most get more ranks while they learn, until all together have the target.

    S = sum |dW * dL/dW| / sqrt(out in),    I <- b1 I + (1 - b1) S,    U <- b2 U + (1 - b2) |S - I|,    score = I U
    ranks of all maps together <= r0 + (rT - r0) (t - ti) / (tf - ti)     between ti and tf, then rT

Zhang et al. 2023, IncreLoRA: Incremental Parameter Allocation Method for Parameter-Efficient Fine-tuning,
arXiv:2308.12043; score, betas and growth by reserves that have learnt in advance as in the authors' code
(github.com/FeiyuZhang98/IncreLoRA, loralib/increlora.py). New parts go into groups of their own, whose rate rises from
0 (there `multi_lr`). S needs the gradient of a map's whole change, which is one product of the map's size more in each
backward pass and two matrices of its size, until growing is over.

Where it differs: a budget that rises evenly over fractions of all steps says how many maps grow, where theirs are a
number of maps every so many steps; so the target is met whatever the length, and neither it nor the budget is ever
passed (there a growth of several ranks can pass it, after which growing is never finished, and ties grow more maps than
asked). A map grows once a choice, and no further than its smaller side. At the end, or when less is left than a growth
takes, the reserves are emptied. The form is kept as the list of growths, so that a checkpoint and the best
weights so far come back with the ranks that they had.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import nn

from weft.config import Settings
from weft.lowrank.sensitivity import Sensitivities, importance, take_in
from weft.methods.controllers.contract import Event, Growing, Grows, growing


class IncreLoRASettings(Settings):
    """Settings of IncreLoRA's growth."""

    target_rank: float = Field(default=8.0, gt=0)
    """Mean rank of a map when growing is over."""
    initial: float = Field(default=0.1, ge=0, lt=1)
    """Fraction of all steps before the first growth."""
    final: float = Field(default=0.5, ge=0, lt=1)
    """Fraction of all steps at the end in which nothing grows."""
    interval: int = Field(default=1, ge=1)
    """Steps between two choices."""
    rise: float = Field(default=0.05, ge=0, le=1)
    """Fraction of all steps over which the rate of new parts rises to that of the others."""
    beta1: float = Field(default=0.85, ge=0, lt=1)
    """How much of the mean score stays in a step."""
    beta2: float = Field(default=0.85, ge=0, lt=1)
    """How much of the mean uncertainty stays in a step."""


class IncreLoRA(Growing):
    """For adapters in blocks. Remembers `<module>/<sensitivity | uncertainty>`."""

    settings_type: ClassVar[type[Settings]] = IncreLoRASettings
    settings: IncreLoRASettings

    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(settings)
        self._watched = Sensitivities()

    def before_step(
        self,
        adapters: Mapping[str, nn.Module],
        optimizer: torch.optim.Optimizer,
        step: int,
        total: int,
        generator: torch.Generator,
    ) -> None:
        if self.is_over:
            return
        made, self.rise = growing(adapters, self), round(self.settings.rise * total)
        target = round(self.settings.target_rank * len(made))
        free = self.budget(step, total, made, target) - _sum(made)
        last = step >= total - round(self.settings.final * total)
        if step and (last or step % self.settings.interval == 0):
            events: list[Event] = []
            for name in sorted(made, key=self.score, reverse=True):
                if made[name].growth <= free and not made[name].is_full:
                    seed = int(torch.randint(2**62, (), generator=generator))
                    events.append((step, list(made).index(name), seed))
                    free -= made[name].growth
            self.grow(made, optimizer, events)
        left = target - _sum(made)
        if any(own.growth <= left and not own.is_full for own in made.values()):
            for name, own in made.items():
                self._watched.watch(name, own)
        else:
            self.finish(made)

    @torch.no_grad()
    def after_step(
        self,
        adapters: Mapping[str, nn.Module],
        optimizer: torch.optim.Optimizer,
        step: int,
        total: int,
    ) -> None:
        if self.is_over:
            return
        made, betas = growing(adapters, self), (self.settings.beta1, self.settings.beta2)
        for name, now in self._watched.taken(made).items():
            if now.isfinite():
                take_in(self.remembered, name, now, betas)
        if step + 1 == total:
            self.finish(made)

    def budget(self, done: int, total: int, made: Mapping[str, Grows], target: int) -> int:
        """Ranks of all maps together that there may be after `done` of `total` steps."""
        start = _sum(made) - sum(list(made.values())[at].growth for _, at, _ in self.events)
        first, last = (
            round(self.settings.initial * total),
            total - round(self.settings.final * total),
        )
        if done >= last:
            return target
        return start + max(0, int((target - start) * (done - first) / (last - first)))

    def score(self, name: str) -> float:
        """How much a map matters; 0 before it was seen."""
        return importance(self.remembered, name, torch.zeros(())).item()


def _sum(made: Mapping[str, Grows]) -> int:
    return sum(own.rank for own in made.values())

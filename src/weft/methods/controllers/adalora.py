"""AdaLoRA's budget: triplets that matter least are set to zero, until as many are left as the budget says.

    b(t) = b_T + (b_0 - b_T) (1 - (t - ti) / (T - tf - ti))^3     between ti and T - tf; b_0 before, b_T after
    I = |p dL/dp|,    I^ <- b1 I^ + (1 - b1) I,    U <- b2 U + (1 - b2) |I - I^|,    s(p) = I^ U
    triplet: s(E_i) + mean_j s(A_ij) + mean_k s(B_ki);  of all maps together the b(t) largest stay, the E of others is 0

Zhang et al. 2023, AdaLoRA, arXiv:2303.10512, equations 8 to 12. Gradients are those of the step just taken, after
clipping; schedule and scores are those of PEFT 0.21.2 (peft/tuners/adalora/layer.py), with which it agrees step by
step. `target_rank` is the mean rank that is left, `rank` the one it starts from.

Where it differs: `initial` and `final` are fractions of all steps (PEFT and the authors count steps, so that a shorter
training must be told anew); the very budget is kept where scores are equal (there all that equal the last one go); and
the last choice is made once, at T - tf, and holds: a triplet dropped then stays at zero whatever its momentum says.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from weft.config import Settings
from weft.lowrank.sensitivity import importance, take_in
from weft.methods.controllers.contract import Controller

_PARTS = ("A", "B", "E")


class AdaLoRASettings(Settings):
    """Settings of AdaLoRA's budget."""

    target_rank: float = Field(default=4.0, gt=0)
    """Mean rank of a map when the budget has come down."""
    initial: float = Field(default=0.1, ge=0, lt=1)
    """Fraction of all steps before the budget begins to fall."""
    final: float = Field(default=0.3, ge=0, lt=1)
    """Fraction of all steps at the end in which the choice is fixed."""
    interval: int = Field(default=1, ge=1)
    """Steps between two choices."""
    beta1: float = Field(default=0.85, ge=0, lt=1)
    """How much of the mean sensitivity stays in a step."""
    beta2: float = Field(default=0.85, ge=0, lt=1)
    """How much of the mean uncertainty stays in a step."""


class AdaLoRAController(Controller):
    """For adapters in the SVD form: A (rank, in), E (rank, 1), B (out, rank).

    Remembers `<module>/<part>/<sensitivity | uncertainty>`, and `<module>/kept` once the choice is fixed.
    """

    settings_type: ClassVar[type[Settings]] = AdaLoRASettings
    settings: AdaLoRASettings

    @torch.no_grad()
    def after_step(
        self,
        adapters: Mapping[str, nn.Module],
        optimizer: torch.optim.Optimizer,
        step: int,
        total: int,
    ) -> None:
        done, last = step + 1, total - round(self.settings.final * total)
        if done <= last:
            for name, adapter in adapters.items():
                self._watch(name, adapter)
            budget = self.budget(done, total, [own.get_parameter("E") for own in adapters.values()])
            if budget is not None and (done == last or done % self.settings.interval == 0):
                for name, kept in self._chosen(adapters, budget).items():
                    self._mask(adapters[name], kept)
                    if done == last:
                        self.remembered[f"{name}/kept"] = kept
            return
        for name, adapter in adapters.items():
            if f"{name}/kept" in self.remembered:
                self._mask(adapter, self.remembered[f"{name}/kept"])

    def budget(self, done: int, total: int, values: list[nn.Parameter]) -> int | None:
        """Triplets of all maps together that step `done` (from 1) of `total` leaves; None is all of them."""
        first, last = (
            round(self.settings.initial * total),
            total - round(self.settings.final * total),
        )
        start = sum(len(value) for value in values)
        target = min(start, round(self.settings.target_rank * len(values)))
        if done <= first and done < last:
            return None
        if done >= last:
            return target
        left = 1 - (done - first) / (last - first)
        return int((start - target) * left**3 + target)

    def _watch(self, name: str, adapter: nn.Module) -> None:
        betas = self.settings.beta1, self.settings.beta2
        for part in _PARTS:
            value = adapter.get_parameter(part)
            if value.grad is not None:
                take_in(self.remembered, f"{name}/{part}", (value * value.grad).abs(), betas)

    def _chosen(self, adapters: Mapping[str, nn.Module], budget: int) -> dict[str, Tensor]:
        """By map which triplets are among the `budget` largest."""
        scores = {name: self._scores(name, adapter) for name, adapter in adapters.items()}
        everything = torch.cat(list(scores.values()))
        kept = torch.zeros_like(everything, dtype=torch.bool)
        kept[everything.argsort(descending=True, stable=True)[:budget]] = True
        sizes = [len(own) for own in scores.values()]
        return dict(zip(scores, kept.split(sizes), strict=True))

    def _scores(self, name: str, adapter: nn.Module) -> Tensor:
        own = {
            part: importance(self.remembered, f"{name}/{part}", adapter.get_parameter(part))
            for part in _PARTS
        }
        return own["E"][:, 0] + own["A"].mean(1) + own["B"].mean(0)

    @staticmethod
    def _mask(adapter: nn.Module, kept: Tensor) -> None:
        adapter.get_parameter("E")[~kept] = 0

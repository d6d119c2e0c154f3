"""DyLoRA's draw: for each step a number of ranks, the same for every map, so that each rank learns to stand alone.

    b ~ Uniform{1, ..., rank},    dW = (alpha / b) B[:, :b] A[:b]    in this step

Valipour et al. 2022, DyLoRA, arXiv:2210.07558, algorithm 1; once per optimizer step as in the authors' code
(github.com/huawei-noah/Efficient-NLP, DyLoRA/examples/NLU). What learns at b, rank b alone or all up to b, is the
adapter's `mode`. A rank that learns nothing in a step has a gradient of zero, under which momentum and decay go on
moving it, there as here; with `hold` it is put back after the step and stays to the bit. A map whose own rank is
smaller than b has all of it.
"""

from collections.abc import Mapping
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from weft.config import Settings
from weft.methods.controllers.contract import Controller


@runtime_checkable
class Nests(Protocol):
    """An adapter of which the first ranks can be drawn: A (rank, in), B (out, rank)."""

    rank: int
    A: nn.Parameter
    B: nn.Parameter

    def draw(self, ranks: int | None) -> None:
        """Train on the first `ranks`."""
        ...


class DyLoRASettings(Settings):
    """Settings of DyLoRA's draw."""

    hold: bool = False
    """Put back after each step the ranks that were not to learn in it, which momentum and decay moved."""


class DyLoRAController(Controller):
    """For adapters whose ranks are nested."""

    settings_type: ClassVar[type[Settings]] = DyLoRASettings
    settings: DyLoRASettings

    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(settings)
        self._held: dict[str, tuple[Tensor, Tensor]] = {}

    @torch.no_grad()
    def before_step(
        self,
        adapters: Mapping[str, nn.Module],
        optimizer: torch.optim.Optimizer,
        step: int,
        total: int,
        generator: torch.Generator,
    ) -> None:
        nested = {name: _nested(name, adapter) for name, adapter in adapters.items()}
        most = max(adapter.rank for adapter in nested.values())
        ranks = int(torch.randint(1, most + 1, (), generator=generator))
        for name, adapter in nested.items():
            adapter.draw(min(ranks, adapter.rank))
            if self.settings.hold:
                self._held[name] = adapter.A.clone(), adapter.B.clone()

    @torch.no_grad()
    def after_step(
        self,
        adapters: Mapping[str, nn.Module],
        optimizer: torch.optim.Optimizer,
        step: int,
        total: int,
    ) -> None:
        for name, (A, B) in self._held.items():
            adapter = _nested(name, adapters[name])
            for value, before, side in ((adapter.A, A, 1), (adapter.B, B, 0)):
                if value.grad is not None:
                    still = (value.grad == 0).all(side, keepdim=True)
                    value.copy_(torch.where(still, before, value))
        self._held = {}


def _nested(name: str, adapter: nn.Module) -> Nests:
    if not isinstance(adapter, Nests):
        raise TypeError(
            f"controller dylora: the {type(adapter).__name__} on {name} has no nested ranks; use it with adapter nested"
        )
    return adapter

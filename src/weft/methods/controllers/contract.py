"""The contract of a controller: what a method changes around each optimizer step."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from weft.config import Settings

Through = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From the input (..., in), W0 (out, in) and what an adapter adds (..., out) to what training adds."""


class Controller:
    """Changes nothing. A method overrides `before_step`, `after_step` or both.

    Args:
        settings: The method's own settings; None takes their defaults.
    """

    settings_type: ClassVar[type[Settings]] = Settings

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = self.settings_type() if settings is None else settings

    def before_step(
        self,
        adapters: Mapping[str, nn.Module],
        optimizer: torch.optim.Optimizer,
        step: int,
        total: int,
        generator: torch.Generator,
    ) -> None:
        """Change how the expert's adapters see the rows of step `step` (from 0) of `total`.

        Args:
            adapters: By module name.
            optimizer: With what it remembers of the steps before.
            step: The step to come.
            total: Steps of the whole training.
            generator: Source of what is drawn; CPU. It begins anew each step from the run's seed and the step, so that
                all processes draw the same, and so does a run that is resumed.
        """

    def after_step(
        self,
        adapters: Mapping[str, nn.Module],
        optimizer: torch.optim.Optimizer,
        step: int,
        total: int,
    ) -> None:
        """Look at or change the expert's adapters after step `step` (from 0) of `total`; no gradients here."""

    def state_dict(self) -> dict[str, Tensor]:
        """What the controller remembers between steps."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""


@runtime_checkable
class Product(Protocol):
    """An adapter whose change is `scaling * B @ A`, up to what is constant: A (rank, in), B (out, rank)."""

    A: nn.Parameter
    B: nn.Parameter
    scaling: float

    def delta(self, weight: Tensor) -> Tensor:
        """The change of the weight, (out, in)."""
        ...

    def see(self, through: Through | None) -> None:
        """What training adds in place of this adapter's own output; None is that."""
        ...


@dataclass(frozen=True, eq=False)
class Thin:
    """A matrix of the size of a map, of low rank and never written out: `left @ right`."""

    left: Tensor
    """(out, k)"""
    right: Tensor
    """(k, in)"""

    def row_squares(self) -> Tensor:
        """The squared norm of each row, (out,)."""
        return ((self.left @ (self.right @ self.right.T)) * self.left).sum(1).clamp(min=0)

    def norm(self) -> Tensor:
        """The root of the sum of all squares."""
        return self.row_squares().sum().sqrt()


class Perturbing(Controller):
    """Each step is taken on weights that are slightly other than those it changes.

    The rows of the step see `W0 + change + e`; nothing is added to any tensor and so nothing has to be taken away
    again. Outside of a step, in evaluation and in what is saved there is no e.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(settings)
        self._begun: dict[str, tuple[Tensor, Tensor]] = {}

    def perturbation(
        self,
        name: str,
        pair: Product,
        optimizer: torch.optim.Optimizer,
        generator: torch.Generator,
    ) -> Through | None:
        """What the rows of this step see at one map; None changes nothing."""
        raise NotImplementedError

    def observe(self, name: str, gradient: Thin) -> None:
        """Remember of the step just taken what the next needs; no gradients here.

        Args:
            name: The map.
            gradient: `s (g_B A + B g_A)`, which stands for the gradient of the map's whole weight.
        """

    @torch.no_grad()
    def before_step(
        self,
        adapters: Mapping[str, nn.Module],
        optimizer: torch.optim.Optimizer,
        step: int,
        total: int,
        generator: torch.Generator,
    ) -> None:
        for name, adapter in adapters.items():
            pair = product(name, adapter, self)
            self._begun[name] = pair.A.clone(), pair.B.clone()
            pair.see(self.perturbation(name, pair, optimizer, generator))

    @torch.no_grad()
    def after_step(
        self,
        adapters: Mapping[str, nn.Module],
        optimizer: torch.optim.Optimizer,
        step: int,
        total: int,
    ) -> None:
        for name, adapter in adapters.items():
            pair = product(name, adapter, self)
            pair.see(None)
            if pair.A.grad is not None and pair.B.grad is not None:
                A, B = self._begun[name]
                self.observe(name, together(pair.scaling, A, B, pair.A.grad, pair.B.grad))
        self._begun = {}


def product(name: str, adapter: nn.Module, controller: Controller) -> Product:
    """The adapter as a product.

    Raises:
        TypeError: If it is none.
    """
    if not isinstance(adapter, Product):
        raise TypeError(
            f"{type(controller).__name__}: the {type(adapter).__name__} on {name} is no product of two trained "
            "factors; use it with adapter lora, pissa or olora"
        )
    return adapter


def together(scaling: float, A: Tensor, B: Tensor, of_A: Tensor, of_B: Tensor) -> Thin:
    """`s (of_B A + B of_A)` for something said of both factors (gradients, moments), in single precision at least."""
    dtype = torch.promote_types(A.dtype, torch.float32)
    return Thin(
        scaling * torch.cat([of_B, B], dim=1).to(dtype), torch.cat([A, of_A], dim=0).to(dtype)
    )

"""What the gradient of a map's whole change says, where only its factors are trained."""

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

_SMOOTHED = ("sensitivity", "uncertainty")
"""What is remembered of each."""


class Watched(Protocol):
    """An adapter whose change is a matter of its own parameters alone."""

    shape: tuple[int, ...]
    A: nn.ParameterList

    def delta(self, weight: Tensor) -> Tensor:
        """The change of the weight, (out, in)."""
        ...

    def see(self, through: Callable[[Tensor, Tensor, Tensor], Tensor] | None) -> None:
        """What training adds in place of this adapter's own output; None is that."""
        ...


class Sensitivities:
    """How much each map's whole change mattered in a step: `sum |dW * dL/dW| / sqrt(out in)`.

    The gradient of the change is collected while the loss flows back, from what the map gives and reads, and summed
    over pieces and processes. That is one product of the map's size more, and two matrices of its size for the step.
    """

    def __init__(self) -> None:
        self._changes: dict[str, Tensor] = {}
        self._gradients: dict[str, Tensor] = {}

    @torch.no_grad()
    def watch(self, name: str, adapter: Watched) -> None:
        """See what flows back through an adapter in the step to come; its output stays as it is."""
        gradient = adapter.A[0].new_zeros(adapter.shape)
        # What says its change without a look at W0 gets any matrix of its shape.
        self._changes[name], self._gradients[name] = adapter.delta(gradient), gradient

        def through(x: Tensor, weight: Tensor, y: Tensor) -> Tensor:
            if y.requires_grad:
                y.register_hook(lambda flowing: _add_product(gradient, flowing, x.detach()))
            return y

        adapter.see(through)

    def taken(self, adapters: Mapping[str, Watched]) -> dict[str, Tensor]:
        """The step's sensitivities by module; nothing is watched any more."""
        found = {}
        for name, adapter in adapters.items():
            adapter.see(None)
            change, gradient = self._changes.pop(name), self._gradients.pop(name)
            if dist.is_available() and dist.is_initialized():
                dist.all_reduce(gradient)
            found[name] = (change * gradient).abs().sum() / change.numel() ** 0.5
        return found


def take_in(
    remembered: dict[str, Tensor], key: str, now: Tensor, betas: tuple[float, float]
) -> None:
    """Take a step's sensitivities into their running mean, and how far they are from it into another.

    Zhang et al. 2023, AdaLoRA, arXiv:2303.10512, equations 9 and 10.

    Args:
        remembered: Has both means under `<key>/sensitivity` and `<key>/uncertainty`; zeros at first.
        key: Of what the sensitivities are.
        now: The step's.
        betas: How much of each mean stays in a step.
    """
    mean, apart = (
        remembered.setdefault(f"{key}/{what}", torch.zeros_like(now)) for what in _SMOOTHED
    )
    mean.mul_(betas[0]).add_(now, alpha=1 - betas[0])
    apart.mul_(betas[1]).add_((now - mean).abs(), alpha=1 - betas[1])


def importance(remembered: Mapping[str, Tensor], key: str, like: Tensor) -> Tensor:
    """The product of both means, equation 11 there; zeros as `like` where nothing was taken in."""
    mean, apart = (remembered.get(f"{key}/{what}") for what in _SMOOTHED)
    return torch.zeros_like(like) if mean is None or apart is None else mean * apart


def _add_product(total: Tensor, flowing: Tensor, x: Tensor) -> None:
    """Add `flowing^T x` over all tokens."""
    with torch.autocast(x.device.type, enabled=False):
        total.addmm_(flowing.flatten(0, -2).to(total).T, x.flatten(0, -2).to(total))

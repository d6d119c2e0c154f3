"""ALLoRA in the backward pass: the gradient of each output row is scaled on its way into the adapter.

    forward: s B A x,    backward: G -> diag(c) G,    c_i = 1 / sqrt(|s (B A)_i| + 1 / eta^2)
    g_B = s diag(c) G A^T,    g_A = s B^T diag(c) G

Huang and Balestriero 2024, ALLoRA: Adaptive Learning Rate Mitigates LoRA Fatal Flaws, arXiv:2410.09692, section 4; no
code of the authors is to be found. The input's gradient through the adapter is scaled with the rest, as an operation
has it. While B is 0, c is eta. Adam divides gradients by their own size: of c it sees only how it changes from step to
step and from row to row of g_A. So this is for those who want the paper's gradients, and the update is scaled instead
unless `scale` is `backward` (`optimizers/allora.py`). c is computed anew in each forward, without a gradient.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from weft.config import Settings
from weft.lowrank.product import row_squares
from weft.methods.controllers.contract import Controller, Product, product


class ALLoRASettings(Settings):
    """Settings of ALLoRA."""

    eta: float = Field(default=1.0, gt=0)
    """Rows of the change with a norm over 1 / eta^2 learn more slowly."""
    scale: Literal["update", "backward"] = "update"
    """What c scales; only `backward` is this file's matter."""


class ALLoRA(Controller):
    """Scales what flows back into each adapter, for adapters that are a product."""

    settings_type: ClassVar[type[Settings]] = ALLoRASettings
    settings: ALLoRASettings

    def before_step(
        self,
        adapters: Mapping[str, nn.Module],
        optimizer: torch.optim.Optimizer,
        step: int,
        total: int,
        generator: torch.Generator,
    ) -> None:
        if self.settings.scale == "backward":
            for name, adapter in adapters.items():
                self._scale(product(name, adapter, self))

    def after_step(
        self,
        adapters: Mapping[str, nn.Module],
        optimizer: torch.optim.Optimizer,
        step: int,
        total: int,
    ) -> None:
        for name, adapter in adapters.items():
            product(name, adapter, self).see(None)

    def _scale(self, pair: Product) -> None:
        def through(x: Tensor, weight: Tensor, y: Tensor) -> Tensor:
            return _Scaled.apply(y, self.coefficients(pair).to(y.dtype))

        pair.see(through)

    @torch.no_grad()
    def coefficients(self, pair: Product) -> Tensor:
        """`c` of each output row, (out,)."""
        dtype = torch.promote_types(pair.A.dtype, torch.float32)
        with torch.autocast(pair.A.device.type, enabled=False):
            rows = row_squares(pair.A.to(dtype), pair.B.to(dtype)).sqrt()
        return (pair.scaling * rows + self.settings.eta**-2).rsqrt()


class _Scaled(torch.autograd.Function):
    """The same forward, the gradient times a number for each output."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(scale)
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (scale,) = ctx.saved_tensors
        return gradients[0] * scale, None

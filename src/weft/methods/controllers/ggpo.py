"""LoRA-GGPO: each step sees the weights with fresh noise, larger in rows of large weights and large gradients.

    W + e,    e_ij ~ N(0, t_i^2),    t_i^2 = (noise^2 / in) (|W_i|^2 + beta |G_i|^2),    W = W0 + s B A
    G = s (g_B A + B g_A) of the step before: what the factors' gradients say of the gradient of W

Chang, Guo, Chang and Wu 2025, LoRA-GGPO: Mitigating Double Descent in LoRA Fine-Tuning via Gradient-Guided Perturbation
Optimization, arXiv:2502.14538 version 1. The authors' code is not to be found; noise and beta are those of a
re-implementation (github.com/kohya-ss/sd-scripts, networks/lora_flux.py), which takes other norms: the sum of |W_i| and
|G_i|^2, over the root of the output's size, and for |W0_i| one sampled mean. Here the equation is the paper's; with
beta = 0 it is the noise of Flat-LoRA (arXiv:2409.14396) without its ramp. Before the first step G is 0, after it G is
that of clipped gradients.

The noise is a function of the input, added to what the map gives: neither W0 nor A and B are written to, so they cannot
drift, in any type. It is as large as the weight and drawn for every step, once for all pieces of it, where the weight
lies, so that another kind of device draws others. Cost: a matrix of the map's size and one more product with it, in
both passes, about twice the time of the frozen maps that are adapted. Where experts train side by side each sees its
own noise, which needs their rows one after another. With dropout, the noise acts on the dropped input.
"""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from weft.config import Settings
from weft.lowrank.product import Pair, row_squares
from weft.methods.controllers.contract import Perturbing, Product, Through


class GGPOSettings(Settings):
    """Settings of GGPO."""

    noise: float = Field(default=0.03, ge=0)
    """Size of the noise: the norm of a row of it by that of the row of the weight (sigma)."""
    beta: float = Field(default=0.01, ge=0)
    """What a gradient's squared norm counts beside a weight's."""


class GGPO(Perturbing):
    """Noise by row, for adapters that are a product.

    Remembers the squared norms of the rows of G, (out,), by module.
    """

    settings_type: ClassVar[type[Settings]] = GGPOSettings
    settings: GGPOSettings

    def perturbation(
        self,
        name: str,
        pair: Product,
        optimizer: torch.optim.Optimizer,
        generator: torch.Generator,
    ) -> Through | None:
        if not self.settings.noise:
            return None
        seed = int(torch.randint(2**62, (), generator=generator))
        drawn: list[Tensor] = []

        def through(x: Tensor, weight: Tensor, y: Tensor) -> Tensor:
            if not drawn:
                drawn.append(self._noise(name, pair, weight, seed))
            return y + (x.to(drawn[0].dtype) @ drawn[0].T).to(y.dtype)

        return through

    @torch.no_grad()
    def _noise(self, name: str, pair: Product, weight: Tensor, seed: int) -> Tensor:
        """e, (out, in), in the type of A."""
        generator = torch.Generator(weight.device).manual_seed(seed)
        noise = torch.empty_like(weight, dtype=pair.A.dtype).normal_(generator=generator)
        return noise.mul_(self.deviations(name, pair, weight)[:, None])

    @torch.no_grad()
    def deviations(self, name: str, pair: Product, weight: Tensor) -> Tensor:
        """t, (out,)."""
        with torch.autocast(weight.device.type, enabled=False):
            whole = weight.to(pair.A.dtype) + pair.delta(weight)
        squares = whole.square().sum(1)
        if name in self.remembered:
            squares += self.settings.beta * self.remembered[name].to(squares)
        return self.settings.noise * (squares / weight.shape[1]).sqrt()

    def observe(self, name: str, gradient: Pair) -> None:
        squares = row_squares(*gradient)
        if squares.isfinite().all():
            self.remembered[name] = squares

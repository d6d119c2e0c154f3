"""LoRA-MGPO: each step sees the weights a little further along where Adam's momentum goes.

    W + e,    e = -rho v / |v| min(1 / g, 10),    v = s (M_B A + B M_A),    |.| the root of the sum of all squares
    g <- beta g + (1 - beta) |s (g_B A + B g_A)|,    at first that norm itself

Chang, Guo, Chang and Wu 2025, LoRA-MGPO: Mitigating Double Descent in Low-Rank Adaptation via Momentum-Guided
Perturbation Optimization, arXiv:2502.14538 version 2; the bound of 10 and g's first value from the authors' code
(github.com/llm172/LoRA-MGPO, lora_mgpo/trainer.py), whose profiles are rho = 0.05, beta = 0.9 (understanding, the
default) and 0.01, 0.8 (generation, with a momentum of 0.8). M are AdamW's first moments. The sign looks ahead, against
the gradient, where sharpness-aware minimisation climbs. Before the first step there is no momentum and no e. Gradients
are those after clipping, theirs those before.

There e is added to W0 and subtracted again, computed anew, which lets W0 drift in half precision. Here it is a function
of the input, as v is a product of 2 r ranks: neither W0 nor A and B are written to, and no matrix of the map's size is
made. Cost: the adapter's own time about twice more, one backward pass as always. Where experts train side by side each
sees its own e, which needs their rows one after another. With dropout, e acts on the dropped input.
"""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from weft.config import Settings
from weft.lowrank.product import Pair, product_rule, row_squares
from weft.methods.controllers.contract import Perturbing, Product, Through

_MOST = 10.0
_EPS = 1e-12


class MGPOSettings(Settings):
    """Settings of MGPO."""

    rho: float = Field(default=0.05, ge=0)
    """Size of the perturbation of a map, times one over its mean gradient norm."""
    beta: float = Field(default=0.9, ge=0, lt=1)
    """How much of the mean gradient norm stays in a step."""


class MGPO(Perturbing):
    """A step ahead, for adapters that are a product. Remembers g by module."""

    settings_type: ClassVar[type[Settings]] = MGPOSettings
    settings: MGPOSettings

    def perturbation(
        self,
        name: str,
        pair: Product,
        optimizer: torch.optim.Optimizer,
        generator: torch.Generator,
    ) -> Through | None:
        ahead = self.ahead(name, pair, optimizer)
        if ahead is None:
            return None

        def through(x: Tensor, weight: Tensor, y: Tensor) -> Tensor:
            A, B = ahead
            return y + (x.to(A.dtype) @ A.T @ B.T).to(y.dtype)

        return through

    @torch.no_grad()
    def ahead(self, name: str, pair: Product, optimizer: torch.optim.Optimizer) -> Pair | None:
        """Factors of the perturbation e of one map; None where there is no momentum yet."""
        moments = [optimizer.state.get(value, {}).get("exp_avg") for value in (pair.A, pair.B)]
        if not self.settings.rho or moments[0] is None or moments[1] is None:
            return None
        A, B = product_rule(pair.scaling, pair.A, pair.B, moments[0], moments[1])
        size = row_squares(A, B).sum().sqrt()
        if not size > _EPS:
            return None
        one = torch.ones_like(size)
        scale = one if name not in self.remembered else 1 / (self.remembered[name].to(size) + _EPS)
        return A, -self.settings.rho / size * scale.clamp(max=_MOST) * B

    def observe(self, name: str, gradient: Pair) -> None:
        size, beta = row_squares(*gradient).sum().sqrt(), self.settings.beta
        if size.isfinite():
            before = self.remembered.get(name)
            self.remembered[name] = size if before is None else beta * before + (1 - beta) * size

"""LoRA-FA: the step of B that, through the fixed A, comes nearest to a step of the whole weight.

    g^_B = g_B (A A^T + d I)^-1 / s^2    so that    s g^_B A = G A^T (A A^T)^-1 A = G P_A    at d = 0

Zhang et al. 2023, arXiv:2308.03303. G is the loss's gradient by the weight, of which B sees g_B = s G A^T, and P_A
projects on the rows of A. Of all directions of B this one minimises ||s g^_B A - G||_F. The closed form and d = 1e-8
are those of PEFT 0.21.2 (peft/optimizers/lorafa.py); the paper's first form, which only freezes A, is `projected:
false`. AdamW takes the result for B's gradient, after clipping, and A is frozen in the adapter, not here.

What PEFT does and we do not: it multiplies under bfloat16 autocast, which keeps three of seven digits (here single
precision at least); its Adam has epsilon 1e-6, added before the bias of the second moment is corrected (here the
trainer's 1e-8, added after); it decays B after the step instead of before; and it pairs each A with whichever LoRA
parameter is named next. It also keeps its moments by name, so that its state does not load as a torch optimizer's.
"""

from collections.abc import Mapping
from typing import ClassVar, Protocol, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from weft.config import Settings
from weft.methods.optimizers import contract


class LoRAFASettings(Settings):
    """Settings of LoRA-FA's gradient rule."""

    projected: bool = True
    """Give B the step nearest to the whole weight's; false leaves B its own gradient."""
    damping: float = Field(default=1e-8, ge=0)
    """Added to the diagonal of A A^T before it is inverted."""


class Pair(Protocol):
    """What the rule asks of an adapter: `delta = scaling * B @ A`."""

    A: Tensor
    B: nn.Parameter
    scaling: float


class LoRAFAOptimizer(contract.Optimizer):
    """Projects each gradient of B."""

    settings_type: ClassVar[type[Settings]] = LoRAFASettings
    settings: LoRAFASettings

    def transform(self, pairs: Mapping[str, nn.Module], step: int) -> None:
        if not self.settings.projected:
            return
        for adapter in pairs.values():
            pair = cast("Pair", adapter)
            if pair.B.grad is not None:
                pair.B.grad.copy_(self.project(pair.A, pair.B.grad, pair.scaling))

    def project(self, A: Tensor, gradient: Tensor, scaling: float) -> Tensor:
        """B's gradient (out, rank) turned into its projected form, in single precision at least."""
        dtype = torch.promote_types(A.dtype, torch.float32)
        A = A.detach().to(dtype)
        gram = A @ A.T
        gram.diagonal().add_(self.settings.damping)
        # The Gram matrix is its own transpose, so solving from the left serves the right.
        return torch.linalg.solve(gram, gradient.to(dtype).T).T / scaling**2

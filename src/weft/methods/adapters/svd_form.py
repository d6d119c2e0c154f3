"""The form of a singular value decomposition: triplets of two vectors and a value, to be pruned one by one.

    dW = s B diag(E) A,    s = alpha / (rank + 1e-5),    A, B ~ N(0, 0.02^2),    E = 0

Zhang et al. 2023, AdaLoRA, arXiv:2303.10512, section 3.1 (there P, Lambda, Q). The 1e-5 beside the rank and the
starting values are those of the authors' code, which PEFT 0.21.2 repeats (peft/tuners/adalora/layer.py). `rank` is the
rank before pruning and the scale keeps it: a pruned triplet does not make the others stronger. What keeps A and B near
orthogonal, and what prunes, is training and not part of this form. E is a column, as in PEFT, so that decay reaches it.

Pruning sets a value to zero; it has a gradient still, so wherever gradients are recorded `factors` has all triplets.
Without them, as on export and in serving, it has those whose value is not zero; a map without any has one rank of
zeros, because PEFT's format knows no rank of 0.

PEFT 0.21.2 does not turn an AdaLoRA into a LoRA. It keeps the rank that it divides by as a parameter, outside its saved
state, and on a base that is not in single precision that parameter is trained with the others; here it is a number.
"""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from weft.lowrank.start import normal
from weft.methods.adapters import contract

INIT_STD = 0.02
"""Standard deviation of A and B at the start."""
BESIDE_RANK = 1e-5
"""What the authors add to the rank before they divide by it."""


class Spec(contract.Spec):
    """Settings of the SVD form."""

    alpha: float = Field(default=16.0, gt=0)
    """Strength of the change: the product is scaled by alpha / rank, pruned triplets counted."""


class SVDForm(contract.Factored):
    """The change of the weight is a sum of triplets that can be judged and dropped one by one."""

    spec_type: ClassVar[type[contract.Spec]] = Spec
    spec: Spec

    def start(self, weight: Tensor, generator: torch.Generator) -> None:
        out_features, in_features = weight.shape
        self.scaling = self.spec.alpha / (self.rank + BESIDE_RANK)
        self.A = nn.Parameter(normal((self.rank, in_features), INIT_STD, generator, weight))
        self.E = nn.Parameter(torch.zeros(self.rank, 1, device=weight.device))
        self.B = nn.Parameter(normal((out_features, self.rank), INIT_STD, generator, weight))

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        return (x.to(self.A.dtype) @ self.A.T * (self.scaling * self.E[:, 0])) @ self.B.T

    def factors(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return contract.weighted_factors(self.A, self.E[:, 0], self.B, self.scaling)

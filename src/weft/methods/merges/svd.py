"""Truncated SVD: the nearest change of a rank to the weighted sum.

    U S V^T = sum_i w_i B_i A_i,    B = U_k sqrt(S_k),    A = sqrt(S_k) V_k^T

PEFT's `combination_type="svd"` (add_weighted_adapter), exact where the rank reaches that of the sum; no other change of
the rank is nearer to the sum (Eckart and Young 1936, doi:10.1007/BF02288367). PEFT decomposes the dense change of every
map; here both factors are brought to orthonormal columns and a small matrix between them is decomposed, which gives the
same. The rank is by default the largest among the experts, as there.

With `clamp`, entries of U_k S_k and V_k^T are cut to the quantile `clamp` of all of them together and to its negative,
against outliers: PEFT's `svd_clamp`, with all of S on B as there, since it depends on how S is shared. PEFT takes the
quantile of the entries with the signs that singular vectors happen to have; here it is that of the entries and their
negatives, so that the same experts give the same result everywhere.
"""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field

from weft.config import Settings
from weft.lowrank.product import Pair, split, stacked, thin_svd
from weft.methods.merges.contract import Merge


class SvdSettings(Settings):
    """Settings of the truncated SVD."""

    clamp: float | None = Field(default=None, gt=0.5, le=1)
    """Quantile of the factors' entries, signs aside, that none may exceed; None cuts nothing."""


class Svd(Merge):
    """The nearest change of a rank."""

    settings_type: ClassVar[type[Settings]] = SvdSettings
    settings: SvdSettings
    keeps: ClassVar[str] = "The strongest directions of the weighted sum, as many as the rank."
    loses: ClassVar[str] = "The weaker ones: what one expert does alone and little goes first."
    linear: ClassVar[bool] = True

    def pair(
        self,
        pairs: Sequence[Pair],
        weights: Sequence[float],
        rank: int,
        generator: torch.Generator,
    ) -> Pair:
        U, S, Vh = thin_svd(*stacked(pairs, weights))
        if self.settings.clamp is None:
            return split(U, S, Vh, rank)
        B, A = U[:, :rank] * S[:rank], Vh[:rank]
        entries = torch.cat([B.flatten(), A.flatten()])
        most = float(np.quantile(torch.cat([entries, -entries]).cpu().numpy(), self.settings.clamp))
        return A.clamp(-most, most), B.clamp(-most, most)

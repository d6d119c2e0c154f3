"""KnOTS: changes in one basis that they share, where TIES then elects.

    [dW_1, ..., dW_n] = U [S V_1^T, ..., S V_n^T],    dW = U TIES_i(S V_i^T)

Stoica et al. 2024, Model merging with SVD to tie the Knots, arXiv:2410.19735: updates of low-rank experts are poorly
aligned entry by entry; in the basis U of all their outputs they are comparable. S V_i^T is U^T dW_i, so only U is
needed, the left singular vectors of the changes side by side, found here from the factors without a dense matrix, and
without the directions whose singular value is rounding. Trimming keeps the largest fifth of each expert's entries in
that basis (the authors' `topK`, github.com/gstoica27/KnOTS, configs/vitB_r16_knots_ties.py), of each map for itself
where they trim all maps together; their scale of 0.6 is the weights' to say. What is shared are outputs, their default
(`concat_across_output`).
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field

from weft.config import Settings
from weft.lowrank.product import Pair, true_rank
from weft.lowrank.start import svd
from weft.methods.changes.signs import ElectionSettings, elected
from weft.methods.changes.sparse import largest
from weft.methods.merges.contract import Merge


class KnotsSettings(ElectionSettings):
    """Settings of KnOTS."""

    density: float = Field(default=0.2, gt=0, le=1)
    """Share of the entries of every expert in the shared basis that stay, the largest."""


class Knots(Merge):
    """TIES in the basis of all outputs."""

    settings_type: ClassVar[type[Settings]] = KnotsSettings
    settings: KnotsSettings
    keeps: ClassVar[str] = "What is large and agreed on, seen in the basis of all outputs."
    loses: ClassVar[str] = "Small parts in that basis, the minority's side of conflicts, and scale."
    alone: ClassVar[str] = "Its smallest entries in the shared basis are left out."
    linear: ClassVar[bool] = True

    def pair(
        self,
        pairs: Sequence[Pair],
        weights: Sequence[float],
        rank: int,
        generator: torch.Generator,
    ) -> Pair:
        # The R of A^T = Q R stands for A: the changes side by side have the same outputs with it.
        outputs = torch.cat([B @ torch.linalg.qr(A.T).R.T for A, B in pairs], dim=1)
        U, S, _ = svd(outputs)
        U = U[:, : max(1, true_rank(S, (outputs.shape[0], outputs.shape[1])))]
        density = self.settings.density
        parts = (
            (largest((U.T @ B) @ A, density), w) for (A, B), w in zip(pairs, weights, strict=True)
        )
        return elected(parts, self.settings), U

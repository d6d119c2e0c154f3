"""Nested ranks: one LoRA whose first b ranks are themselves a LoRA, for every b up to its rank.

    dW_b = (alpha / b) B[:, :b] A[:b],    1 <= b <= rank

Valipour et al. 2022, DyLoRA, arXiv:2210.07558, which draws b anew for each step, one b for all maps. The scale is that
of the authors' code (github.com/huawei-noah/Efficient-NLP, DyLoRA/loralib), where alpha / rank meets sqrt(rank / b) on
each factor. In its `frozen` mode, the default, the ranks before b take part but only rank b gets a gradient; in `full`
mode all b do. Ranks outside get a gradient of exactly zero, which does not stop an optimizer's momentum and decay from
moving them. Others who call their method DyLoRA scale by sqrt(rank / b) once, use all ranks, or draw b for each map.

With `start: down` A is zero and B is drawn, U(±1/sqrt(rank)): the mirrored start of Omni-AVSR (Cappellazzo et al. 2025,
arXiv:2511.07253; from its code, github.com/umbertocappellazzo/Omni-AVSR). Its first gradient is A's. There `rank` is a
factor that the hidden size is divided by, and the scale is alpha over that factor; here rank and alpha are LoRA's.

The state is A and B with all ranks, whichever are in use: PEFT opens it as a LoRA of the full rank, and `truncate`
leaves a plain LoRA of any smaller one.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from weft.lowrank.start import kaiming, zero_product
from weft.methods.adapters import contract


class Spec(contract.Spec):
    """Settings of nested ranks."""

    alpha: float = Field(default=16.0, gt=0)
    """Strength of the change: the product of b ranks is scaled by alpha / b."""
    mode: Literal["frozen", "full"] = "frozen"
    """What learns at b ranks: `frozen` is the last of them alone, `full` all b."""
    start: Literal["up", "down"] = "up"
    """Which factor is zero at the start: `up` is B, as in LoRA, `down` is A; the other is drawn."""


class Nested(contract.Factored):
    """The change of the weight is a product of which any leading part can stand alone.

    Attributes:
        drawn: How many ranks take part while training; None means those in use.
    """

    spec_type: ClassVar[type[contract.Spec]] = Spec
    nests: ClassVar[bool] = True
    spec: Spec

    def start(self, weight: Tensor, generator: torch.Generator) -> None:
        if self.spec.start == "up":
            A, B = zero_product(weight, self.rank, generator)
        else:
            A = torch.zeros(self.rank, weight.shape[1], device=weight.device)
            B = kaiming((weight.shape[0], self.rank), generator, weight)
        self.A, self.B = nn.Parameter(A), nn.Parameter(B)
        self._active = self.rank
        self.drawn: int | None = None

    @property
    def active(self) -> int:
        """How many ranks are in use: all, until it is set."""
        return self._active

    @active.setter
    def active(self, ranks: int) -> None:
        self._active = self._checked(ranks)

    def draw(self, ranks: int | None) -> None:
        """Train on the first `ranks` until the next draw; what is evaluated and saved stays as it is."""
        self.drawn = None if ranks is None else self._checked(ranks)

    def factors(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        ranks = self.drawn if self.training and self.drawn else self.active
        A, B = self.A[:ranks], self.B[:, :ranks]
        if self.training and self.spec.mode == "frozen":
            A = torch.cat([A[:-1].detach(), A[-1:]])
            B = torch.cat([B[:, :-1].detach(), B[:, -1:]], dim=1)
        return A, self.spec.alpha / ranks * B

    def truncate(self, rank: int) -> None:
        """Forget all but the first `rank`, for good."""
        self._checked(rank)
        self.A = nn.Parameter(self.A.detach()[:rank].clone())
        self.B = nn.Parameter(self.B.detach()[:, :rank].clone())
        self.spec = self.spec.model_copy(update={"rank": rank})
        self.rank, self._active, self.drawn = rank, rank, None

    def peft_alpha(self) -> float | None:
        """Alpha, the same at any rank.

        Raises:
            ValueError: If some ranks are out of use: the state has them all, so it is another change.
        """
        if self.active < self.rank:
            raise ValueError(
                f"{self.active} of {self.rank} ranks are in use, but all are stored: set `active` to "
                f"{self.rank} to keep them, or truncate({self.active}) to lose the rest"
            )
        return self.spec.alpha

    def _checked(self, ranks: int) -> int:
        if not 1 <= ranks <= self.rank:
            raise ValueError(f"expected 1 to {self.rank} ranks of a nested adapter, got {ranks}")
        return ranks

"""NOLA: both factors of LoRA are learned mixtures of fixed random matrices.

    dW = s B A,    A = A0 + sum_i a_i E_i,    B = sum_j b_j F_j,    s = alpha / rank
    E, F ~ U(-1, 1) / sqrt(num_bases),    A0 ~ U(±1/sqrt(in)),    a = b = 0

Koohpayegani et al. 2024, arXiv:2310.02556, section 3. The laws, the zero start and A0 are the authors' code
(github.com/UCDvision/NOLA, gpt/src/model_nola.py), as are the defaults (its GPT-2 run: rank 8, alpha 8, 512 bases).
Only a and b are trained: 2 num_bases numbers for a map of any shape and rank.

The bases are no state. An integer `seed` is drawn once for each map and saved; A0, E and F come back from it, in that
order, out of a private CPU generator, so the same seed gives the same bases on every machine, whatever the device. The
authors reseed torch's global generator in every forward pass, which disturbs dropout and data order, and draw on the
device of the weights, so that their bases differ between CPU and GPU.

Time and memory: the authors draw the bases anew in every forward and every backward pass, which costs several times
the rest of a LoRA step. Here they are drawn once and stay in memory for as long as the adapter is trained:
num_bases * rank * (in + out) numbers a map, 12.6 MB for 384 x 384 at the defaults, 151 MB for query and value of six
such layers. Where no gradients are recorded and nothing is kept they are drawn, mixed and dropped, so an expert that
is loaded to serve costs what LoRA does. Loading compares the factors with the stored ones, so a torch whose generator
draws otherwise is found out.
"""

import math
from collections.abc import Callable
from typing import ClassVar, NamedTuple, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from weft.lowrank.start import kaiming, uniform
from weft.methods.adapters import contract


class Spec(contract.Spec):
    """Settings of NOLA."""

    alpha: float = Field(default=8.0, gt=0)
    """Strength of the change: the product is scaled by alpha / rank."""
    num_bases: int = Field(default=512, ge=1)
    """Random matrices that are mixed into A, and as many into B: the number of trained coefficients of each."""


class Bases(NamedTuple):
    """What a seed determines."""

    A0: Tensor
    """(rank, in), where A starts."""
    E: Tensor
    """(num_bases, rank, in), mixed into A."""
    F: Tensor
    """(num_bases, out, rank), mixed into B."""


class NOLA(contract.Factored):
    """The factors of the change are mixtures of matrices that a seed determines."""

    spec_type: ClassVar[type[contract.Spec]] = Spec
    spec: Spec
    seed: Tensor

    def start(self, weight: Tensor, generator: torch.Generator) -> None:
        self.out_features, self.in_features = weight.shape
        self.scaling = self.spec.alpha / self.rank
        seed = torch.randint(2**63 - 1, (), generator=generator, device="cpu")
        self.register_buffer("seed", seed)
        self.a = nn.Parameter(torch.zeros(self.spec.num_bases, device=weight.device))
        self.b = nn.Parameter(torch.zeros(self.spec.num_bases, device=weight.device))
        self._kept: tuple[tuple[int, torch.dtype, torch.device], Bases] | None = None

    def bases(self) -> Bases:
        """A0, E and F of this map's seed, in the type and on the device of the coefficients."""
        key = (int(self.seed), self.a.dtype, self.a.device)
        # Looked at once: another thread may be about to forget them.
        kept = self._kept
        if kept is not None and kept[0] == key:
            return kept[1]
        found = self._drawn(key[0])
        self._kept = (key, found) if torch.is_grad_enabled() else None
        return found

    def _drawn(self, seed: int) -> Bases:
        generator = torch.Generator().manual_seed(seed)
        count, rank = self.spec.num_bases, self.rank
        bound = 1 / math.sqrt(count)
        A0 = kaiming((rank, self.in_features), generator, self.a)
        E = uniform((count, rank, self.in_features), bound, generator, self.a)
        F = uniform((count, self.out_features, rank), bound, generator, self.a)
        return Bases(A0.to(self.a.dtype), E.to(self.a.dtype), F.to(self.a.dtype))

    def factors(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        A0, E, F = self.bases()
        # Autocast would copy every basis to half precision in every step.
        with torch.autocast(self.a.device.type, enabled=False):
            A = A0 + torch.tensordot(self.a, E, dims=1)
            B = torch.tensordot(self.b, F, dims=1)
        return A, self.scaling * B

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # The seed stays on the CPU: it is read in every step, and an accelerator would have to be waited for.
        seed = self.seed
        super()._apply(fn, recurse)
        self.seed = seed
        return self

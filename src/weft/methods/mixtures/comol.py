"""CoMoL: experts that are small cores between one A and one B, mixed for each token before they meet it.

    z = A drop(x),    G = softmax(W_g z),    M = sum_e G_e M_e
    y = W0 x + b + (alpha / r) B drop(zᵀ drop(M))ᵀ

    from experts    A = Vᵀ, B = U, M_e = Vᵀ (s_e B_e A_e)ᵀ U, scale 1; an expert without an adapter here has M_e = 0
    joint           U and V span every B_e and every A_eᵀ: each expert exactly, cores of up to the sum of their ranks
    reference       U and V span one expert's: that one exactly, of the others what lies in its spans

Cao et al. 2026, arXiv:2603.00573. Laws and start values are those of the authors' code (github.com/DCDmllm/CoMoL,
`src/mocorelora/layer.py`): A as torch starts linear maps, M_e uniform in ±1/sqrt(r), B zero, W_g as torch starts linear
maps, no bias; cores meet z as a row from the right, so that as columns the change is B Mᵀ A; one rate for all three
dropouts. rank 16, alpha = rank, 8 experts and dropout 0.1 are their experiments', which adapt q, k, v, o and down; the
configuration's own defaults are 4 experts and the router that reads x, an ablation of the paper: `router: input`. That
one reads the whole input, the router on the core reads z, the dropped input's projection, as theirs do.

The paper starts from nothing. `reference` is what others' code makes of finished LoRAs (singular vectors of one
adapter's factors); `joint` is the lossless form, the bases of Panariello et al. 2025, arXiv:2509.17786. Both keep whole
orthonormal bases, so that a core may learn in a direction that no expert used. Cores need not be square then.

Differences. Theirs writes an r x r matrix for every expert and token before summing; here z meets all cores first, and
r numbers an expert are gated. Dropping entries of M needs M: with dropout, training holds an r x r matrix a token and
map (256 numbers at rank 16, 4,096 at a joint core of 64), which `dropout: 0` spares. Not mergeable.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from weft.base.dropout import dropout
from weft.lowrank.start import svd, uniform, wide, zero_product
from weft.methods.gates.call import Call
from weft.methods.gates.mid import core
from weft.methods.gates.networks import Routers
from weft.methods.gates.settings import TrainedSpec
from weft.methods.gates.stack import Part, Stack
from weft.methods.mixtures import contract


class Spec(TrainedSpec):
    """Settings of CoMoL."""

    num_experts: int = Field(default=8, ge=1)
    """New cores at each map; experts of runs are as many as there are."""
    rank: int = Field(default=16, ge=1)
    """Rank of new A and B; of experts of runs the bases have their own."""
    alpha: float = Field(default=16.0, gt=0)
    """Strength of new experts: B's output is scaled by alpha / rank."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Fraction dropped of a map's input, of each token's core, and of their product, while training."""
    router: Literal["core", "input"] = "core"
    """What the gate reads: the input's projection by A, or the input."""
    warm: Literal["joint", "reference"] = "joint"
    """start experts: A and B span all experts, or one."""
    reference: int = Field(default=0, ge=0)
    """warm reference: the number of that one, from 0 in the order of the runs."""


class CoMoL(contract.Mixture):
    """A soft mixture of cores, by a gate in the space of the cores."""

    settings_type = Spec
    spec: Spec

    def build(self, generator: torch.Generator) -> None:
        side = 0 if self.spec.router == "core" else 1
        shapes = {
            module: (self.gates_wide(module), self.stack(module).A.shape[side])
            for module in self.modules_woven
        }
        self.routers = Routers(shapes, generator, self.like)

    @classmethod
    def from_nothing(
        cls,
        module: str,
        weight: Tensor,
        frame: contract.Frame,
        spec: TrainedSpec,
        generator: torch.Generator,
    ) -> Stack:
        rank = spec.rank
        return Stack(
            *zero_product(weight, rank, generator),
            [rank],
            spec.alpha / rank,
            uniform((spec.num_experts, rank, rank), rank**-0.5, generator, weight),
            trained=True,
        )

    @classmethod
    def from_experts(
        cls, module: str, parts: Sequence[Part | None], frame: contract.Frame, spec: contract.Spec
    ) -> Stack:
        assert isinstance(spec, Spec)
        spanned = _spanned(module, parts, spec)
        U = svd(torch.cat([part.B for part in spanned], dim=1))[0]
        Vh = svd(torch.cat([part.A for part in spanned]))[2]
        cores = [
            U.new_zeros(Vh.shape[0], U.shape[1])
            if part is None
            else part.scale * (Vh @ wide(part.A).T) @ (wide(part.B).T @ U)
            for part in parts
        ]
        return Stack(Vh, U, [U.shape[1]], cores=torch.stack(cores), trained=True)

    def cores(self, module: str) -> Tensor:
        """The experts of one map, (experts, ranks in, ranks out)."""
        found = self.stack(module).cores
        assert found is not None
        return found

    def gates_wide(self, module: str) -> int:
        return len(self.cores(module))

    def logits(self, module: str, x: Tensor, z: Tensor, call: Call) -> Tensor:
        return self.routers(module, z if self.spec.router == "core" else x)

    def mid(self, module: str, z: Tensor, gates: Tensor) -> Tensor:
        cores, rate = self.cores(module), self.spec.dropout
        if not (self.training and rate):
            return core(z, gates, cores)
        fused = torch.einsum("...e,eij->...ij", gates.to(z.dtype), cores.to(z.dtype))
        return dropout(torch.einsum("...i,...ij->...j", z, dropout(fused, rate)), rate)


def _spanned(module: str, parts: Sequence[Part | None], spec: Spec) -> list[Part]:
    """The experts whose factors the bases are to span."""
    if spec.warm == "joint":
        found = [part for part in parts if part is not None]
        if not found:
            raise ValueError(f"no expert has an adapter on {module}")
        return found
    one = parts[spec.reference] if spec.reference < len(parts) else None
    if one is None:
        raise ValueError(
            f"reference {spec.reference}: of the {len(parts)} experts none has this number and an adapter "
            f"on {module}; choose another reference, or warm: joint"
        )
    return [one]

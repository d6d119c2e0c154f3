"""HydraLoRA: one A for all experts, a B of each one's own, and a gate between them.

    y = W0 x + b + s sum_e softmax(W_g x)_e B_e A drop(x),    s = alpha / rank

Tian et al. 2024, HydraLoRA: An Asymmetric LoRA Architecture for Efficient Fine-Tuning, arXiv:2404.19245, section 3.
Read in the authors' code (github.com/Clin0212/HydraLoRA, `peft/tuners/lora.py`): the gate has no bias and reads the
undropped input of its own map, its softmax is in single precision; A and W_g start U(±1/sqrt(in)), B zero, so that
nothing changes at the start. There is no auxiliary loss. New at each map: `rank in + E rank out + E in` numbers.

The authors' script has E 4, rank 4, alpha 32, dropout 0.05, the feed-forward maps and a rate of 2e-4 for a model of
seven billion; E is the user's, or the number of clusters of the data by k-means, which is no part of this. Ours are
rank 8, alpha 16, query and value.

From experts, which is ours: A is all their A, one under the other, R ranks, and every B_e has R columns, its own ones
where its own A is and zeros elsewhere. One-hot gates then give each expert exactly; training may fill the zeros, so
that an expert comes to read what another one's A finds. B is E times as large as the experts' own, as the method
wants one A. An expert without an adapter on a map adds nothing there, and its gate goes to nobody.
"""

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor, nn

from weft.lowrank.start import kaiming
from weft.methods.gates.mid import tile
from weft.methods.gates.settings import TrainedSpec
from weft.methods.gates.stack import Part, Stack
from weft.methods.mixtures import contract


class Spec(TrainedSpec):
    """Settings of HydraLoRA."""

    dropout: float = Field(default=0.05, ge=0, lt=1)
    """Fraction of a map's input dropped before the experts see it, while training."""


class HydraLoRA(contract.Routed):
    """What A makes of the input goes to every expert's B, by its gate."""

    settings_type = Spec

    @classmethod
    def from_experts(
        cls, module: str, parts: Sequence[Part | None], frame: contract.Frame, spec: contract.Spec
    ) -> Stack:
        own = [part for part in parts if part is not None]
        if not own:
            raise ValueError("no expert has an adapter on this map")
        A = torch.cat([part.A for part in own])
        total, before = len(A), 0
        columns, scales = [], []
        for part in own:
            after = total - before - len(part.A)
            columns.append(nn.functional.pad(part.B, (before, after)))
            scales.append(part.B.new_full((total,), part.scale))
            before += len(part.A)
        ranks = [0 if part is None else total for part in parts]
        return Stack(A, torch.cat(columns, dim=1), ranks, torch.cat(scales), trained=True)

    @classmethod
    def from_nothing(
        cls,
        module: str,
        weight: Tensor,
        frame: contract.Frame,
        spec: TrainedSpec,
        generator: torch.Generator,
    ) -> Stack:
        out, inner = weight.shape
        return Stack(
            kaiming((spec.rank, inner), generator, weight),
            torch.zeros(out, spec.num_experts * spec.rank, device=weight.device),
            [spec.rank] * spec.num_experts,
            spec.alpha / spec.rank,
            trained=True,
        )

    def mid(self, module: str, z: Tensor, gates: Tensor) -> Tensor:
        ranks = self.stack(module).ranks
        present = [at for at, rank in enumerate(ranks) if rank]
        return tile(z, gates if len(present) == len(ranks) else gates[..., present])

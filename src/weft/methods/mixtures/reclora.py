"""RecLoRA: experts whose weights are mixed, row by row, by what a frozen recommender knows of whom the row is for.

    g = softmax(MLP(h) / temperature),    h the row's `state`,    MLP = LayerNorm, Linear, ReLU, dropout, Linear
    y = W0 x + b + (alpha / r) (sum_n g_n B_n) (sum_n g_n A_n) drop(x)

Zhu et al. 2024, Lifelong Personalized Low-Rank Adaptation of Large Language Models for Recommendation,
arXiv:2408.03533; start values and sizes (60 inside, dropout 0.1, 8 experts of rank 8, alpha 16) are those of the
authors' code (github.com/Gebro13/RecLoRA). Each map has a gate of its own. As all tokens of a sequence have the same
gates, A and B are mixed once for each sequence, and a token costs what it costs with one LoRA.

The product of two mixtures has the terms g_n g_m B_n A_m, so an expert's own product counts g_n^2, not g_n; `root`
mixes by the square roots instead, which is ours. State comes with the row as numbers, so no gradient reaches what made
it. `state_size: 0` reads none: a map's gates are one learnt mixture for everybody, the baseline of the personal one.

The routing over embeddings of the experts' weights and the hard routing of that code are not here: the one is an
ablation, the other indexes by the complement of an integer there, so that what it does is not what the paper says.
"""

import math

import torch
from pydantic import Field
from torch import Tensor, nn

from weft.base.dropout import dropout
from weft.lowrank.route import current_rows
from weft.lowrank.start import uniform
from weft.methods.gates import mid
from weft.methods.gates.call import Call
from weft.methods.gates.gate import Gate, GateSpec, gate
from weft.methods.gates.lookup import AtOnce
from weft.methods.gates.settings import TrainedSpec, check_k
from weft.methods.mixtures import contract

EPS = 1e-5
"""Added to the variance of a state, as torch's LayerNorm does."""


class Spec(TrainedSpec):
    """Settings of RecLoRA."""

    num_experts: int = Field(default=8, ge=1)
    """New experts at each map; experts of runs are as many as there are."""
    state_size: int = Field(default=0, ge=0)
    """How many numbers each row's `state` has; 0 reads none, so that all rows have the same gates."""
    width: int = Field(default=60, ge=1)
    """Size inside the gates' networks."""
    head_dropout: float = Field(default=0.1, ge=0, lt=1)
    """Dropout inside them, while training."""
    temperature: float = Field(default=1.0, gt=0)
    """What logits are divided by in the softmax."""
    top_k: int | None = Field(default=None, ge=1)
    """Experts that are kept, their gates summing to 1; None keeps all."""
    root: bool = False
    """Mix A and B by the roots of the gates, so that each expert's own product counts its gate."""

    @property
    def states(self) -> int:
        return self.state_size


class RecLoRA(contract.Mixture):
    """Mixed weights, by a gate that reads the row's state."""

    settings_type = Spec
    spec: Spec

    def build(self, generator: torch.Generator) -> None:
        check_k(self.spec.top_k, len(self.experts))
        size, width, maps = self.spec.state_size, self.spec.width, len(self.modules_woven)
        outer, inner = 1 / math.sqrt(max(size, 1)), 1 / math.sqrt(width)
        self.scale = nn.Parameter(torch.ones(maps, size, device=self.like.device))
        self.shift = nn.Parameter(torch.zeros(maps, size, device=self.like.device))

        def drawn(bound: float, *shape: int) -> nn.Parameter:
            return nn.Parameter(uniform((maps, *shape), bound, generator, self.like))

        self.first, self.first_bias = drawn(outer, size, width), drawn(outer, width)
        self.last = drawn(inner, width, len(self.experts))
        self.last_bias = drawn(inner, len(self.experts))

    @property
    def gate_spec(self) -> GateSpec:
        return GateSpec.kept(self.spec.top_k, self.spec.temperature)

    def begin(self, call: Call) -> None:
        assert call.state is not None
        said = self.ask(call.state.detach()).unsqueeze(1)
        call.once["gates"] = AtOnce(said, gate(said, self.gating))

    def ask(self, state: Tensor) -> Tensor:
        """The logits of all maps, (sequences, maps, experts), for states (sequences, numbers)."""
        state = state.to(self.first.dtype)
        if state.shape[-1]:
            state = nn.functional.layer_norm(state, state.shape[-1:], eps=EPS)
        # One product for all maps: (maps, sequences, numbers) against (maps, numbers, width).
        own = state * self.scale.unsqueeze(1) + self.shift.unsqueeze(1)
        inside = (own @ self.first + self.first_bias.unsqueeze(1)).relu()
        inside = dropout(inside, self.spec.head_dropout) if self.training else inside
        return (inside @ self.last + self.last_bias.unsqueeze(1)).transpose(0, 1)

    def logits(self, module: str, x: Tensor, z: Tensor, call: Call) -> Tensor:
        said: AtOnce = call.once["gates"]
        return _along(said.logits_of(self.place(module)), x)

    def gate(self, module: str, logits: Tensor, x: Tensor, call: Call) -> Gate:
        said: AtOnce = call.once["gates"]
        return Gate(*(_along(own, x) for own in said.gate_of(self.place(module))))

    def shares(self, gates: Tensor) -> Tensor:
        """What each factor is multiplied by."""
        if not self.spec.root:
            return gates
        # The root of 0 has no slope: who is left out stays at 0, without a gradient that is not a number.
        speaks = gates > 0
        return torch.where(speaks, gates, 1.0).sqrt() * speaks

    def mid(self, module: str, z: Tensor, gates: Tensor) -> Tensor:
        return mid.blend(z, self.shares(gates), self.stack(module).ranks)

    def weave(self, module: str, x: Tensor, call: Call) -> Tensor:
        stack = self.stack(module)
        count, rank = len(stack.ranks), stack.ranks[0]
        if stack.ranks != (rank,) * count:
            return super().weave(module, x, call)
        # Factors are mixed once for a sequence, so that its tokens meet those of one LoRA.
        if current_rows() is None:
            logits = self.logits(module, x, x, call)
            call.trace.record(module, logits, self.gate(module, logits, x, call))
        A, B = stack.factors()
        found: Gate = call.once["gates"].gate_of(self.place(module))
        shares = self.shares(found.gates.squeeze(1)).to(A.dtype)
        dropped = dropout(x, self.spec.dropout) if self.training and self.spec.dropout else x
        wide = dropped.to(A.dtype)
        mixed_A = (shares @ A.view(count, -1)).view(len(shares), rank, -1)
        mixed_B = torch.einsum("sn,onr->sro", shares, B.view(-1, count, rank))
        flat = wide.unsqueeze(1) if wide.dim() == 2 else wide
        y = flat @ mixed_A.transpose(1, 2) @ mixed_B
        return y.squeeze(1) if wide.dim() == 2 else y


def _along(gates: Tensor, x: Tensor) -> Tensor:
    """What is said of a sequence, (sequences, 1, experts), for all its tokens, or (sequences, experts) without any."""
    return gates.squeeze(1) if x.dim() == 2 else gates.expand(-1, x.shape[1], -1)

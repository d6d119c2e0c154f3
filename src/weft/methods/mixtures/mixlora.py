"""MixLoRA: whole feed-forward blocks as experts, which share the frozen weights and differ by low-rank changes.

    p = softmax(R x),    I = the 2 largest of p,    w_I = p_I / sum of p_I    (R once for each block, N(0, 0.02))
    F_e(x) = (W2 + d2_e) [act((W1 + d1_e) x) * (W3 + d3_e) x],    y = sum_{e in I} w_e F_e(x)
    loss = task loss + 1e-3 E sum_e f_e p̄_e + z mean (logsumexp R x)^2    (f_e: share of tokens that select e)
    dynamic: I the most probable until they hold 0.8, w = p, so that with all changes 0 y is not the base's
    switch: I the largest, w = p, R from N(0, 1), reads x times 1 ± 0.01 while training; the authors' has z = 1e-3

The activation stands between the changes, so this is no gated sum. A token's experts take *slots*: first maps add
(slots, sequences, seq, width) to the base's one product, the last map runs in each slot, and its outputs are summed.

Li et al. 2024, MixLoRA, arXiv:2404.15159; settings and variants are the authors' code's (github.com/TUDB-Labs/MoE-PEFT,
`adapters/mixlora/`), save rank 8 and alpha 16 for their 16 and 32. Differences: losses are means over blocks and real
tokens, theirs take all blocks' tokens as one set; switch's noise is on the router's input alone; a map's experts see
one dropout mask. Left out: switch's capacity (32 tokens a sequence and expert), with which tokens depend on earlier
ones, and that theirs returns x in inference. Known limit: with top_k 1 the router learns from these losses alone.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import Literal

import torch
from pydantic import Field
from torch import Generator, Tensor

from weft.base.dropout import dropout
from weft.lowrank.roles import layer_index, role_of
from weft.lowrank.route import current_rows
from weft.methods.gates import losses
from weft.methods.gates.call import Call
from weft.methods.gates.gate import GateSpec
from weft.methods.gates.networks import Routers
from weft.methods.gates.settings import TrainedSpec, check_k
from weft.methods.gates.stack import Part, Stack
from weft.methods.gates.trace import GateTrace
from weft.methods.mixtures import contract


class Spec(TrainedSpec):
    """Settings of MixLoRA."""

    dropout: float = Field(default=0.05, ge=0, lt=1)
    num_experts: int = Field(default=8, ge=1)
    targets: list[str] | str = ["ffn_in", "ffn_out"]
    """Both feed-forward roles, and maps that get one ordinary LoRA."""
    routing: Literal["top_k", "dynamic", "switch"] = "top_k"
    """How a token's experts are selected and weighed."""
    top_k: int | None = Field(default=None, ge=1)
    """routing top_k: experts that a token keeps; None keeps 2, or the only one."""
    top_p: float = Field(default=0.8, gt=0, le=1)
    """routing dynamic: share of probability that a token's experts hold at least."""
    balance_weight: float = Field(default=1e-3, ge=0)
    """Weight of the load balance, which is the mean number of selected experts when balanced."""
    z_weight: float = Field(default=0.0, ge=0)
    """Weight of the z loss."""


class MixLoRA(contract.Mixture):
    """A router for each feed-forward block; experts in slots from its first map to its last."""

    settings_type = Spec
    spec: Spec
    BLOCK = ("ffn_in", "ffn_out")

    def build(self, generator: Generator) -> None:
        check_k(self.spec.top_k, len(self.experts))
        inside = [
            name for name in self.modules_woven if role_of(self.frame.roles, name) in self.BLOCK
        ]
        self._blocks = [list(names) for _, names in groupby(inside, layer_index)]
        whole = sum(len(self.frame.roles.get(role, ())) for role in self.BLOCK)
        if not inside or any(len(names) != whole for names in self._blocks):
            raise ValueError(
                f"MixLoRA's experts are whole feed-forward blocks, got {inside}; use targets: [ffn_in, ffn_out]"
            )
        self._first = {name: names[0] for names in self._blocks for name in names}
        shapes = {
            names[0]: (len(self.experts), self.stack(names[0]).A.shape[1]) for names in self._blocks
        }
        std = 1.0 if self.spec.routing == "switch" else 0.02
        self.routers = Routers(shapes, generator, self.like, std)

    @classmethod
    def from_experts(
        cls, module: str, parts: Sequence[Part | None], frame: contract.Frame, spec: Spec
    ) -> Stack:
        raise ValueError("MixLoRA's feed-forward experts learn with their router: start: nothing")

    @classmethod
    def from_nothing(
        cls, module: str, weight: Tensor, frame: contract.Frame, spec: Spec, generator: Generator
    ) -> Stack:
        inside = role_of(frame.roles, module) in cls.BLOCK
        count = spec.num_experts if inside else 1
        return Stack.new(weight, count, spec.rank, spec.alpha, generator)

    @property
    def gate_spec(self) -> GateSpec:
        if self.spec.routing == "dynamic":
            return GateSpec(select="top_p", p=self.spec.top_p)
        if self.spec.routing == "switch":
            return GateSpec(select="top_k", k=1)
        k = self.spec.top_k or min(2, len(self.experts))
        return GateSpec(select="top_k", k=k, normalise="renormalise")

    @property
    def finishing(self) -> tuple[str, ...]:
        return tuple(names[-1] for names in self._blocks)

    def logits(self, module: str, x: Tensor, z: Tensor, call: Call) -> Tensor:
        if self.training and self.spec.routing == "switch":
            x = x * torch.empty_like(x).uniform_(0.99, 1.01)
        with torch.autocast(x.device.type, enabled=False):
            return self.routers(module, x)

    def weave(self, module: str, x: Tensor, call: Call) -> Tensor:
        stack, first = self.stack(module), self._first.get(module)
        dropped = dropout(x, self.spec.dropout) if self.training and self.spec.dropout else x
        z = dropped.to(stack.A.dtype) @ stack.A.T
        if first is None:
            return stack.up(z)
        if current_rows() is not None:
            raise ValueError("MixLoRA mixes a call as a whole; give other sequences their own")
        if module == first:
            # Anew even if it is there: a recomputed layer (checkpointing) has a graph of its own.
            logits = self.logits(module, x, z, call)
            found = self.gate(module, logits, x, call)
            call.trace.record(module, logits, found)
            k = self.gating.k or int(found.selected.sum(-1).max())
            order = found.scores.detach().argsort(dim=-1, descending=True, stable=True)[..., :k]
            chosen = torch.nn.functional.one_hot(order, len(self.experts)).movedim(-2, 0)
            call.once[first] = chosen, found.gates.gather(-1, order).movedim(-1, 0)
        return stack.up(self.mid(module, z, call.once[first][0]))

    def finish(self, module: str, y: Tensor, call: Call) -> Tensor:
        _, weights = call.once[self._first[module]]
        return (weights.unsqueeze(-1) * y).sum(0).to(y.dtype)

    def losses(self, trace: GateTrace) -> dict[str, tuple[float, Tensor]]:
        own, balance, z = self.spec, [], []
        for first, *_ in self._blocks:
            p = trace.counted(trace.gates[first].scores)
            f = trace.counted(trace.gates[first].selected).to(p.dtype).mean(0)
            balance.append(p.shape[-1] * (f * p.mean(0)).sum())
            z.append(losses.z_loss(trace.counted(trace.logits[first])))
        added = {"balance_mixtral": (own.balance_weight, balance), "z": (own.z_weight, z)}
        return {name: (by, losses.over(each)) for name, (by, each) in added.items() if by}

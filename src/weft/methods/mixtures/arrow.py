"""Arrow: each expert's own change says which inputs it is for, so that routing needs no training.

    v_e = top right singular vector of B_e A_e,    l_e = |v_e x|,    I = the k largest of l
    y = W0 x + b + sum_{e in I} c_e s_e B_e A_e x,    c_I = softmax(l_I / T)

v_e is found once by power iterations v <- A^T (B^T B) (A v), normalised; singular vectors have no sign, hence |.|. x is
not normalised, so for long inputs the softmax is nearly one-hot: T should grow with them.

    GenKnowSub    A_e - mean_g A_g, B_e - mean_g B_g  (factors)  or  s_e B_e A_e - mean_g s_g B_g A_g  (change)

takes the mean of the `general` experts from every other one before v_e is found; they get no tokens themselves.

Ostapenko et al. 2024, Towards Modular LLMs, arXiv:2405.11157; Bagherifard et al. 2025, GenKnowSub, arXiv:2505.10939.
Read in PEFT 0.21.2's `tuners/lora/arrow.py`: 15 iterations in single precision, k = 3, T = 1, and the subtraction of
factors, our default as it is theirs. That is not the subtraction of changes that the second paper writes down: it has
cross terms, and depends on how a change was factored. `change` is exact, at the expert's rank plus those of all general
ones; an expert without an adapter at a map counts as 0 there.

Differences. A map's experts start from one draw, so that equal ones get equal gates whatever their order; PEFT draws
for each unless given a seed. The entry of largest size is positive. An expert without an adapter at a map has v_e = 0:
it may be selected, and adds nothing. PEFT drops from the output, here `dropout` acts on inputs as in every mixture, and
only where heads train. PEFT adds 1e-8 to every norm, so that v_e of very small changes vanishes.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from weft.lowrank.start import normal, wide
from weft.methods.gates.call import Call
from weft.methods.gates.gate import Gate, GateSpec, gate
from weft.methods.gates.settings import check_k
from weft.methods.gates.stack import Part, Stack
from weft.methods.mixtures import contract
from weft.registry import unknown


class Spec(contract.Spec):
    """Settings of Arrow."""

    top_k: int | None = Field(default=None, ge=1)
    """Experts that a token keeps; None keeps 3, or all where there are fewer."""
    temperature: float = Field(default=1.0, gt=0)
    """What similarities are divided by in the softmax."""
    iterations: int = Field(default=15, ge=1)
    """Power iterations for each prototype."""
    general: list[str] = []
    """Experts whose mean is subtracted from all others, and that get no tokens."""
    subtract: Literal["factors", "change"] = "factors"
    """What is subtracted: the means of A and of B, or the mean change itself."""


class Arrow(contract.Mixture):
    """Fixed prototypes as gates; nothing is trained."""

    settings_type = Spec
    spec: Spec
    closed: Tensor

    def __init__(
        self,
        experts: tuple[str, ...],
        stacks: dict[str, Stack],
        frame: contract.Frame,
        spec: Spec,
        generator: torch.Generator,
    ) -> None:
        general = _places(experts, spec.general)
        if general:
            stacks = {name: _subtracted(name, own, general, spec) for name, own in stacks.items()}
        super().__init__(experts, stacks, frame, spec, generator)
        routed = len(experts) - len(general)
        check_k(spec.top_k, routed)
        self.k = spec.top_k or min(3, routed)
        closed = [-torch.inf if at in general else 0.0 for at in range(len(experts))]
        self.register_buffer("closed", self.like.new_tensor(closed), persistent=False)
        for at, stack in enumerate(stacks.values()):
            self.register_buffer(f"prototypes{at}", _prototypes(stack, spec.iterations, generator))

    @classmethod
    def from_experts(
        cls, module: str, parts: Sequence[Part | None], frame: contract.Frame, spec: Spec
    ) -> Stack:
        # Factors that are to be subtracted keep their scales apart until then.
        return Stack.of(parts, trained=bool(spec.general))

    @property
    def gate_spec(self) -> GateSpec:
        T = self.spec.temperature
        return GateSpec(score="abs", temperature=T, select="top_k", k=self.k, normalise="softmax")

    def logits(self, module: str, x: Tensor, z: Tensor, call: Call) -> Tensor:
        v = self.get_buffer(f"prototypes{self.place(module)}")
        with torch.autocast(x.device.type, enabled=False):
            return (x.to(v.dtype) @ v.T).abs()

    def gate(self, module: str, logits: Tensor, x: Tensor, call: Call) -> Gate:
        return gate(logits, self.gating, bias=self.closed if self.spec.general else None)


def _places(experts: tuple[str, ...], general: list[str]) -> set[int]:
    for name in general:
        if name not in experts:
            raise ValueError(f"general: {unknown('expert', name, experts)}")
    if set(general) >= set(experts):
        raise ValueError(f"all experts are general ({', '.join(general)}): leave one that is not")
    return {at for at, name in enumerate(experts) if name in general}


@torch.no_grad()
def _prototypes(stack: Stack, iterations: int, generator: torch.Generator) -> Tensor:
    """Top right singular vector of every expert's change, (experts, in)."""
    A, B = (wide(value) for value in stack.factors())
    start = normal((A.shape[1],), 1.0, generator, A).to(A.dtype)
    if A.device.type == "meta":
        return A.new_empty(len(stack.ranks), A.shape[1])
    found = []
    for down, up in zip(A.split(stack.ranks), B.split(stack.ranks, dim=1), strict=True):
        v, core = start, up.T @ up
        for _ in range(iterations):
            v = down.T @ (core @ (down @ v))
            v = v / v.norm().clamp_min(torch.finfo(v.dtype).tiny)
        found.append(torch.where(v[v.abs().argmax()] < 0, -v, v))
    return torch.stack(found)


@torch.no_grad()
def _subtracted(module: str, stack: Stack, general: set[int], spec: Spec) -> Stack:
    """The stack of one map less the mean of its general experts, which keep no ranks."""
    ranks = stack.ranks
    A, B = stack.A.split(ranks), stack.B.split(ranks, dim=1)
    scales, own = stack.scale.split(ranks), [at for at in range(len(ranks)) if at not in general]
    if spec.subtract == "change":
        down = torch.cat([A[at] for at in general])
        up = torch.cat([B[at] * scales[at] for at in general], dim=1) / -len(general)
        downs = {at: torch.cat([A[at], down]) for at in own}
        ups = [torch.cat([B[at] * scales[at], up], dim=1) for at in own]
    elif len(set(ranks)) > 1:
        raise ValueError(
            f"{module}: experts of ranks {list(ranks)} have no mean of factors; use subtract: change"
        )
    else:
        down, up = (torch.stack([part[at] for at in general]).mean(0) for part in (A, B))
        downs = {at: A[at] - down for at in own}
        ups = [(B[at] - up) * scales[at] for at in own]
    left = [len(downs[at]) if at in downs else 0 for at in range(len(ranks))]
    return Stack(torch.cat(tuple(downs.values())), torch.cat(ups, dim=1), left, trained=False)

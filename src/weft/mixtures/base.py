"""The contract of a mixture: what several experts add to one linear map, weighed by gates.

    y = W0 x + b + mid_G(A_cat drop(x)) B_cat,    G = gate(logits(x))

A mixture says in the terms of `weft.gates` what its gate reads, how logits become gates, what the middle map does with
them, what its training adds to the loss, and what is trained. It knows nothing of names on disk, tasks or the loop.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from weft.config import Settings
from weft.dropout import dropout
from weft.gates import apply
from weft.gates.call import Call, Pass
from weft.gates.frame import Frame
from weft.gates.gate import Gate, GateSpec, gate
from weft.gates.mid import diag
from weft.gates.networks import Routers
from weft.gates.stack import Part, Stack
from weft.gates.trace import GateTrace
from weft.lowrank.route import current_rows


class Spec(Settings):
    """What every mixture can set."""

    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Fraction of a map's input dropped before the experts see it, while training."""
    train_heads: bool | None = None
    """Whether the tasks' heads go on learning; None: where the experts do."""
    baselines: bool = True
    """Whether uniform gates and the sum of the runs' experts are scored beside the mixture."""


class FrozenSpec(Spec):
    """Experts that were trained apart, and may be trained on."""

    train_experts: bool = False
    """Whether the experts go on learning with the gate."""


class TrainedSpec(Spec):
    """Experts that the mixture trains itself."""

    start: Literal["nothing", "experts"] = "nothing"
    """New experts, or those of the runs that are mixed."""
    num_experts: int = Field(default=4, ge=1)
    """New experts at each map; experts of runs are as many as there are."""
    rank: int = Field(default=8, ge=1)
    """Rank of each new expert."""
    alpha: float = Field(default=16.0, gt=0)
    """Strength of new experts: each is scaled by alpha / rank."""
    targets: list[str] | str = ["query", "value"]
    """Where new experts go, in the terms of a recipe's targets."""


class Mixture(nn.Module, ABC):
    """Gates and stacked experts for one base.

    Args:
        experts: Names of the experts, in the order of the gates.
        stacks: Their factors by the name of the map they sit on.
        frame: The trunk.
        spec: The method's settings.
        generator: Source of every random start value; CPU.
    """

    settings_type: ClassVar[type[Spec]] = Spec
    learning_rate: ClassVar[float] = 1e-3
    """Peak rate where a run names none."""
    by_task: ClassVar[bool] = False
    """Whether the gate reads which task a row belongs to, so that experts are the tasks' own."""

    def __init__(
        self,
        experts: Sequence[str],
        stacks: Mapping[str, Stack],
        frame: Frame,
        spec: Spec,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.experts = tuple(experts)
        self.frame = frame
        self.spec = spec
        self.modules_woven = tuple(stacks)
        self.stacks = nn.ModuleList(stacks.values())
        self.path: str | None = None
        """dense or grouped to force a path; None takes the cheaper one."""
        self._place = {module: at for at, module in enumerate(stacks)}
        # Asked for at every map of every call, where a ModuleList and a fresh settings object take as long as the rest.
        self._stacks = dict(stacks)
        self._gating: dict[bool, GateSpec] = {}
        self.build(generator)

    def build(self, generator: torch.Generator) -> None:
        """Make the gate's own parameters and buffers; settings, experts and stacks are there.

        Args:
            generator: Source of every random start value; CPU.

        Raises:
            ValueError: If these experts cannot be mixed this way.
        """

    @property
    def gate_parameters(self) -> int:
        """Numbers that the gate's own networks hold; not the experts', nor what recognises tasks."""
        inside = sum(value.numel() for value in self.stacks.parameters())
        return sum(value.numel() for value in self.parameters()) - inside

    @property
    def like(self) -> Tensor:
        """Says on which device parameters are made."""
        return next(iter(self._stacks.values())).A

    @classmethod
    def from_experts(
        cls, module: str, parts: Sequence[Part | None], frame: Frame, spec: Spec
    ) -> Stack:
        """The stack of one map made of trained experts.

        Args:
            module: The map's name.
            parts: One an expert; None where it has no adapter here.
            frame: The trunk.
            spec: The method's settings.

        Raises:
            ValueError: If the method cannot start from experts, or from these; with the reason.
        """
        return Stack.of(parts, trained=trains_experts(spec))

    @classmethod
    def from_nothing(
        cls,
        module: str,
        weight: Tensor,
        frame: Frame,
        spec: TrainedSpec,
        generator: torch.Generator,
    ) -> Stack:
        """The stack of new experts on one map.

        Args:
            module: The map's name.
            weight: The frozen W0, (out, in); read only.
            frame: The trunk.
            spec: The method's settings.
            generator: Source of every random value; CPU.
        """
        return Stack.new(weight, spec.num_experts, spec.rank, spec.alpha, generator)

    def stack(self, module: str) -> Stack:
        """The factors at one map."""
        return self._stacks[module]

    def place(self, module: str) -> int:
        """Number of the map `module` among those that are woven, from 0."""
        return self._place[module]

    @property
    def reads_pass(self) -> Pass | None:
        """The separate pass whose last state the gate reads; None: there is no such pass."""
        return None

    @property
    def reads_layer(self) -> int | None:
        """The layer whose input the gate reads, from 0: the embeddings' output; None reads none."""
        return None

    @property
    def gate_spec(self) -> GateSpec:
        """How logits become gates; may differ between training and inference (`self.training`)."""
        return GateSpec()

    @property
    def gating(self) -> GateSpec:
        """`gate_spec`, made once for training and once for inference."""
        if self.training not in self._gating:
            self._gating[self.training] = self.gate_spec
        return self._gating[self.training]

    def begin(self, call: Call) -> None:
        """Compute what many maps share, as soon as `call.hidden` is known: a recomputed layer finds it there."""

    @abstractmethod
    def logits(self, module: str, x: Tensor, z: Tensor, call: Call) -> Tensor:
        """What the gate's network says at one map, (sequences, seq, experts).

        Args:
            module: The map's name.
            x: Its input, (sequences, seq, in).
            z: The dropped input's projection, (sequences, seq, ranks in).
            call: What else may be read; its tensors are `rows(...)` of the whole call's.
        """

    def gate(self, module: str, logits: Tensor, x: Tensor, call: Call) -> Gate:
        """Gates from logits."""
        return gate(logits, self.gating)

    def mid(self, module: str, z: Tensor, gates: Tensor) -> Tensor:
        """The middle map, (..., ranks in) to (..., ranks out)."""
        return diag(z, gates, self.stack(module).ranks)

    def weave(self, module: str, x: Tensor, call: Call) -> Tensor:
        """What the experts add at one map, (sequences, seq, in) to (sequences, seq, out)."""
        stack = self.stack(module)
        dropped = dropout(x, self.spec.dropout) if self.training and self.spec.dropout else x
        wide = dropped.to(stack.A.dtype)
        z = wide @ stack.A.T
        if call.constant is not None:
            gates = z.new_full((*z.shape[:-1], self.gates_wide(module)), call.constant)
            return stack.up(self.mid(module, z, gates))
        logits = self.logits(module, x, z, call)
        found = self.gate(module, logits, x, call)
        if current_rows() is None:
            call.trace.record(module, logits, found)
        if self._is_grouped(module):
            return apply.grouped(wide, *stack.factors(), found, stack.ranks)
        return stack.up(self.mid(module, z, found.gates))

    def gates_wide(self, module: str) -> int:
        """How many gates there are at a map: one an expert, unless ranks have their own."""
        return len(self.stack(module).ranks)

    def _is_grouped(self, module: str) -> bool:
        k, ranks = self.gating.k, self.stack(module).ranks
        one_each = type(self).mid is Mixture.mid and self.gates_wide(module) == len(ranks)
        if not one_each or (self.path is None and k is None):
            return False
        return (self.path or apply.cheaper(ranks, k)) == "grouped"

    def losses(self, trace: GateTrace) -> dict[str, tuple[float, Tensor]]:
        """What training adds to the loss, by name: a weight and an unweighted value of this batch."""
        return {}

    def observe(self, trace: GateTrace) -> None:
        """Look at a training batch's gates, once for each batch."""

    def tallies(self) -> list[Tensor]:
        """What `observe` counted since the last step; with several processes each becomes their sum."""
        return []

    def after_step(self, done: int, total: int) -> None:
        """Change what no gradient changes, after optimizer step `done` (from 1) of `total`."""

    @property
    def finishing(self) -> tuple[str, ...]:
        """Maps whose output, base and experts together, goes through `finish`."""
        return ()

    def finish(self, module: str, y: Tensor, call: Call) -> Tensor:
        """The output of one of `finishing` as the trunk gets it."""
        return y


class Routed(Mixture):
    """A linear gate without bias at each map, on the map's own input."""

    def build(self, generator: torch.Generator) -> None:
        shapes = {
            module: (self.gates_wide(module), stack.A.shape[1])
            for module, stack in self._stacks.items()
        }
        self.routers = Routers(shapes, generator, self.like)

    def logits(self, module: str, x: Tensor, z: Tensor, call: Call) -> Tensor:
        return self.routers(module, x)


def check_k(k: int | None, experts: int) -> None:
    """Refuse to select more experts than there are.

    Raises:
        ValueError: If `k` is more than `experts`.
    """
    if k is not None and k > experts:
        raise ValueError(f"top_k {k} is more than the {experts} experts; choose at most {experts}")


def trains_experts(spec: Spec) -> bool:
    """Whether the experts learn with the gate."""
    return isinstance(spec, TrainedSpec) or (isinstance(spec, FrozenSpec) and spec.train_experts)

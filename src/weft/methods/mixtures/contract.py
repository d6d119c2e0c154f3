"""The contract of a mixture: what several experts add to one linear map, weighed by gates.

    y = W0 x + b + mid_G(A_cat drop(x)) B_cat,    G = gate(logits(x))

A mixture says in the terms of `weft.methods.gates` what its gate reads, how logits become gates, what the middle map
does with them, what its training adds to the loss, and what is trained. It knows nothing of names on disk,
tasks or the loop.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from weft.base.dropout import dropout
from weft.lowrank.route import current_rows
from weft.methods.gates import apply, losses
from weft.methods.gates.call import Call, Pass
from weft.methods.gates.frame import Frame
from weft.methods.gates.gate import Gate, GateSpec, gate
from weft.methods.gates.lookup import AtOnce
from weft.methods.gates.mid import diag
from weft.methods.gates.networks import GateHead, Routers, Standard
from weft.methods.gates.reading import shared, summary
from weft.methods.gates.settings import HeadSpec, Spec, TrainedSpec, trains_experts
from weft.methods.gates.stack import Part, Stack
from weft.methods.gates.trace import GateTrace


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
        # Asked for at every map of every call: a ModuleList and fresh settings take as long as the rest.
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
        k = self.gating.k
        if k is None and self.path is None:
            return False
        ranks = self.stack(module).ranks
        one_each = type(self).mid is Mixture.mid and self.gates_wide(module) == len(ranks)
        return one_each and (self.path or apply.cheaper(ranks, k)) == "grouped"

    def losses(self, trace: GateTrace) -> dict[str, tuple[float, Tensor]]:
        """What training adds to the loss, by name: a weight and an unweighted value of this batch."""
        return {}

    @property
    def row_means(self) -> frozenset[str]:
        """Which of `losses` are means over sequences, choices of a row counting as one; the others are over tokens.

        A step is taken in pieces, each of which counts for its share of what a loss is a mean of.
        """
        return frozenset()

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
        wide = {module: stack.A.shape[1] for module, stack in self._stacks.items()}
        shapes = {module: (self.gates_wide(module), size) for module, size in wide.items()}
        self.routers = Routers(shapes, generator, self.like)

    def logits(self, module: str, x: Tensor, z: Tensor, call: Call) -> Tensor:
        return self.routers(module, x)


class Headed(Mixture):
    """Gates of all maps from one head, known before the first map that they serve."""

    spec: HeadSpec
    standard: Standard | None

    def build(self, generator: torch.Generator) -> None:
        own, served = self.spec, self.served
        self._at = {module: at if own.layerwise else 0 for at, module in enumerate(served)}
        out = len(self.experts) * (len(served) if own.layerwise else 1)
        inner = self.frame.hidden * (2 if self.by_sequence else 1)
        self.head = GateHead(inner, out, own, generator, self.like)
        # What tells tasks apart is small beside what all texts share, the first token's state above all.
        self.standard = Standard(inner, self.like) if own.standardise else None

    @property
    def by_sequence(self) -> bool:
        """Whether all tokens of a sequence get the same gates.

        Raises:
            ValueError: If they are to, and a token must not see those after it.
        """
        found = self.spec.reads == "sequence"
        if found and self.frame.causal:
            raise ValueError(
                "reads sequence: on a decoder a token must not see those after it; choose reads: token"
            )
        return found

    @property
    def served(self) -> Sequence[str]:
        """Maps whose gates come from the head."""
        return self.modules_woven

    @property
    def gate_spec(self) -> GateSpec:
        return GateSpec(temperature=self.spec.temperature)

    def ask(self, hidden: Tensor, call: Call) -> Tensor:
        """What the head says of the state that is read, (sequences, seq, logits of all maps)."""
        # What is measured or averaged is so in single precision at least.
        wide = torch.promote_types(hidden.dtype, torch.float32)
        if not self.by_sequence:
            state = hidden if self.standard is None else hidden.to(wide)
            return self.head(self._standardised(state, call.trace.tokens))
        state = summary(hidden.to(wide), call.trace.mask, causal=False)
        said = shared(self.head(self._standardised(state, lambda rows: rows)), call.trace.rows)
        return said.unsqueeze(1).expand(-1, hidden.shape[1], -1)

    def _standardised(self, state: Tensor, counted: Callable[[Tensor], Tensor]) -> Tensor:
        if self.standard is None:
            return state
        if self.training:
            self.standard.look(counted(state))
        return self.standard(state)

    def answer(self, logits: Tensor) -> Gate:
        """The gates of all maps, (sequences, seq, maps, experts)."""
        return gate(logits, self.gating)

    def begin(self, call: Call) -> None:
        assert call.hidden is not None
        said = self.ask(call.hidden.detach(), call).unflatten(-1, (-1, len(self.experts)))
        call.once["gates"] = AtOnce(said, self.answer(said))

    def tallies(self) -> list[Tensor]:
        return [] if self.standard is None else [self.standard.fresh]

    def after_step(self, done: int, total: int) -> None:
        if self.standard is not None:
            self.standard.settle()

    @property
    def row_means(self) -> frozenset[str]:
        return frozenset({"label_ce"}) if self.by_sequence else frozenset()

    def losses(self, trace: GateTrace) -> dict[str, tuple[float, Tensor]]:
        if not self.spec.label_weight:
            return {}
        said = list(trace.logits.values())[: None if self.spec.layerwise else 1]
        # Where all tokens have the same a row counts once, however long it is.
        each = [own[:, 0] if self.by_sequence and own.dim() > 2 else own for own in said]
        value = losses.over(losses.task_ce(trace, own) for own in each)
        return {"label_ce": (self.spec.label_weight, value)}

    def logits(self, module: str, x: Tensor, z: Tensor, call: Call) -> Tensor:
        return call.once["gates"].logits_of(self._at[module])

    def gate(self, module: str, logits: Tensor, x: Tensor, call: Call) -> Gate:
        return call.once["gates"].gate_of(self._at[module])

    def weave(self, module: str, x: Tensor, call: Call) -> Tensor:
        watched = call.watched or self.training or current_rows() is not None
        ahead: AtOnce | None = None if watched else call.once.get("gates")
        if ahead is None or module not in self._at or self._is_grouped(module):
            return super().weave(module, x, call)
        # The same numbers with less around them: at a few tokens a map takes longer to be called than to compute.
        stack = self._stacks[module]
        A, gates = stack.A, ahead.by_rank(self._at[module], stack.ranks)
        z = nn.functional.linear(x.to(A.dtype), A)
        return stack.up(z * gates.to(z.dtype))

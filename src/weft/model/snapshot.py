"""All that a model holds at one moment, as one value; a call answers from the one it took at its start."""

import copy
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from weft.base.loading import Base
from weft.config import Settings
from weft.lowrank.pool import Factors
from weft.lowrank.route import Route, Voices, routed
from weft.lowrank.woven import Woven
from weft.model.batching import Batch
from weft.model.expert import Expert
from weft.model.head import Head
from weft.model.prefix import Place
from weft.registry import unknown

Kind = TypeVar("Kind", bound=nn.Module)
_PLAIN = frozenset({bool, int, float, str})
"""Of which a copy is the thing itself."""


@dataclass(frozen=True, eq=False)
class Resident:
    """An expert in one form: as it learns, or as it answers.

    Attributes:
        expert: The expert itself.
        woven: What it has in the trunk.
        head: Its head in this form.
    """

    expert: Expert
    woven: Woven
    head: Head | None


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A trunk and the experts on it; what it holds never changes, whatever becomes of the model.

    Attributes:
        base: What the trunk is a form of.
        trunk: Has places for everything that the residents have woven in.
        residents: The experts by name.
        is_decoder: Whether the trunk keeps keys and values unless told otherwise.
    """

    base: Base
    trunk: nn.Module
    residents: Mapping[str, Resident]
    is_decoder: bool

    @property
    def snapshot(self) -> "Snapshot":
        """Itself: what answers on a model's value of now answers on one that was kept."""
        return self

    @property
    def experts(self) -> dict[str, Expert]:
        """Every resident expert by name."""
        return {name: own.expert for name, own in self.residents.items()}

    def resident(self, name: str) -> Resident:
        """The expert called `name`, in this form.

        Raises:
            KeyError: If there is none.
        """
        own = self.residents.get(name)
        if own is None:
            raise KeyError(unknown("expert", name, self.residents))
        return own

    def expert(self, name: str) -> Expert:
        """The expert called `name` itself.

        Raises:
            KeyError: If there is none.
        """
        return self.resident(name).expert

    def head(self, name: str) -> Head:
        """The head of a resident expert.

        Raises:
            KeyError: If there is no such expert.
            ValueError: If it has no head.
        """
        head = self.resident(name).head
        if head is None:
            raise ValueError(f"expert {name!r} has no head, so it cannot answer")
        return head

    def routed(
        self, route: Route | None, kept: dict[str, Any] | None = None
    ) -> AbstractContextManager[Voices | None]:
        """Calls of `trunk` inside the block follow `route`; None is the bare base.

        Args:
            route: Who speaks.
            kept: The same mapping for every call by the same experts of the same sequences, as where texts are written
                token by token: what maps put together for them once, they find there.

        Raises:
            KeyError: If it names an expert that is not resident.
        """
        names = route.experts if route is not None else ()
        return routed(route, {name: self.resident(name).woven for name in names}, kept)

    def states(self, inputs: Mapping[str, Tensor], route: Route | None) -> Tensor:
        """Last trunk states (sequences, seq, hidden) under `route`; None is the bare base."""
        extra = {"use_cache": False} if self.is_decoder else {}
        with self.routed(route):
            return self.trunk(**_read(inputs), **extra).last_hidden_state

    def all_states(self, inputs: Mapping[str, Tensor], route: Route | None) -> tuple[Tensor, ...]:
        """Of the embeddings and of every layer, (sequences, seq, hidden) each; the last is what `states` gives."""
        extra = {"use_cache": False} if self.is_decoder else {}
        with self.routed(route):
            return self.trunk(**_read(inputs), **extra, output_hidden_states=True).hidden_states

    def read(self, batch: Batch) -> Tensor:
        """Last trunk states of a batch, what is no text in it read by the encoders of whose rows it is."""
        if not any(part.places for part in batch.parts):
            return self.states(batch.inputs, batch.route)
        inputs = dict(_read(batch.inputs))
        with self.routed(batch.route):
            own = [(one.head, slice(one.start, one.stop), one.places) for one in batch.parts]
            embeddings = self.embed(inputs.pop("input_ids"), own)
            extra = {"use_cache": False} if self.is_decoder else {}
            return self.trunk(inputs_embeds=embeddings, **inputs, **extra).last_hidden_state

    def embed(
        self, input_ids: Tensor, given: Iterable[tuple[str, slice, Sequence[Place]]]
    ) -> Tensor:
        """The embeddings of tokens, and in place of placeholders those of what is no text, (sequences, seq, hidden).

        Inside of `routed`, as private copies of the embeddings ask for.

        Args:
            input_ids: (sequences, seq).
            given: By head, its sequences and what they have that is no text.
        """
        found = self.trunk.get_input_embeddings()(input_ids)  # type: ignore[operator]
        for head, rows, places in given:
            if places:
                own = self.head(head).encoders
                assert own is not None  # its task has inputs that are no text
                parts = found[: rows.start], own(places, found[rows]), found[rows.stop :]
                found = torch.cat(parts)
        return found

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """Each head's logits by expert name, in the shape of its kind."""
        hidden = self.read(batch)
        mask = batch.inputs["attention_mask"]
        answers = {}
        for part in batch.parts:
            whole = part.stop - part.start == hidden.shape[0] and part.width == hidden.shape[1]
            own = hidden if whole else hidden[part.start : part.stop, : part.width]
            rows = slice(part.start, part.stop), slice(part.width)
            answers[part.head] = self.head(part.head)(
                own, mask[rows], part.sequences_per_row, batch.inputs["input_ids"][rows]
            )
        return answers


def _read(inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """What the trunk is given: beside a mask transformers would not look at positions to tell texts apart."""
    if "position_ids" not in inputs:
        return inputs
    return {name: value for name, value in inputs.items() if name != "attention_mask"}


def learning(expert: Expert, trunk: nn.Module, *, trainable: bool) -> Resident:
    """An expert as it learns: its own modules, in whatever mode they are in; exact factors where it does not.

    Args:
        expert: The expert.
        trunk: Has the frozen maps.
        trainable: Whether its adapters keep their own form.
    """
    dtype = next(trunk.parameters()).dtype
    return Resident(expert, expert.woven(trunk, dtype, trainable=trainable), expert.head)


def answering(own: Resident, trunk: nn.Module) -> Resident:
    """The same expert as it answers: no mode that anybody can change, the same tensors.

    Args:
        own: The expert as it learns.
        trunk: Has the frozen maps.
    """
    if all(isinstance(term, Factors) for term in own.woven.terms.values()):
        # Nothing but the head has a mode: an expert is added in the time that this takes.
        copies = {name: twin(module) for name, module in own.woven.copies.items()}
        head = None if own.head is None else twin(own.head)
        return Resident(own.expert, Woven(own.woven.terms, copies), head)
    rest = twin(own.expert)
    woven = rest.woven(trunk, next(trunk.parameters()).dtype, trainable=True)
    return Resident(own.expert, woven, rest.head)


def twin(module: Kind, *, own_config: bool = False) -> Kind:
    """The same module in objects of its own, in eval mode; every tensor is shared, and so is every setting.

    Args:
        module: What to repeat.
        own_config: Whether the transformers config is repeated too: some of its settings decide how a trunk computes.
    """
    return repeated(module, own_config=own_config).eval()


def repeated(
    module: Kind, instead: Mapping[int, Any] | None = None, *, own_config: bool = False
) -> Kind:
    """The same module in objects of its own; tensors and settings are shared.

    As `copy.deepcopy`, in an eighth of its time: that takes a module's dozen empty dicts of hooks apart and together.

    Args:
        module: What to repeat.
        instead: What to take in the place of something, by its id.
        own_config: As of `twin`.
    """
    return _repeated(module, dict(instead or {}), own_config)


def _repeated(value: Any, memo: dict[int, Any], own_config: bool) -> Any:
    kind = type(value)
    if value is None or kind in _PLAIN:
        return value
    known = memo.get(id(value))
    if known is not None:
        return known
    if isinstance(value, nn.Module):
        # Not begun as its class says, which would draw weights.
        made = memo[id(value)] = object.__new__(kind)
        vars(made).update(
            {name: _repeated(own, memo, own_config) for name, own in vars(value).items()}
        )
    elif kind is dict or kind is OrderedDict:
        made = memo[id(value)] = kind()
        made.update({key: _repeated(own, memo, own_config) for key, own in value.items()})
    elif kind is list or kind is tuple or kind is set:
        made = memo[id(value)] = kind(_repeated(own, memo, own_config) for own in value)
    elif isinstance(value, Tensor | Settings) or (
        isinstance(value, PreTrainedConfig) and not own_config
    ):
        made = value
    else:
        made = copy.deepcopy(value, memo)
    return made

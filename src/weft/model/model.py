"""One trunk and the experts that live on it: a heterogeneous batch in, each head's answer out."""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from weft.base.loading import Base
from weft.lowrank.attach import attach, detach, frozen_linear, plain_copy, replace
from weft.lowrank.route import Route, routed
from weft.model.batching import Batch
from weft.model.expert import Expert
from weft.model.head import trained_dtype
from weft.model.heads import kind_of
from weft.registry import unknown


class Model(nn.Module):
    """A trunk with experts. The route travels with each call, so threads may share one model.

    Args:
        base: The frozen base; its trunk is wrapped in place, its weights are never written to.
        private: Work on a copy of the trunk whose weights may be trained (the recipe `full`).
    """

    def __init__(self, base: Base, private: bool = False) -> None:
        super().__init__()
        self.base = base
        self.is_private = private
        self.trunk: nn.Module = copy.deepcopy(base.trunk) if private else base.trunk
        if private:
            self.trunk.requires_grad_(True)
        self._names: dict[str, str] = {}
        self._is_decoder = kind_of("causal_lm").fits(base.config)

    @property
    def experts(self) -> dict[str, Expert]:
        """Every resident expert by name."""
        return {name: self.get_submodule(key) for name, key in self._names.items()}  # type: ignore[misc]

    def expert(self, name: str) -> Expert:
        """The resident expert called `name`.

        Raises:
            KeyError: If there is none.
        """
        if name not in self._names:
            raise KeyError(unknown("expert", name, self._names))
        return self.get_submodule(self._names[name])  # type: ignore[return-value]

    def add(self, expert: Expert, trainable: bool = False) -> None:
        """Weave an expert in; it changes nothing for calls that do not name it.

        Args:
            expert: The expert; its name must be free.
            trainable: Keep its adapters' own form; otherwise they are reduced once to their exact factors.

        Raises:
            ValueError: If the name is taken.
        """
        if expert.name in self._names:
            raise ValueError(
                f"an expert named {expert.name!r} is resident; remove it or choose another name"
            )
        dtype = self.base.trunk.dtype
        attach(self.trunk, expert.name, expert.terms(self.trunk, dtype, trainable=trainable))
        replace(self.trunk, expert.name, expert.copies)
        expert.woven_into(self.trunk)
        if not trainable:
            expert.requires_grad_(False)
        expert.train(self.training)
        numbers = [int(key.removeprefix("expert_")) for key in self._names.values()]
        key = f"expert_{max(numbers, default=-1) + 1}"
        self.add_module(key, expert)
        self._names = {**self._names, expert.name: key}

    def remove(self, name: str) -> Expert:
        """Take an expert out and hand it back."""
        expert = self.expert(name)
        detach(self.trunk, name)
        expert.taken_out()
        key = self._names[name]
        self._names = {other: at for other, at in self._names.items() if other != name}
        delattr(self, key)
        return expert

    def states(self, inputs: Mapping[str, Tensor], route: Route | None) -> Tensor:
        """Last trunk states (sequences, seq, hidden) under `route`; None is the bare base."""
        for name in route.experts if route else ():
            if name not in self._names:
                raise KeyError(unknown("expert", name, self._names))
        extra = {"use_cache": False} if self._is_decoder else {}
        with routed(route):
            return self.trunk(**inputs, **extra).last_hidden_state

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Each head's logits by expert name, in the shape of its kind."""
        hidden = self.states(batch.inputs, batch.route)
        mask = batch.inputs["attention_mask"]
        answers = {}
        for part in batch.parts:
            head = self.expert(part.head).head
            if head is None:
                raise ValueError(f"expert {part.head!r} has no head, so it cannot answer")
            whole = part.stop - part.start == hidden.shape[0] and part.width == hidden.shape[1]
            own = hidden if whole else hidden[part.start : part.stop, : part.width]
            rows = slice(part.start, part.stop), slice(part.width)
            answers[part.head] = head(
                own, mask[rows], part.sequences_per_row, batch.inputs["input_ids"][rows]
            )
        return answers

    def merged(self, name: str, weight: float = 1.0) -> nn.Module:
        """A plain copy of the trunk with one expert's change added to its weights; the base is untouched.

        Args:
            name: The expert.
            weight: How much of it to add.
        """
        expert = self.expert(name)
        expert.refuse_merging()
        plain = plain_copy(self.trunk)
        dtype = trained_dtype(self.base)
        with torch.no_grad():
            for module, own in expert.copies.items():
                for value, trained in zip(
                    plain.get_submodule(module).parameters(), own.parameters(), strict=True
                ):
                    value.lerp_(trained.to(value), weight)
            for module, adapter in expert.adapters.items():
                change = adapter.delta(frozen_linear(self.trunk, module).weight.to(dtype))
                target = plain.get_submodule(module).get_parameter("weight")
                target.copy_(target.to(dtype) + weight * change)
        return plain

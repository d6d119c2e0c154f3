"""One trunk and the experts that live on it: a heterogeneous batch in, each head's answer out.

What a model holds is one immutable value. Adding, replacing and removing make another one and put it in its place; a
call takes the value once, at its start, and uses it to its end, so it may run while the model changes.
"""

import copy
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor, nn

from weft.base.loading import Base
from weft.base.quantised import whole
from weft.lowrank.attach import attach, canonical, frozen_linear
from weft.lowrank.route import Route
from weft.lowrank.woven import Woven
from weft.model.batching import Batch
from weft.model.expert import Expert
from weft.model.head import trained_dtype
from weft.model.heads import kind_of
from weft.model.mixed import open_calls
from weft.model.snapshot import Snapshot, answering, learning, twin

_CHANGING = threading.Lock()
"""Changes of models come one after another; no call waits for it. One for all: it is held for a look and a swap."""


@dataclass(frozen=True, eq=False)
class _Held:
    """What a model holds, in both forms.

    Attributes:
        learning: On the trunk whose modules have the mode they were set to.
        answering: On a trunk that is in eval mode for good.
        trainable: Residents that learn: how they answer is looked at anew by each call.
        maps: Where experts have had adapters, so that both trunks have places there.
        copied: The same for modules that experts have had copies of.
        count: Residents there have ever been.
    """

    learning: Snapshot
    answering: Snapshot
    trainable: frozenset[str] = frozenset()
    maps: frozenset[str] = frozenset()
    copied: frozenset[str] = frozenset()
    count: int = 0


class Model(nn.Module):
    """A trunk with experts; they may come and go while it answers.

    Two models on one base share its weights and nothing else. Calling the model itself is for learning: like any module
    of torch it follows `train()` and `eval()`. What answers is `snapshot`, which has no mode.

    Args:
        base: The frozen base; neither its modules nor its weights are changed.
        private: Work on a copy of the weights, which may be trained (the recipe `full`).
    """

    def __init__(self, base: Base, private: bool = False) -> None:
        super().__init__()
        self.base = base
        self.is_private = private
        self.trunk: nn.Module = (
            copy.deepcopy(base.trunk) if private else twin(base.trunk, own_config=True)
        )
        if private:
            self.trunk.requires_grad_(True)
        open_calls(self.trunk)
        is_decoder = kind_of("causal_lm").fits(base.config)
        self._held = _Held(
            Snapshot(base, self.trunk, {}, is_decoder),
            Snapshot(base, twin(self.trunk, own_config=True), {}, is_decoder),
        )

    @property
    def snapshot(self) -> Snapshot:
        """All that the model holds now, to answer on: as in eval mode, whatever `train()` was called on.

        It stays as it is when the model changes, for as long as somebody keeps it. Experts that are being trained
        answer with the weights that they have at the time.
        """
        held = self._held
        if not held.trainable:
            return held.answering
        own, trunk = held.learning.residents, held.answering.trunk
        fresh = {name: answering(own[name], trunk) for name in held.trainable}
        return replace(held.answering, residents={**held.answering.residents, **fresh})

    @property
    def experts(self) -> dict[str, Expert]:
        """Every resident expert by name."""
        return self._held.learning.experts

    def expert(self, name: str) -> Expert:
        """The resident expert called `name`.

        Raises:
            KeyError: If there is none.
        """
        return self._held.learning.expert(name)

    def add(self, expert: Expert, trainable: bool = False) -> None:
        """Weave an expert in; it changes nothing for calls that do not name it, nor for those under way.

        Args:
            expert: The expert; its name must be free.
            trainable: Keep its adapters' own form; otherwise they are reduced once to their exact factors.

        Raises:
            ValueError: If the name is taken.
        """
        self.change(add=[expert], trainable=trainable)

    def remove(self, name: str) -> Expert:
        """Take an expert out and hand it back; calls under way go on with it.

        Raises:
            KeyError: If there is none of that name.
        """
        return self.change(remove=[name])[0]

    def replace(self, expert: Expert, trainable: bool = False) -> Expert:
        """Put an expert in the place of the one of its name, which is handed back: at no moment there is none.

        Raises:
            KeyError: If there is none of that name.
        """
        return self.change(add=[expert], remove=[expert.name], trainable=trainable)[0]

    def change(
        self, *, add: Iterable[Expert] = (), remove: Iterable[str] = (), trainable: bool = False
    ) -> list[Expert]:
        """Experts out and others in, in one step: a call sees all of it or nothing. Those taken out, in order.

        Args:
            add: Experts whose names are free, or are of those to remove.
            remove: Names.
            trainable: Keep the own form of the added experts' adapters.

        Raises:
            KeyError: If there is no expert of a name; nothing has changed then.
            ValueError: If a name is taken, or given twice; nothing has changed then.
        """
        # What takes long is done before the swap; what may fail, before anything has changed.
        made = [learning(expert, self.trunk, trainable=trainable) for expert in add]
        rest = [answering(own, self._held.answering.trunk) for own in made]
        with _CHANGING:
            held = self._held
            taken = {name: held.learning.expert(name) for name in remove}
            learned, answered = dict(held.learning.residents), dict(held.answering.residents)
            for name in taken:
                del learned[name], answered[name]
            for own, same in zip(made, rest, strict=True):
                name = own.expert.name
                if name in learned:
                    raise ValueError(
                        f"an expert named {name!r} is resident; remove it or choose another name"
                    )
                learned[name], answered[name] = own, same
            maps, copied = _make_room(held, [own.woven for own in made])
            for own in made:
                if not trainable:
                    own.expert.requires_grad_(False)
                own.expert.train(self.training)
            self._list([own.expert for own in made], list(taken.values()), held.count)
            self._held = _Held(
                learning=replace(held.learning, residents=learned),
                answering=replace(held.answering, residents=answered),
                trainable=(held.trainable - taken.keys())
                | {own.expert.name for own in made if trainable},
                maps=maps,
                copied=copied,
                count=held.count + len(made),
            )
        return list(taken.values())

    def _list(self, new: Iterable[Expert], gone: Iterable[Expert], count: int) -> None:
        """Tell torch of the experts, so that `parameters()`, `train()` and `to()` reach them."""
        out = {id(expert) for expert in gone}
        modules = dict(self._modules)
        if out:
            modules = {key: own for key, own in modules.items() if id(own) not in out}
        modules |= {f"expert_{at}": expert for at, expert in enumerate(new, start=count)}
        # Another mapping, not a changed one: another thread may be walking through it.
        self._modules = modules

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """As torch's, for `to()` and its like; what answers is made anew from what was moved."""
        super()._apply(fn, recurse)
        with _CHANGING:
            held = self._held
            learned = {
                name: learning(own.expert, self.trunk, trainable=name in held.trainable)
                for name, own in held.learning.residents.items()
            }
            trunk = twin(self.trunk, own_config=True)
            answered = {name: answering(own, trunk) for name, own in learned.items()}
            self._held = replace(
                held,
                learning=replace(held.learning, residents=learned),
                answering=replace(held.answering, trunk=trunk, residents=answered),
            )
        return self

    def states(self, inputs: Mapping[str, Tensor], route: Route | None) -> Tensor:
        """Last trunk states (sequences, seq, hidden) under `route`, as the model learns; None is the bare base."""
        return self._held.learning.states(inputs, route)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Each head's logits by expert name, in the shape of its kind, as the model learns."""
        return self._held.learning(batch)

    def merged(self, name: str, weight: float = 1.0) -> nn.Module:
        """A plain copy of the trunk with one expert's change added to its weights; the base is untouched.

        Args:
            name: The expert.
            weight: How much of it to add.
        """
        expert = self.expert(name)
        expert.refuse_merging()
        plain = copy.deepcopy(self.base.trunk).to(next(self.trunk.parameters()).device)  # type: ignore[arg-type]
        if self.base.quantised is not None:
            plain = whole(plain)
        if self.is_private:
            own = {canonical(name): value for name, value in self.trunk.state_dict().items()}
            plain.load_state_dict(own)
        dtype = trained_dtype(self.base)
        with torch.no_grad():
            for module, copied in expert.copies.items():
                for value, trained in zip(
                    plain.get_submodule(module).parameters(), copied.parameters(), strict=True
                ):
                    value.lerp_(trained.to(value), weight)
            for module, adapter in expert.adapters.items():
                change = adapter.delta(frozen_linear(self.trunk, module).weight.to(dtype))
                target = plain.get_submodule(module).get_parameter("weight")
                target.copy_(target.to(dtype) + weight * change)
        return plain


def _make_room(held: _Held, new: Iterable[Woven]) -> tuple[frozenset[str], frozenset[str]]:
    """Places in both trunks for what is new; the maps and modules that have one by now."""
    maps, copied = held.maps, held.copied
    for own in new:
        # Looked up, not looked for: finding an expert's maps in two trunks takes longer than adding it.
        if maps.issuperset(own.terms) and copied.issuperset(own.copies):
            continue
        attach(held.learning.trunk, own)
        attach(held.answering.trunk, own)
        maps, copied = maps.union(own.terms), copied.union(own.copies)
    return maps, copied

"""A mixture woven into a trunk: what a route names, and what begins and ends with each forward.

Hooks that lie on every trunk of a model, and know of no mixture, open a call for each mixture that the route names, so
that training, evaluation and a decoder's cached generation all meet the same gates. Mixtures come with the call like
every expert's adapters: the hooks never change. A scaling pass, where the gate wants one, is a forward of the same
trunk without gradient from inside such a hook; a generation keeps keys and values of both passes.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from weft.lowrank.route import Route, current_voices, routed
from weft.lowrank.woven import Woven
from weft.methods.gates.call import Call, Pass, calling, current_calls
from weft.methods.gates.trace import GateTrace, current_trace
from weft.methods.mixtures.contract import Mixture
from weft.model.expert import Expert
from weft.scoped import scoped


class Term:
    """A mixture at one map, as a pool's term."""

    low_rank: ClassVar[bool] = False
    dropout = 0.0

    def __init__(self, name: str, mixture: Mixture, module: str) -> None:
        self.name = name
        self.mixture = mixture
        self.module = module
        self.rank = mixture.stack(module).A.shape[0]

    def __call__(self, x: Tensor, weight: Tensor) -> Tensor:
        found = current_calls()
        assert found is not None, "a mixture speaks inside a forward of its trunk only"
        return self.mixture.weave(self.module, x, found[self.name])

    def factors(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError("a mixture depends on the input and has no factors")


@dataclass(frozen=True, eq=False, kw_only=True)
class Mixed(Woven):
    """What a mixture has woven in.

    Attributes:
        name: How routes call it.
        mixture: The gates and the experts.
        labels: The number of each task whose rows are labelled.
    """

    name: str
    mixture: Mixture
    labels: Mapping[str, int]

    def finish(self, module: str, y: Tensor) -> Tensor:
        found = current_calls()
        assert found is not None, "a mixture speaks inside a forward of its trunk only"
        return self.mixture.finish(module, y, found[self.name])


class Mix(Expert):
    """A mixture as an expert without a head: heads are experts of their own, by task.

    Args:
        name: How routes call it.
        mixture: The gates and the experts.
        tasks: Whose rows are labelled with their number, where the experts are not the tasks' own.
    """

    def __init__(self, name: str, mixture: Mixture, tasks: Sequence[str] = ()) -> None:
        super().__init__(name, {}, None)
        self.mixture = mixture
        self.labels = {owner: at for at, owner in enumerate(tasks or mixture.experts)}

    def terms(self, trunk: nn.Module, dtype: torch.dtype, *, trainable: bool) -> Mapping[str, Any]:
        return {
            module: Term(self.name, self.mixture, module) for module in self.mixture.modules_woven
        }

    def woven(self, trunk: nn.Module, dtype: torch.dtype, *, trainable: bool) -> Woven:
        """What speaks in calls, in the form that its modules are in.

        Raises:
            ValueError: If the gates read a layer of a trunk whose layers are not found.
        """
        early = self.mixture.reads_pass is not None and self.mixture.reads_pass.layers is not None
        if (early or self.mixture.reads_layer is not None) and not len(layers_of(trunk)):
            raise ValueError(
                f"{self.name}: its gates read the state between two layers, and this base has no list of its "
                "layers; choose a mixture whose gates read each map's own input, e.g. meteora"
            )
        return Mixed(
            terms=self.terms(trunk, dtype, trainable=trainable),
            finishing=frozenset(self.mixture.finishing),
            name=self.name,
            mixture=self.mixture,
            labels=self.labels,
        )

    def after_step(self, done: int, total: int) -> None:
        with torch.no_grad():
            self.mixture.after_step(done, total)

    def refuse_merging(self) -> None:
        raise ValueError(
            f"{self.name} is a mixture, whose gates depend on the input, so no weights stand for it; merge its experts"
        )

    def changing(self) -> dict[str, Tensor]:
        return dict(self.mixture.named_buffers())

    def adapter_parameters(self) -> int:
        return sum(value.numel() for value in self.mixture.parameters() if value.requires_grad)


_caches: ContextVar[dict[str, DynamicCache] | None] = ContextVar("weft_mix_caches", default=None)
"""Keys and values of scaling passes by mixture, over one generation."""
_constant: ContextVar[float | None] = ContextVar("weft_mix_constant", default=None)
"""The gates of a scaling pass under way."""
_last: ContextVar[int | None] = ContextVar("weft_mix_last", default=None)
"""How many layers a forward under way is to run, where that is not all."""
_open: ContextVar[tuple[AbstractContextManager[object], ...]] = ContextVar(
    "weft_mix_open", default=()
)
"""What the forwards under way must leave again, innermost last."""


def caching() -> AbstractContextManager[object]:
    """Scaling passes inside the block go on with the keys and values of those before: one generation."""
    return scoped(_caches, {})


def layers_of(trunk: nn.Module) -> nn.ModuleList:
    """The trunk's layers, in order; none if they lie in no list, as where all are one."""
    wanted = cast(PreTrainedModel, trunk).config.num_hidden_layers
    return next(
        (
            module
            for module in trunk.modules()
            if isinstance(module, nn.ModuleList) and len(module) == wanted
        ),
        nn.ModuleList(),
    )


def open_calls(trunk: nn.Module) -> None:
    """Let every forward of `trunk` open the calls of the mixtures that its route names; once, before the first."""
    # Functions of this module: a copy of the trunk copies its hooks, and must not copy what they refer to.
    trunk.register_forward_pre_hook(_begin, with_kwargs=True)
    trunk.register_forward_hook(_end, always_call=True)
    for at, layer in enumerate(layers_of(trunk)):
        layer.register_forward_pre_hook(partial(_at_layer, at), with_kwargs=True)


_NOTHING: AbstractContextManager[object] = nullcontext()


def _begin(trunk: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
    voices = current_voices()
    mixed = [own for own in voices.woven.values() if isinstance(own, Mixed)] if voices else []
    found: dict[str, Call] = {}
    # A pass inside another call has calls of its own, or none.
    manager = calling(found) if mixed or current_calls() else _NOTHING
    manager.__enter__()
    # In any case, so that `_end` always has its own to leave.
    _open.set((*_open.get(), manager))
    for own in mixed:
        assert voices is not None
        call = found[own.name] = Call(
            _trace(voices.route, own.labels, kwargs),
            constant=_constant.get(),
            watched=current_trace() is not None,
        )
        reads = own.mixture.reads_pass
        if own.mixture.spec.states is not None:
            call.state = _told(voices.route, own, _sequences(args, kwargs))
            own.mixture.begin(call)
        if reads is not None and call.constant is None:
            call.hidden = _pass(trunk, args, kwargs, own, reads)
            own.mixture.begin(call)


def _end(trunk: nn.Module, args: Any, output: Any) -> None:
    *outer, manager = _open.get()
    _open.set(tuple(outer))
    manager.__exit__(None, None, None)


def _at_layer(at: int, layer: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
    """In front of a layer: the end of a forward that was to go no further, or what a gate reads."""
    if _last.get() == at:
        raise _Seen(_state(args, kwargs))
    calls = current_calls()
    voices = current_voices() if calls else None
    if not calls or voices is None:
        return
    for own in voices.woven.values():
        if isinstance(own, Mixed) and own.mixture.reads_layer == at:
            call = calls[own.name]
            call.hidden = _state(args, kwargs)
            own.mixture.begin(call)


def _state(args: Any, kwargs: Mapping[str, Any]) -> Tensor:
    """What a layer is given."""
    return args[0] if args else kwargs["hidden_states"]


class _Seen(Exception):  # noqa: N818 - ends a forward that has shown what was wanted
    def __init__(self, state: Tensor) -> None:
        super().__init__()
        self.state = state


def early(trunk: nn.Module) -> int:
    """How many layers it takes until a token has seen its sequence: one, if there is one more to stop in front of."""
    return min(1, _depth(trunk) - 1)


def _depth(trunk: nn.Module) -> int:
    return cast(PreTrainedModel, trunk).config.num_hidden_layers


def early_state(trunk: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    """What the bare base makes of its inputs in its first layer, (sequences, seq, hidden), and no more of the forward.

    Args:
        trunk: A model's.
        inputs: As the trunk takes them.
    """
    extra = {} if getattr(trunk.config, "use_cache", None) is None else {"use_cache": False}
    return _forward(trunk, (), {**inputs, **extra}, Pass(layers=early(trunk)), None)


def _trace(route: Route, labels: Mapping[str, int], kwargs: Mapping[str, Any]) -> GateTrace:
    """The record of this call: the caller's, or one that goes with it."""
    trace = current_trace() or GateTrace()
    mask = trace.mask = kwargs.get("attention_mask")
    device = None if mask is None else mask.device
    if route.owners is not None:
        trace.labels = torch.tensor([labels.get(own, -1) for own in route.owners], device=device)
    # A caller's trace may see several calls: what was together in the last one is not in this.
    trace.rows = None if route.rows is None else torch.tensor(route.rows, device=device)
    return trace


def _sequences(args: Any, kwargs: Mapping[str, Any]) -> int:
    """How many a trunk is given."""
    given = (*args[:1], kwargs.get("input_ids"), kwargs.get("inputs_embeds"))
    return len(next(value for value in given if value is not None))


def _told(route: Route, own: Mixed, count: int) -> Tensor:
    """What is known of whom each sequence is for, (sequences, numbers); 0 where others than `own` speak."""
    size, like = own.mixture.spec.states, own.mixture.like
    assert size is not None
    if not size:
        return like.new_zeros(count, 0)
    told = route.states or (None,) * count
    mine = range(count) if route.choice is None else route.pairs[own.name]
    rows = [[0.0] * size] * count
    for at in mine:
        state = told[at]
        refuse_state(state, size)
        rows[at] = list(state or ())
    return torch.tensor(rows, dtype=like.dtype, device=like.device)


def refuse_state(state: Sequence[float] | None, size: int) -> None:
    """Refuse a row that does not come with as many numbers as gates read.

    Raises:
        ValueError: If it does not.
    """
    if state is None or len(state) != size:
        came = "has no `state`" if state is None else f"has a `state` of {len(state)} numbers"
        raise ValueError(
            f"a row {came}, and this mixture's gates read {size} of whom it is for; give each row as many under "
            "`state`, or under the column that the task's `columns: {state: ...}` names"
        )


def _pass(trunk: nn.Module, args: Any, kwargs: Mapping[str, Any], own: Mixed, what: Pass) -> Tensor:
    """The state that a mixture's separate pass ends with."""
    given = dict(kwargs)
    if given.get("past_key_values") is not None:
        caches = _caches.get()
        if caches is None:
            raise ValueError(
                "keys and values are cached outside of `caching()`: those of the separate pass would be lost"
            )
        config = cast(PreTrainedModel, trunk).config
        given["past_key_values"] = caches.setdefault(own.name, DynamicCache(config=config))
    return _forward(trunk, args, given, what, own if what.value else None)


def _forward(
    trunk: nn.Module, args: Any, kwargs: Mapping[str, Any], what: Pass, own: Mixed | None
) -> Tensor:
    """The last state of as many layers as `what` runs, without gradient; of the bare base if nobody speaks."""
    whole = what.layers is None or what.layers >= _depth(trunk)
    route = None if own is None else Route.everywhere(own.name)
    with (
        torch.no_grad(),
        scoped(_constant, what.value),
        scoped(_last, None if whole else what.layers),
        routed(route, None if own is None else {own.name: own}),
    ):
        try:
            return trunk(*args, **kwargs).last_hidden_state
        except _Seen as seen:
            return seen.state

"""A mixture woven into a trunk: what a route names, and what begins and ends with each forward.

A forward hook on the trunk opens a call for every mixture that the route names, so that training, evaluation and a
decoder's cached generation all meet the same gates. A scaling pass, where the gate wants one, is a forward of the same
trunk without gradient from inside that hook; a generation keeps keys and values of both passes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from functools import partial
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import DynamicCache, PreTrainedModel

from weft.lowrank.attach import module_at
from weft.lowrank.route import Route, current_route, routed
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
        self._handles: list[RemovableHandle] = []

    def terms(self, trunk: nn.Module, dtype: torch.dtype, *, trainable: bool) -> Mapping[str, Any]:
        return {
            module: Term(self.name, self.mixture, module) for module in self.mixture.modules_woven
        }

    def woven_into(self, trunk: nn.Module) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = list(_hooks(trunk, self))

    def taken_out(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

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
    """The trunk's layers, in order."""
    wanted = cast(PreTrainedModel, trunk).config.num_hidden_layers
    return next(
        module
        for module in trunk.modules()
        if isinstance(module, nn.ModuleList) and len(module) == wanted
    )


def _hooks(trunk: nn.Module, mix: Mix) -> Iterator[RemovableHandle]:
    # Closures, not methods: a copy of the trunk copies its hooks, and must not copy the mixture.
    name, mixture = mix.name, mix.mixture

    def begin(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        found = dict(current_calls() or {})
        manager = calling(found)
        # Entered in any case, so that `end` always has its own to leave.
        manager.__enter__()
        _open.set((*_open.get(), manager))
        route = current_route()
        if route is None or name not in route.experts:
            return
        call = found[name] = Call(
            _trace(route, mix.labels, kwargs),
            constant=_constant.get(),
            watched=current_trace() is not None,
        )
        if mixture.reads_pass is not None and call.constant is None:
            call.hidden = _pass(module, args, kwargs, name, mixture.reads_pass)
            mixture.begin(call)

    def end(module: nn.Module, args: Any, output: Any) -> None:
        *outer, manager = _open.get()
        _open.set(tuple(outer))
        manager.__exit__(None, None, None)

    yield trunk.register_forward_pre_hook(begin, with_kwargs=True)
    yield trunk.register_forward_hook(end, always_call=True)
    for at in mixture.finishing:
        yield module_at(trunk, at).register_forward_hook(_finish(name, mixture, at))

    def read(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        state = args[0] if args else kwargs["hidden_states"]
        call = (current_calls() or {}).get(name)
        if call is not None:
            call.hidden = state
            mixture.begin(call)

    layers = layers_of(trunk)
    if mixture.reads_layer is not None:
        yield layers[mixture.reads_layer].register_forward_pre_hook(read, with_kwargs=True)
    stops = {early(trunk), mixture.reads_pass and mixture.reads_pass.layers} - {None}
    for at in stops & {*range(len(layers))}:
        yield layers[at].register_forward_pre_hook(partial(_stop, at), with_kwargs=True)


class _Seen(Exception):  # noqa: N818 - ends a forward that has shown what was wanted
    def __init__(self, state: Tensor) -> None:
        super().__init__()
        self.state = state


def _stop(at: int, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
    """End a forward in front of layer `at`, if it was to go no further."""
    if _last.get() == at:
        raise _Seen(args[0] if args else kwargs["hidden_states"])


def early(trunk: nn.Module) -> int:
    """How many layers it takes until a token has seen its sequence: one, if there is one more to stop in front of."""
    return min(1, len(layers_of(trunk)) - 1)


def early_state(trunk: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    """What the bare base makes of its inputs in its first layer, (sequences, seq, hidden), and no more of the forward.

    Args:
        trunk: Has a mixture woven in.
        inputs: As the trunk takes them.
    """
    extra = {} if getattr(trunk.config, "use_cache", None) is None else {"use_cache": False}
    return _forward(trunk, (), {**inputs, **extra}, Pass(layers=early(trunk)), None)


def _finish(name: str, mixture: Mixture, at: str) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    def finish(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        call, route = (current_calls() or {}).get(name), current_route()
        # Another mixture's scaling pass runs inside this one's call, and its outputs are plain.
        if call is None or route is None or name not in route.experts:
            return output
        return mixture.finish(at, output, call)

    return finish


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


def _pass(trunk: nn.Module, args: Any, kwargs: Mapping[str, Any], name: str, what: Pass) -> Tensor:
    """The state that a mixture's separate pass ends with."""
    own = dict(kwargs)
    if own.get("past_key_values") is not None:
        caches = _caches.get()
        if caches is None:
            raise ValueError(
                "keys and values are cached outside of `caching()`: those of the separate pass would be lost"
            )
        config = cast(PreTrainedModel, trunk).config
        own["past_key_values"] = caches.setdefault(name, DynamicCache(config=config))
    return _forward(trunk, args, own, what, Route.everywhere(name) if what.value else None)


def _forward(
    trunk: nn.Module, args: Any, kwargs: Mapping[str, Any], what: Pass, route: Route | None
) -> Tensor:
    """The last state of as many layers as `what` runs, without gradient."""
    whole = what.layers is None or what.layers >= len(layers_of(trunk))
    with (
        torch.no_grad(),
        scoped(_constant, what.value),
        scoped(_last, None if whole else what.layers),
        routed(route),
    ):
        try:
            return trunk(*args, **kwargs).last_hidden_state
        except _Seen as seen:
            return seen.state

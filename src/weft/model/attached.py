"""Low-rank terms on a module of the user's own: any `torch.nn.Module` in, the same module out.

    y = W0 x + b + adapter(drop(x), W0)

Each targeted map stays the object that it is and gets a submodule, `adapter`; its own tensors keep their names, so a
checkpoint of the plain module still loads. Who reads a map's `weight` in place of calling it, as torch's attention and
its fast paths do, gets W0 plus the change.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from transformers.pytorch_utils import Conv1D

from weft.config import validate
from weft.lowrank.roles import ALL_LINEAR, matcher, roles_of
from weft.methods.adapters import adapters
from weft.methods.adapters.contract import Adapter, Spec
from weft.model.expert import check_rank
from weft.registry import unknown

AnyModule = TypeVar("AnyModule", bound=nn.Module)

_OWN = ("adapter", "adapter_shared")
"""Submodules of a map that belong to its term."""


class _Adapted(nn.Module):
    """A map with a term; `kind` is the class that it had."""

    kind: type[nn.Module]
    adapter: Adapter
    thawed: tuple[str, ...]
    """Of the first map: the module's parameters that could be trained before."""

    @property
    def frozen(self) -> Tensor:
        """W0, (out, in)."""
        raw = self._parameters["weight"]
        assert raw is not None
        return raw.T if issubclass(self.kind, Conv1D) else raw

    @property
    def weight(self) -> Tensor:
        """W0 plus the change, in the form that the map stores it in."""
        W0 = self.frozen
        found = W0 + self.adapter.delta(W0).to(W0.dtype)
        return found.T if issubclass(self.kind, Conv1D) else found

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        W0, own = self.frozen, self.adapter
        y = F.linear(x, W0, self._parameters["bias"])
        dropped = F.dropout(x, own.dropout) if self.training and own.dropout else x
        return y + own(dropped, W0).to(y.dtype)


class AdaptedLinear(_Adapted, nn.Linear):
    """A `torch.nn.Linear` with a term."""

    kind = nn.Linear


class AdaptedOutput(_Adapted, NonDynamicallyQuantizableLinear):
    """The output map of a `torch.nn.MultiheadAttention` with a term."""

    kind = NonDynamicallyQuantizableLinear


class AdaptedConv1D(_Adapted, Conv1D):
    """A `Conv1D` of transformers, which stores its weight as (in, out), with a term."""

    kind = Conv1D


_FORMS: dict[type[nn.Module], type[_Adapted]] = {
    own.kind: own for own in (AdaptedLinear, AdaptedOutput, AdaptedConv1D)
}


def attach(
    module: AnyModule,
    targets: Sequence[str] | str = ALL_LINEAR,
    adapter: str = "lora",
    *,
    seed: int = 0,
    **settings: Any,
) -> AnyModule:
    """Put trainable low-rank terms on linear maps of a module, and freeze all the rest; nothing is trained here.

    Most variants start at 0, so that the module answers as before (KaSA and a few others say in their pages where they
    start). Its trainable parameters are those of the terms: to
    train a part of the module as well, thaw it afterwards, `module.head.requires_grad_(True)`.

    Args:
        module: Any module with `torch.nn.Linear` (or transformers' `Conv1D`) inside; changed in place.
        targets: Names of maps or ends of names (`linear1`), `re:` and a regular expression for whole names, roles where
            the module's names tell them (`query`), or `all-linear`: every map.
        adapter: A variant (`weft list adapters`).
        seed: Decides every random start value.
        settings: The variant's own, e.g. `rank=16, alpha=32, dropout=0.1` (`weft show adapter NAME`).

    Returns:
        `module`.

    Raises:
        KeyError: If there is no such adapter.
        ValueError: If a target matches nothing, a setting is wrong, or the module has terms already.
    """
    if maps_of(module):
        raise ValueError("this module has low-rank terms already; detach them first")
    variant = adapters.load(adapter)
    spec: Spec = validate(variant.spec_type, settings, f"adapter {adapter}")
    if variant.prepare.__func__ is not Adapter.prepare.__func__:  # type: ignore[attr-defined]
        raise ValueError(
            f"adapter {adapter} starts from gradients of training rows, which are not known here; train it with "
            "weft.train, or take another"
        )
    chosen = _chosen(module, targets)
    weights = {name: _weight(own) for name, own in chosen.items()}
    for name, weight in weights.items() if variant.rank_bounded else ():
        check_rank(name or "the map", spec.rank, tuple(weight.shape))
    generator = torch.Generator().manual_seed(seed)
    shared = variant.share(weights, spec, generator)
    terms = {}
    for name, weight in weights.items():
        terms[name] = variant(weight, spec, generator, shared).to(
            weight.device, _wide(weight.dtype)
        )
    if shared is not None:
        first = next(iter(weights.values()))
        shared.to(first.device, _wide(first.dtype))
    thawed = tuple(name for name, value in module.named_parameters() if value.requires_grad)
    module.requires_grad_(False)
    for name, own in chosen.items():
        form = _FORMS[type(own)]
        own.add_module("adapter", terms[name])
        terms[name].train(own.training)
        own.__class__ = form
    first = next(iter(chosen.values()))
    assert isinstance(first, _Adapted)
    first.thawed = thawed
    if shared is not None:
        first.add_module("adapter_shared", shared)
    return module


def detach(module: AnyModule, *, merge: bool = False) -> AnyModule:
    """Take the terms away: the module is what it was, to its objects, and what could be trained can be again.

    Args:
        module: What `attach` returned, or a copy of it; changed in place.
        merge: Add every change to its weight first, so that the plain module answers as the adapted one did.

    Raises:
        ValueError: If it has no terms.
    """
    maps = _refused_without(module)
    thawed: tuple[str, ...] = ()
    for own in maps.values():
        if merge:
            with torch.no_grad():
                raw, changed = own._parameters["weight"], own.weight
                assert raw is not None
                raw.copy_(changed)
        for name in _OWN:
            own._modules.pop(name, None)
        thawed = vars(own).pop("thawed", thawed)
        own.__class__ = own.kind  # type: ignore[assignment] - what it was before
    for name in thawed:
        module.get_parameter(name).requires_grad_(True)
    return module


def adapter_state(module: nn.Module) -> dict[str, Tensor]:
    """The state of the terms alone, by the names that `module.state_dict()` has for them.

    Raises:
        ValueError: If it has no terms.
    """
    prefixes = _prefixes(module)
    return {name: value for name, value in module.state_dict().items() if name.startswith(prefixes)}


def load_adapter_state(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Take back what `adapter_state` gave, into a module with the same terms; nothing else is touched.

    Raises:
        ValueError: If names or shapes are not those of this module's terms; nothing is changed then.
    """
    own = adapter_state(module)
    odd = sorted(own.keys() ^ state.keys())
    if odd:
        raise ValueError(
            f"these are not the terms that are attached: {', '.join(odd[:3])} is on one side alone; attach with the "
            "same targets, adapter and settings first"
        )
    for name, value in own.items():
        if value.shape != state[name].shape:
            raise ValueError(
                f"{name}: expected shape {tuple(value.shape)}, got {tuple(state[name].shape)}; attach with the same "
                "settings first"
            )
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(state[name])


def maps_of(module: nn.Module) -> dict[str, _Adapted]:
    """The maps of a module that have a term, by name."""
    return {name: own for name, own in module.named_modules() if isinstance(own, _Adapted)}


def _chosen(module: nn.Module, targets: Sequence[str] | str) -> dict[str, nn.Module]:
    """The maps that targets mean, in the order of the modules."""
    maps = {name: own for name, own in module.named_modules() if type(own) in _FORMS}
    if not maps:
        raise ValueError(
            f"a {type(module).__name__} holds no torch.nn.Linear and no Conv1D of transformers, so there is nothing to "
            "put a low-rank term on"
        )
    wanted = [targets] if isinstance(targets, str) else list(targets)
    if not wanted:
        raise ValueError(f"no targets given; name maps, or {ALL_LINEAR}")
    found: set[str] = set()
    roles = roles_of(module)
    for target in wanted:
        matches = (lambda name: True) if target == ALL_LINEAR else matcher(target, roles)
        meant = {name for name in maps if matches(name)}
        if not meant:
            raise ValueError(unknown("target", target, {ALL_LINEAR, *roles, *filter(None, maps)}))
        found |= meant
    return {name: own for name, own in maps.items() if name in found}


def _weight(own: nn.Module) -> Tensor:
    """W0, (out, in), of a map without a term."""
    raw = own.get_parameter("weight").detach()
    return raw.T if isinstance(own, Conv1D) else raw


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _prefixes(module: nn.Module) -> tuple[str, ...]:
    return tuple(
        f"{name}.{own}." if name else f"{own}." for name in _refused_without(module) for own in _OWN
    )


def _refused_without(module: nn.Module) -> dict[str, _Adapted]:
    found = maps_of(module)
    if not found:
        raise ValueError("this module has no low-rank terms; attach some first")
    return found

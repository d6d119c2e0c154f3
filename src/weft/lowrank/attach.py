"""Wrap the linear maps of a trunk so that adapters can be woven in, and take the wrapping off again."""

import copy
from collections.abc import Iterable, Mapping
from typing import cast

from torch import nn

from weft.lowrank.linear import LowRankLinear
from weft.lowrank.pool import Pool, Term
from weft.lowrank.replaced import Replaced


def canonical(name: str) -> str:
    """A module's name as it was before anything was wrapped."""
    return ".".join(part for part in name.split(".") if part != "base")


def module_at(trunk: nn.Module, name: str) -> nn.Module:
    """The module called `name` before anything was wrapped, wrapped or not."""
    module = trunk
    for part in name.split("."):
        if isinstance(module, Replaced):
            module = module.base
        module = getattr(module, part)
    return module


def original(trunk: nn.Module, name: str) -> nn.Module:
    """The base's own module called `name`, whatever is wrapped around it."""
    return _plain(module_at(trunk, name))


def frozen_linear(trunk: nn.Module, name: str) -> nn.Linear:
    """The frozen map called `name`.

    Raises:
        TypeError: If that module is no linear map.
    """
    linear = original(trunk, name)
    if not isinstance(linear, nn.Linear):
        raise TypeError(f"{name} is a {type(linear).__name__}; adapters go on linear maps")
    return linear


def attach(trunk: nn.Module, expert: str, terms: Mapping[str, Term]) -> None:
    """Weave an expert's adapters into `trunk`, by module name; maps are wrapped where they are not yet."""
    for name in terms:
        frozen_linear(trunk, name)
    for name, term in terms.items():
        module = module_at(trunk, name)
        if not isinstance(module, LowRankLinear):
            # Outside of any private copies of the map, so that adapters add to whichever is routed.
            module = LowRankLinear(cast(nn.Linear, module))
            module.train(trunk.training)
            _put(trunk, name, module)
        module.pool.add(expert, term)


def replace(trunk: nn.Module, expert: str, copies: Mapping[str, nn.Module]) -> None:
    """Let an expert's private copies stand for the modules they are named after."""
    for name, twin in copies.items():
        module = module_at(trunk, name)
        woven = module if isinstance(module, LowRankLinear) else None
        inner = woven.base if woven else module
        if not isinstance(inner, Replaced):
            inner = Replaced(inner)
            inner.train(trunk.training)
            if woven:
                woven.base = cast(nn.Linear, inner)
            else:
                _put(trunk, name, inner)
        inner.add(expert, twin)


def detach(trunk: nn.Module, expert: str) -> None:
    """Take an expert out of `trunk`; the wrapping stays and passes the base through."""
    for module in trunk.modules():
        if isinstance(module, LowRankLinear):
            module.pool.remove(expert)
        elif isinstance(module, Replaced):
            module.remove(expert)


def unwrap(trunk: nn.Module) -> nn.Module:
    """`trunk` with every wrapping replaced by the base's own module, in place."""
    for name, module in reversed(list(trunk.named_modules())):
        if isinstance(module, LowRankLinear | Replaced):
            _put(trunk, canonical(name), _plain(module))
    return trunk


def plain_copy(trunk: nn.Module) -> nn.Module:
    """A copy of the base's own modules, names and weights; what is woven into `trunk` is not copied."""
    emptied: dict[int, object] = {}
    for module in trunk.modules():
        if isinstance(module, LowRankLinear):
            emptied[id(module.pool)] = Pool()
        elif isinstance(module, Replaced):
            emptied[id(module.copies)] = {}
    return unwrap(copy.deepcopy(trunk, emptied))


def force_path(trunk: nn.Module, path: str | None) -> None:
    """Make every pool compute heterogeneous batches by `path` (dense, grouped, segments); None: the constant."""
    for module in trunk.modules():
        if isinstance(module, LowRankLinear):
            module.pool.path = path


def wrapped(trunk: nn.Module) -> Iterable[tuple[str, LowRankLinear]]:
    """Every wrapped linear map by its canonical name."""
    return [
        (canonical(name), module)
        for name, module in trunk.named_modules()
        if isinstance(module, LowRankLinear)
    ]


def _plain(module: nn.Module) -> nn.Module:
    while isinstance(module, LowRankLinear | Replaced):
        module = module.base
    return module


def _put(trunk: nn.Module, name: str, module: nn.Module) -> None:
    parent_name, _, last = name.rpartition(".")
    parent = module_at(trunk, parent_name) if parent_name else trunk
    if isinstance(parent, Replaced):
        parent = parent.base
    setattr(parent, last, module)

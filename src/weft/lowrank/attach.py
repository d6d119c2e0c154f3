"""Give the maps and modules of a trunk places for what experts weave in, and find them by their own names."""

from collections.abc import Iterable
from typing import cast

from torch import nn

from weft.lowrank.linear import LowRankLinear
from weft.lowrank.replaced import Replaced
from weft.lowrank.woven import Woven


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
    module = module_at(trunk, name)
    while isinstance(module, LowRankLinear | Replaced):
        module = module.base
    return module


def frozen_linear(trunk: nn.Module, name: str) -> nn.Linear:
    """The frozen map called `name`.

    Raises:
        TypeError: If that module is no linear map.
    """
    linear = original(trunk, name)
    if not isinstance(linear, nn.Linear):
        raise TypeError(f"{name} is a {type(linear).__name__}; adapters go on linear maps")
    return linear


def attach(trunk: nn.Module, woven: Woven) -> None:
    """Make places in `trunk` for everything that `woven` adds or replaces, where there are none yet.

    A place holds nothing and passes the base through, and it is put in by one assignment: a forward under way in
    another thread computes the same with or without it.

    Raises:
        TypeError: If an adapter is for a module that is no linear map; nothing is changed then.
    """
    for name in woven.terms:
        frozen_linear(trunk, name)
    for name in woven.terms:
        module = module_at(trunk, name)
        if not isinstance(module, LowRankLinear):
            # Outside of any private copies of the map, so that adapters add to whichever is routed.
            _put(trunk, name, _in_mode(LowRankLinear(cast(nn.Linear, module), name), trunk))
    for name in woven.copies:
        module = module_at(trunk, name)
        map_ = module if isinstance(module, LowRankLinear) else None
        inner = map_.base if map_ else module
        if isinstance(inner, Replaced):
            continue
        place = _in_mode(Replaced(inner, name), trunk)
        if map_:
            map_.base = cast(nn.Linear, place)
        else:
            _put(trunk, name, place)


def wrapped(trunk: nn.Module) -> Iterable[tuple[str, LowRankLinear]]:
    """Every wrapped linear map by its canonical name."""
    return [
        (canonical(name), module)
        for name, module in trunk.named_modules()
        if isinstance(module, LowRankLinear)
    ]


def _in_mode(place: nn.Module, trunk: nn.Module) -> nn.Module:
    """`place` in the trunk's mode; what it wraps stays in its own."""
    place.training = trunk.training
    return place


def _put(trunk: nn.Module, name: str, module: nn.Module) -> None:
    parent_name, _, last = name.rpartition(".")
    parent = module_at(trunk, parent_name) if parent_name else trunk
    if isinstance(parent, Replaced):
        parent = parent.base
    setattr(parent, last, module)

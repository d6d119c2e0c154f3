"""No merge holds dense changes of more than one map; those that work on factors hold none."""

import weakref
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from weft.lowrank.product import Pair
from weft.methods.merges import merges
from weft.methods.merges.contract import Entrywise

SHAPES = {"query": (40, 24), "value": (44, 28), "output": (52, 16)}
"""Out and in of every map: their products, and the sizes of factors, all differ."""
RANK = 2


def expert(seed: int) -> dict[str, Pair]:
    draw = torch.Generator().manual_seed(seed)
    return {
        name: (torch.randn(RANK, inner, generator=draw), torch.randn(out, RANK, generator=draw))
        for name, (out, inner) in SHAPES.items()
    }


class Dense(TorchDispatchMode):
    """The most maps of which something of the size out x in was alive at the same time."""

    def __init__(self) -> None:
        super().__init__()
        self.most = 0
        self._made: dict[str, list[weakref.ref[Tensor]]] = {name: [] for name in SHAPES}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        for value in found if isinstance(found, tuple | list) else (found,):
            if isinstance(value, Tensor):
                for name, (out, inner) in SHAPES.items():
                    if value.numel() and value.numel() % (out * inner) == 0:
                        self._made[name].append(weakref.ref(value))
        alive = sum(any(own() is not None for own in made) for made in self._made.values())
        self.most = max(self.most, alive)
        return found


def test_what_is_dense_is_seen() -> None:
    with Dense() as seen:
        kept = [B @ A for A, B in expert(0).values()]
    assert seen.most == len(kept)


@pytest.mark.parametrize("name", merges.names())
def test_at_most_one_map_is_dense_at_a_time(name: str) -> None:
    own = [expert(seed) for seed in range(3)]
    merge = merges.load(name)()
    with Dense() as seen:
        merge.merge(own, [0.5, 0.3, 0.2])
    assert seen.most <= (1 if isinstance(merge, Entrywise) else 0)


@pytest.mark.parametrize("name", merges.names())
def test_the_stated_error_needs_nothing_dense(name: str) -> None:
    found = merges.load(name)().merge([expert(seed) for seed in range(3)], [0.5, 0.3, 0.2])
    with Dense() as seen:
        assert found.error >= 0
    assert seen.most == 0

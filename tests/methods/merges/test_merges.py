"""What every merge promises, and what concatenation gives."""

import inspect
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from weft.lowrank.product import Pair, squared_norm, stacked
from weft.methods.merges import merges
from weft.methods.merges.contract import Factors, Merge

NAMES = tuple(merges.names())


def pair(rank: int, seed: int, out: int = 6, inner: int = 5) -> Pair:
    draw = torch.Generator().manual_seed(seed)
    A = torch.randn(rank, inner, generator=draw, dtype=torch.float64)
    return A, torch.randn(out, rank, generator=draw, dtype=torch.float64)


def experts() -> list[Factors]:
    return [
        {"query": pair(2, 0), "value": pair(2, 1)},
        {"query": pair(3, 2)},
        {"value": pair(1, 3), "output": pair(2, 4)},
    ]


def deltas(found: Factors) -> dict[str, Tensor]:
    return {name: B @ A for name, (A, B) in found.items()}


WEIGHTS = [0.5, -1.0, 2.0]


class Half(Merge):
    """Loses half of everything."""

    def pair(
        self, pairs: Sequence[Pair], weights: Sequence[float], rank: int, generator: torch.Generator
    ) -> Pair:
        A, B = stacked(pairs, weights)
        return A, 0.5 * B

    def default_rank(self, ranks: Sequence[int]) -> int:
        return sum(ranks)


@pytest.mark.parametrize("name", NAMES)
def test_its_page_has_an_equation_and_a_source_and_its_file_is_short(name: str) -> None:
    kind = merges.load(name)
    page = inspect.getmodule(kind).__doc__ or ""
    assert re.search(r"^    .*=", page, re.MULTILINE)
    assert re.search(r"arXiv:\d{4}\.\d{4,5}", page)
    assert len(Path(inspect.getfile(kind)).read_text("utf-8").splitlines()) <= 150


@pytest.mark.parametrize("name", NAMES)
def test_one_expert_with_weight_one_is_itself(name: str) -> None:
    own = experts()[0]
    found = merges.load(name)().merge([own], [1.0])
    for module, delta in deltas(own).items():
        torch.testing.assert_close(deltas(found.factors)[module], delta)
    assert found.error < 1e-7


@pytest.mark.parametrize("name", NAMES)
def test_the_error_is_the_distance_from_the_exact_sum(name: str) -> None:
    found = merges.load(name)().merge(experts(), WEIGHTS)
    missed = whole = 0.0
    for module, delta in deltas(found.factors).items():
        exact = sum(
            (w * (own[module][1] @ own[module][0]))
            for own, w in zip(experts(), WEIGHTS, strict=True)
            if module in own
        )
        missed += (delta - exact).square().sum().item()
        whole += exact.square().sum().item()
    assert found.error == pytest.approx((missed / whole) ** 0.5, abs=1e-7)


def test_concatenation_is_the_sum_whatever_maps_and_ranks() -> None:
    found = merges.load("cat")().merge(experts(), WEIGHTS)
    first, second, third = (deltas(own) for own in experts())
    wanted = {
        "query": 0.5 * first["query"] - second["query"],
        "value": 0.5 * first["value"] + 2 * third["value"],
        "output": 2 * third["output"],
    }
    assert deltas(found.factors).keys() == wanted.keys()
    for module, delta in wanted.items():
        torch.testing.assert_close(deltas(found.factors)[module], delta)
    assert found.error < 1e-7
    turned = merges.load("cat")().merge(experts()[::-1], WEIGHTS[::-1])
    for module, delta in wanted.items():
        torch.testing.assert_close(deltas(turned.factors)[module], delta)


def test_a_merge_that_loses_something_says_how_much() -> None:
    assert Half().merge(experts(), WEIGHTS).error == pytest.approx(0.5)
    nothing = {"query": (torch.zeros(1, 5), torch.zeros(6, 1))}
    assert Half().merge([nothing], [1.0]).error == 0.0


def test_a_norm_needs_no_dense_product() -> None:
    A, B = pair(3, 7)
    assert squared_norm(A, B) == pytest.approx((B @ A).square().sum().item())


def test_what_cannot_be_merged_is_refused() -> None:
    cat = merges.load("cat")()
    with pytest.raises(ValueError, match="0 experts and 0 weights"):
        cat.merge([], [])
    with pytest.raises(ValueError, match="3 experts and 1 weights"):
        cat.merge(experts(), [1.0])
    other = {"query": pair(2, 0, inner=7)}
    with pytest.raises(ValueError, match="query is 6 x 5 and 6 x 7 in different experts"):
        cat.merge([experts()[0], other], [1.0, 1.0])

"""What every merge promises, whichever it is; each law holds for all that are registered."""

import inspect
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from tests.methods.merges.drawn import INNER, OUT, dense, exact, expert
from weft.lowrank.product import Pair
from weft.methods.merges import merges
from weft.methods.merges.contract import Factors, Merge

NAMES = tuple(merges.names())
WEIGHTS = [0.5, -1.0, 2.0]


def unequal() -> list[dict[str, Pair]]:
    """Experts of several ranks; not all have an adapter at every map."""
    return [
        expert(2, 0, "query", "value"),
        expert(3, 1, "query"),
        expert(2, 2, "value", "output"),
    ]


def equal() -> list[dict[str, Pair]]:
    """The same with one rank."""
    return [
        expert(2, 0, "query", "value"),
        expert(2, 1, "query"),
        expert(2, 2, "value", "output"),
    ]


def experts(merge: Merge) -> list[dict[str, Pair]]:
    return equal() if merge.one_rank else unequal()


def whole(name: str) -> Merge:
    """A merge that leaves no entry out."""
    kind = merges.load(name)
    values: dict[str, Any] = (
        {"density": 1.0} if "density" in kind.settings_type.model_fields else {}
    )
    return kind(kind.settings_type(**values))


@pytest.mark.parametrize("name", NAMES)
def test_its_page_has_an_equation_a_source_and_what_it_keeps_and_loses(name: str) -> None:
    kind = merges.load(name)
    page = inspect.getmodule(kind).__doc__ or ""
    assert re.search(r"^    .*=", page, re.MULTILINE)
    assert re.search(r"arXiv:\d{4}\.\d{4,5}|doi:10\.", page)
    for sentence in (kind.keeps, kind.loses):
        assert re.fullmatch(r"[A-Z][^\n]+\.", sentence)
    assert len(Path(inspect.getfile(kind)).read_text("utf-8").splitlines()) <= 150


@pytest.mark.parametrize("name", NAMES)
def test_one_expert_with_weight_one_is_itself(name: str) -> None:
    merge, own = merges.load(name)(), expert(3, 0, "query", "value")
    found = merge.merge([own], [1.0])
    if merge.alone:
        assert found.error > 1e-3
        return
    for module, delta in dense(own).items():
        assert_close(dense(found.factors)[module], delta)
    assert found.error == 0.0


@pytest.mark.parametrize("name", sorted({*NAMES} - {"iso_c", "lorahub"}))
def test_with_every_entry_kept_one_expert_is_itself_times_its_weight(name: str) -> None:
    own = expert(3, 0, "query")
    found = whole(name).merge([own], [-0.5])
    assert_close(dense(found.factors)["query"], -0.5 * dense(own)["query"])


@pytest.mark.parametrize("name", NAMES)
def test_the_error_is_the_distance_from_the_exact_sum_in_dense_double_precision(name: str) -> None:
    merge = merges.load(name)()
    given = experts(merge)
    found = merge.merge(given, WEIGHTS)
    squared = total = 0.0
    for module, delta in dense(found.factors).items():
        wanted = exact(given, merge.coefficients(WEIGHTS), module)
        own = (delta - wanted).square().sum().item(), wanted.square().sum().item()
        assert found.missed[module].squared == pytest.approx(own[0], rel=1e-6, abs=1e-10)
        assert found.missed[module].whole == pytest.approx(own[1])
        squared, total = squared + own[0], total + own[1]
    assert found.missed.keys() == {"query", "value", "output"}
    assert found.error == pytest.approx(math.sqrt(squared / total), abs=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_experts_does_not_matter(name: str) -> None:
    merge = merges.load(name)()
    given = experts(merge)
    found = dense(merge.merge(given, WEIGHTS, seed=3).factors)
    turned = dense(merge.merge(given[::-1], WEIGHTS[::-1], seed=3).factors)
    for module, delta in found.items():
        assert_close(turned[module], delta)


@pytest.mark.parametrize("name", NAMES)
def test_a_map_does_not_change_with_what_the_experts_do_elsewhere(name: str) -> None:
    merge = merges.load(name)()
    given = experts(merge)
    alone: list[Factors] = [{k: v for k, v in own.items() if k == "query"} for own in given]
    found = merge.merge(given, WEIGHTS, seed=3).factors["query"]
    assert_close(merge.merge(alone, WEIGHTS, seed=3).factors["query"], found, rtol=0, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_map_and_a_weight_of_zero_are_no_change(name: str) -> None:
    merge = merges.load(name)()
    given = experts(merge)
    found = dense(merge.merge(given, [*WEIGHTS[:2], 0.0], seed=3).factors)
    without = dense(merge.merge(given[:2], WEIGHTS[:2], seed=3).factors)
    assert found.keys() == without.keys() == {"query", "value"}
    for module, delta in found.items():
        assert_close(without[module], delta, rtol=0, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_a_method_that_says_so_is_linear_in_the_weights(name: str) -> None:
    merge = merges.load(name)()
    given = experts(merge)
    more = [1.5, 0.25, 1.0]

    def change(weights: list[float]) -> dict[str, torch.Tensor]:
        rank = min(INNER, OUT) if merge.linear else None
        return dense(merge.merge(given, weights, rank=rank, seed=3).factors)

    first, second = change(WEIGHTS), change(more)
    both = change([2 * a + b for a, b in zip(WEIGHTS, more, strict=True)])
    off = max((2 * first[m] + second[m] - both[m]).abs().max().item() for m in both)
    assert (off < 1e-10) == merge.linear


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rank", [1, 3])
def test_no_map_has_more_ranks_than_asked_for(name: str, rank: int) -> None:
    merge = merges.load(name)()
    found = merge.merge(experts(merge), WEIGHTS, rank=rank)
    for module, (A, B) in found.factors.items():
        assert A.shape == (B.shape[1], INNER)
        assert B.shape[0] == OUT
        assert 1 <= len(A) <= rank
        assert found.clamped.get(module, rank) == len(A)


@pytest.mark.parametrize("name", NAMES)
def test_the_default_rank_is_the_largest_of_the_experts_or_all_that_there_is(name: str) -> None:
    merge = merges.load(name)()
    found = merge.merge(experts(merge), WEIGHTS)
    largest = 2 if merge.one_rank else 3
    assert len(found.factors["query"][0]) == (5 if merge.default_rank([2, 3]) == 5 else largest)
    assert found.clamped == {}


@pytest.mark.parametrize("name", NAMES)
def test_a_result_has_the_experts_type_and_the_seed_alone_changes_it(name: str) -> None:
    merge = merges.load(name)()
    half: list[Factors] = [
        {module: (A.bfloat16(), B.bfloat16()) for module, (A, B) in own.items()}
        for own in experts(merge)
    ]
    once, again, other = (merge.merge(half, WEIGHTS, seed=seed).factors for seed in (0, 0, 1))
    for module, (A, B) in once.items():
        assert A.dtype == B.dtype == torch.bfloat16
        assert A.is_contiguous()
        assert B.is_contiguous()
        assert_close(again[module], (A, B), rtol=0, atol=0)
        if not merge.draws:
            assert_close(other[module], (A, B), rtol=0, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_experts_are_left_as_they_were(name: str) -> None:
    merge = merges.load(name)()
    given, before = experts(merge), experts(merge)
    merge.merge(given, WEIGHTS)
    assert_close(given, before, rtol=0, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_changes_of_nothing_merge_to_nothing(name: str) -> None:
    A = torch.randn(2, INNER, generator=torch.Generator().manual_seed(0))
    nothing = {"query": (A, torch.zeros(OUT, 2))}
    found = merges.load(name)().merge([nothing, nothing], [1.0, 0.5])
    assert_close(dense(found.factors)["query"], torch.zeros(OUT, INNER, dtype=torch.float64))
    assert found.error == 0.0


@pytest.mark.parametrize("name", NAMES)
def test_experts_of_different_ranks_are_refused_where_they_cannot_be_merged(name: str) -> None:
    merge = merges.load(name)()
    if merge.one_rank:
        with pytest.raises(ValueError, match=r"experts of ranks 2, 3 have no sum of factors"):
            merge.merge(unequal(), WEIGHTS)
    else:
        assert merge.merge(unequal(), WEIGHTS).factors.keys() == {"query", "value", "output"}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("density", [0.0, -0.1, 1.01, math.nan])
def test_a_density_outside_of_zero_to_one_is_refused(name: str, density: float) -> None:
    fields = merges.load(name).settings_type
    if "density" in fields.model_fields:
        with pytest.raises(ValueError, match="density"):
            fields(**{"density": density})


def test_concatenation_keeps_the_factors_and_all_ranks() -> None:
    given = unequal()
    found = merges.load("cat")().merge(given, WEIGHTS)
    for module in ("query", "value", "output"):
        assert_close(dense(found.factors)[module], exact(given, WEIGHTS, module))
    A, B = found.factors["query"]
    assert_close(A, torch.cat([given[0]["query"][0], given[1]["query"][0]]))
    assert_close(B, torch.cat([0.5 * given[0]["query"][1], -given[1]["query"][1]], dim=1))


def test_maps_of_different_shapes_are_refused() -> None:
    other = {"query": (torch.zeros(2, 5), torch.zeros(OUT, 2))}
    with pytest.raises(ValueError, match="query is 9 x 5 and 9 x 7 in different experts"):
        merges.load("cat")().merge([expert(2, 0, "query"), other], [1.0, 1.0])

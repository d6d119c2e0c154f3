"""What every merge does before and after the method: refusals, ranks, types, and what was missed."""

import math

import pytest
import torch

from weft.lowrank.product import row_squares
from weft.methods.merges.cat import Cat
from weft.methods.merges.contract import Factors, Missed

INNER, OUT = 5, 6


def expert(rank: int, seed: int, *modules: str) -> Factors:
    draw = torch.Generator().manual_seed(seed)

    def values(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draw, dtype=torch.float64)

    return {module: (values(rank, INNER), values(OUT, rank)) for module in modules}


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ([1.0], "2 experts and 1 weights: give at least one expert, and a weight each"),
        ([1.0, math.nan], "weights 1, nan: every weight is a finite number"),
        ([-math.inf, 1.0], "weights -inf, 1: every weight is a finite number"),
        ([0.0, -0.0], "weights 0, -0: nothing would be left; give at least one that is not 0"),
    ],
)
def test_weights_that_mean_nothing_are_refused(weights: list[float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Cat().merge([expert(2, 0, "query"), expert(2, 1, "query")], weights)


def test_factors_that_are_not_finite_are_refused() -> None:
    A, B = expert(2, 1, "value")["value"]
    broken = {"value": (A, B * math.nan)}
    with pytest.raises(ValueError, match="value has factors that are not finite"):
        Cat().merge([expert(2, 0, "query", "value"), broken], [1.0, 1.0])


def test_a_rank_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="rank 0: a merged expert has at least rank 1"):
        Cat().merge([expert(2, 0, "query")], [1.0], rank=0)


def test_a_lower_rank_is_the_nearest_change_of_that_rank() -> None:
    experts = [expert(2, 0, "query"), expert(2, 1, "query")]
    found = Cat().merge(experts, [1.0, 0.5], rank=3)
    A, B = found.factors["query"]
    assert A.shape == (3, INNER)
    exact = sum(
        weight * own["query"][1] @ own["query"][0]
        for weight, own in zip([1.0, 0.5], experts, strict=True)
    )
    U, S, Vh = torch.linalg.svd(exact)
    torch.testing.assert_close(B @ A, U[:, :3] * S[:3] @ Vh[:3])
    assert found.error == pytest.approx((S[3:].square().sum() / S.square().sum()).sqrt().item())
    assert found.clamped == {}


def test_a_rank_that_a_map_cannot_have_is_clamped_and_said() -> None:
    experts = [expert(2, 0, "query", "value"), expert(3, 1, "query")]
    found = Cat().merge(experts, [1.0, 1.0], rank=4)
    assert {name: len(A) for name, (A, _) in found.factors.items()} == {"query": 4, "value": 2}
    assert found.clamped == {"value": 2}
    assert Cat().merge(experts, [1.0, 1.0]).clamped == {}


def test_the_result_has_the_type_of_the_first_expert_and_its_error_counts_the_rounding() -> None:
    half = {name: (A.half(), B.half()) for name, (A, B) in expert(2, 0, "query").items()}
    found = Cat().merge([half, expert(2, 1, "query", "value")], [1.0, 1.0])
    assert [A.dtype for A, _ in found.factors.values()] == [torch.float16, torch.float64]
    assert 1e-5 < found.missed["query"].error < 1e-3
    assert found.missed["value"].error == 0.0


def test_errors_are_stated_by_role_and_add_up() -> None:
    roles = {"query": ("self.query",), "value": ("self.value",)}
    names = ["layer.0.self.query", "layer.1.self.query", "layer.0.self.value", "pooler"]
    experts = [expert(2, 0, *names), expert(2, 1, *names[:3])]
    found = Cat().merge(experts, [1.0, -2.0], rank=2)
    by_role = found.errors(roles)
    assert by_role.keys() == {"query", "value", "pooler"}
    both = found.missed[names[0]] + found.missed[names[1]]
    assert by_role["query"] == pytest.approx(math.sqrt(both.squared / both.whole))
    assert by_role["query"] > 0.1
    assert by_role["value"] == found.missed[names[2]].error
    assert by_role["pooler"] == 0.0
    whole = sum(missed.whole for missed in found.missed.values())
    squared = sum(missed.squared for missed in found.missed.values())
    assert found.error == pytest.approx(math.sqrt(squared / whole))


def test_changes_that_cancel_leave_an_exact_nothing() -> None:
    own = expert(2, 0, "query")
    found = Cat().merge([own, own], [0.3, -0.3])
    assert row_squares(*found.factors["query"]).sum() < 1e-28
    assert found.missed["query"] == Missed(0.0, 0.0)
    assert found.error == 0.0
    assert Missed(1.0, 0.0).error == math.inf

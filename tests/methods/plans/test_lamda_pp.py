"""LaMDA++'s ranks: by the energy of singular values in double precision, for the same sum."""

import pytest
import torch
from torch import Tensor

from tests.methods.adapters.starts import draw
from weft.methods.plans.lamda_pp import LaMDAPlusPlus, LaMDAPlusPlusSettings, energy

RANK = 4


def with_spectrum(values: Tensor, seed: int) -> Tensor:
    """A map of these singular values."""
    size = len(values)
    left, _ = torch.linalg.qr(draw(size + 5, size, seed=seed))
    right, _ = torch.linalg.qr(draw(size, size, seed=seed + 50))
    return left @ torch.diag(values) @ right.T


def falling(rate: float, seed: int = 0) -> Tensor:
    return with_spectrum(rate ** torch.arange(16, dtype=torch.float64), seed)


def plan(weights: dict[str, Tensor], rank: int = RANK, share: float = 0.25) -> dict[str, int]:
    found = LaMDAPlusPlus(LaMDAPlusPlusSettings(share=share)).plan(
        weights, dict.fromkeys(weights, rank)
    )
    return {name: own for name, own in found.items() if own is not None}


def test_the_energy_is_the_share_of_the_leading_squares() -> None:
    values = torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64)
    weight = with_spectrum(values, seed=1)
    assert energy(weight, 1) == pytest.approx(9 / 14, rel=1e-12)
    assert energy(weight, 2) == pytest.approx(13 / 14, rel=1e-12)
    # Whatever the size of the weight.
    assert energy(17 * weight, 2) == pytest.approx(13 / 14, rel=1e-12)


def test_flat_spectra_get_twice_the_rank_and_steep_ones_half() -> None:
    rates = {"a": 0.9, "b": 0.5, "c": 0.99, "d": 0.7, "e": 0.6, "f": 0.95, "g": 0.4, "h": 0.8}
    weights = {name: falling(rate, at) for at, (name, rate) in enumerate(rates.items())}
    found = plan(weights)
    assert list(found) == list(weights)
    assert found == {"a": 4, "b": 2, "c": 8, "d": 2, "e": 2, "f": 8, "g": 2, "h": 4}
    assert sum(found.values()) == RANK * len(rates)


@pytest.mark.parametrize("rank", [2, 3, 5, 8, 15])
@pytest.mark.parametrize("share", [0.1, 0.25, 1 / 3])
@pytest.mark.parametrize("maps", [1, 2, 4, 7, 12])
def test_the_sum_is_never_passed_and_no_map_has_more_than_its_side(
    rank: int, share: float, maps: int
) -> None:
    weights = {str(at): draw(20, 16, seed=at) for at in range(maps)}
    found = plan(weights, rank, share)
    assert sum(found.values()) <= rank * maps
    assert min(found.values()) >= 1
    assert max(found.values()) <= 16
    doubled = int(share * maps)
    assert sum(own > rank for own in found.values()) == doubled
    assert sum(own < rank for own in found.values()) == 2 * doubled


def test_the_base_alone_decides() -> None:
    weights = {str(at): draw(20, 16, seed=at) for at in range(8)}
    turned = dict(reversed(weights.items()))
    assert plan(turned) == plan(weights)
    assert plan({name: w.float() for name, w in weights.items()}) == plan(weights)
    assert plan({name: w.T for name, w in weights.items()}) == plan(weights)


def test_what_is_only_counted_keeps_its_rank() -> None:
    with torch.device("meta"):
        weights = {str(at): torch.empty(20, 16) for at in range(8)}
    assert plan(weights) == dict.fromkeys(weights, RANK)


def test_ranks_that_it_cannot_share_out_are_refused() -> None:
    weights = {"a": draw(8, 8), "b": draw(8, 8, seed=1)}
    with pytest.raises(ValueError, match=r"^ranks: the plan lamda_pp shares out the ranks itself"):
        LaMDAPlusPlus().plan(weights, {"a": 4, "b": 2})
    with pytest.raises(ValueError, match="a rank of 1 cannot be halved; use 2 or more"):
        LaMDAPlusPlus().plan(weights, {"a": 1, "b": 1})

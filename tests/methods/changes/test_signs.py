"""Elected signs against the formula written out over a stack of matrices."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from weft.methods.changes.signs import ElectionSettings, elected

WEIGHTS = [0.5, -1.0, 2.0, 0.25]


def stacked(matrices: Tensor, weights: list[float], settings: ElectionSettings) -> Tensor:
    """The mean of those that agree, all at once."""
    w = torch.tensor(weights, dtype=matrices.dtype)[:, None, None]
    asked = matrices if settings.elect == "before" else w * matrices
    votes = asked if settings.majority == "total" else asked.sign()
    agree = asked.sign() == torch.where(votes.sum(0) >= 0, 1, -1)
    parts = agree.to(w.dtype) if settings.divide == "count" else w * agree
    divisor = parts.sum(0)
    return (w * matrices * agree).sum(0) / torch.where(divisor == 0, 1.0, divisor)


@pytest.mark.parametrize("elect", ["before", "after"])
@pytest.mark.parametrize("majority", ["total", "frequency"])
@pytest.mark.parametrize("divide", ["count", "weights"])
def test_it_is_the_formula(elect: Any, majority: Any, divide: Any) -> None:
    settings = ElectionSettings(elect=elect, majority=majority, divide=divide)
    draw = torch.Generator().manual_seed(0)
    given = torch.randn(4, 6, 5, generator=draw, dtype=torch.float64)
    given[torch.rand(given.shape, generator=draw) < 0.4] = 0.0
    found = elected(zip(given, WEIGHTS, strict=True), settings)
    assert_close(found, stacked(given, WEIGHTS, settings))


def test_values_and_counts_elect_differently() -> None:
    given = [(torch.tensor([value]), 1.0) for value in (3.0, -1.0, -1.0)]
    assert elected(given, ElectionSettings()).item() == 3.0
    assert elected(given, ElectionSettings(majority="frequency")).item() == -1.0


def test_a_negative_weight_turns_a_vote_only_after_weighting() -> None:
    given = [(torch.tensor([3.0]), -1.0), (torch.tensor([2.0]), 1.0)]
    assert elected(given, ElectionSettings()).item() == pytest.approx((-3 + 2) / 2)
    assert elected(given, ElectionSettings(elect="after")).item() == -3.0


def test_a_tie_is_positive_and_nothing_stays_nothing() -> None:
    given = [(torch.tensor([2.0, 0.0]), 1.0), (torch.tensor([-2.0, 0.0]), 1.0)]
    assert elected(given, ElectionSettings()).tolist() == [2.0, 0.0]


def test_what_divides() -> None:
    given = [(torch.tensor([2.0]), 0.5), (torch.tensor([4.0]), 1.5)]
    assert elected(given, ElectionSettings()).item() == pytest.approx(7 / 2)
    assert elected(given, ElectionSettings(divide="weights")).item() == pytest.approx(7 / 2.0)
    given = [(torch.tensor([2.0]), 0.5), (torch.tensor([4.0]), 0.5)]
    assert elected(given, ElectionSettings()).item() == pytest.approx(1.5)
    assert elected(given, ElectionSettings(divide="weights")).item() == pytest.approx(3.0)

"""Which entries stay: by size, in the middle, by chance."""

import pytest
import torch
from torch.testing import assert_close

from weft.methods.changes.sparse import between, dropped, largest, ranked, sampled

DRAWS = 1000


def matrix(rows: int = 8, columns: int = 10) -> torch.Tensor:
    draw = torch.Generator().manual_seed(0)
    return torch.randn(rows, columns, generator=draw, dtype=torch.float64)


@pytest.mark.parametrize("density", [0.05, 0.2, 0.29, 0.5, 0.99])
def test_the_largest_entries_stay_as_they_are(density: float) -> None:
    given = matrix()
    places = given.abs().flatten().argsort(descending=True)[: int(density * given.numel())]
    wanted = torch.zeros_like(given).flatten()
    wanted[places] = given.flatten()[places]
    assert_close(largest(given, density), wanted.view_as(given), rtol=0, atol=0)


def test_all_or_nothing() -> None:
    given = matrix()
    assert largest(given, 1.0) is given
    assert not largest(given, 0.001).any()
    assert not largest(torch.zeros(3, 3), 0.5).any()


def test_entries_as_large_as_the_last_that_stays_do_too() -> None:
    given = torch.tensor([[1.0, -1.0, 1.0, 0.5]])
    assert_close(largest(given, 0.5), torch.tensor([[1.0, -1.0, 1.0, 0.0]]))


def test_the_middle_is_without_the_largest_and_the_smallest() -> None:
    given = torch.arange(1.0, 11.0)[:, None]
    assert between(given, 0.5, 0.2).flatten().tolist() == [0, 0, 0, 4, 5, 6, 7, 8, 0, 0]
    # No room for two above where nine stay.
    assert between(given, 0.9, 0.2).flatten().tolist() == [*range(1, 10), 0]


def test_a_random_share_stays_and_is_right_on_average() -> None:
    """Within three standard errors of a thousand draws, at nearly every entry."""
    given, density = matrix(), 0.3
    draw = torch.Generator().manual_seed(1)
    found = torch.stack([dropped(given, density, draw) for _ in range(DRAWS)])
    kept = found != 0
    assert_close(found[kept], (given / density).expand_as(found)[kept])
    assert kept.double().mean().item() == pytest.approx(density, abs=0.01)
    error = given.abs() * ((1 - density) / density / DRAWS) ** 0.5
    within = (found.mean(dim=0) - given).abs() <= 3 * error
    assert within.double().mean() >= 0.97
    assert dropped(given, 1.0, draw) is given


def test_each_entry_has_its_own_chance() -> None:
    given = torch.full((1, 2), 6.0)
    draw = torch.Generator().manual_seed(1)
    chances = torch.tensor([[0.25, 1.0]])
    found = torch.cat([sampled(given, chances, draw) for _ in range(DRAWS)])
    assert set(found[:, 0].tolist()) == {0.0, 24.0}
    assert set(found[:, 1].tolist()) == {6.0}
    assert found[:, 0].mean().item() == pytest.approx(6.0, abs=3 * 6 * (3 / DRAWS) ** 0.5)


def test_places_by_size_are_within_a_row() -> None:
    found = ranked(torch.tensor([[3.0, -1.0, 2.0], [0.1, 0.2, -0.3]]))
    assert found.tolist() == [[1.0, 0.0, 0.5], [0.0, 0.5, 1.0]]
    assert ranked(torch.tensor([[5.0]])).tolist() == [[1.0]]

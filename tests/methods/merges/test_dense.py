"""Merges entry by entry against their equations, written out over dense changes in double precision."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tests.methods.merges.drawn import INNER, OUT, dense, exact, expert, nearest
from weft.methods.merges.breadcrumbs import Breadcrumbs, BreadcrumbsSettings
from weft.methods.merges.contract import Merge
from weft.methods.merges.dare import Dare, DareSettings
from weft.methods.merges.della import Della, DellaSettings
from weft.methods.merges.magnitude_prune import MagnitudePrune
from weft.methods.merges.ties import Ties, TiesSettings

WEIGHTS = [0.5, -1.0, 2.0]
EXPERTS = [expert(2, 0, "query"), expert(3, 1, "query"), expert(2, 2, "query")]
FULL = min(INNER, OUT)
DRAWS = 1000


def merged(merge: Merge, rank: int | None = None, seed: int = 0) -> Tensor:
    return dense(merge.merge(EXPERTS, WEIGHTS, rank=rank, seed=seed).factors)["query"]


def top(matrix: Tensor, density: float, after: float = 0.0) -> Tensor:
    """The largest entries but for those `after`, by sorting."""
    order = matrix.abs().flatten().argsort(descending=True)
    skipped = int(after * matrix.numel())
    kept = torch.zeros(matrix.numel(), dtype=torch.bool)
    kept[order[skipped : skipped + int(density * matrix.numel())]] = True
    return matrix * kept.view_as(matrix)


def test_ties_trims_elects_and_averages() -> None:
    trimmed = [top(dense(own)["query"], 0.2) for own in EXPERTS]
    elected = torch.where(sum(trimmed) >= 0, 1, -1)
    agree = [matrix.sign() == elected for matrix in trimmed]
    total = sum(w * m * a for w, m, a in zip(WEIGHTS, trimmed, agree, strict=True))
    wanted = total / sum(a.double() for a in agree).clamp(min=1)
    assert_close(merged(Ties(), FULL), wanted)
    assert_close(merged(Ties()), nearest(wanted, 3))


def test_election_after_weighting_is_another_result() -> None:
    weighted = [w * top(dense(own)["query"], 0.5) for w, own in zip(WEIGHTS, EXPERTS, strict=True)]
    elected = torch.where(sum(weighted) >= 0, 1, -1)
    agree = [matrix.sign() == elected for matrix in weighted]
    divisor = sum(w * a for w, a in zip(WEIGHTS, agree, strict=True))
    total = sum(m * a for m, a in zip(weighted, agree, strict=True))
    wanted = total / torch.where(divisor == 0, 1.0, divisor)
    settings = TiesSettings(density=0.5, elect="after", divide="weights")
    assert_close(merged(Ties(settings), FULL), wanted)
    assert not torch.allclose(merged(Ties(TiesSettings(density=0.5)), FULL), wanted)


def test_ties_of_hardly_anything_is_nothing() -> None:
    assert not merged(Ties(TiesSettings(density=0.01))).any()


def test_factors_depend_on_how_a_change_was_factored_and_changes_do_not() -> None:
    """The reason why changes are the default: the same expert with all its signs turned in both factors."""
    turned = {"query": (-EXPERTS[1]["query"][0], -EXPERTS[1]["query"][1])}
    same, ranks = [expert(2, 0, "query"), expert(2, 2, "query")], [0.5, 0.5]
    flipped = {"query": (-same[1]["query"][0], -same[1]["query"][1])}
    assert_close(dense(turned), dense(EXPERTS[1]))
    deltas, factors = TiesSettings(density=0.5), TiesSettings(density=0.5, on="factors")
    for settings, equal in ((deltas, True), (factors, False)):
        one = dense(Ties(settings).merge(same, ranks).factors)["query"]
        other = dense(Ties(settings).merge([same[0], flipped], ranks).factors)["query"]
        assert torch.allclose(one, other) == equal


def test_magnitude_pruning_adds_up_the_largest_entries() -> None:
    wanted = sum(w * top(dense(own)["query"], 0.5) for w, own in zip(WEIGHTS, EXPERTS, strict=True))
    assert isinstance(wanted, Tensor)
    assert_close(merged(MagnitudePrune(), FULL), wanted)
    assert_close(merged(MagnitudePrune()), nearest(wanted, 3))


def test_breadcrumbs_leave_out_both_ends() -> None:
    settings = BreadcrumbsSettings(density=0.5, gamma=0.1)
    wanted = sum(
        w * top(dense(own)["query"], 0.5, after=0.1)
        for w, own in zip(WEIGHTS, EXPERTS, strict=True)
    )
    assert isinstance(wanted, Tensor)
    assert_close(merged(Breadcrumbs(settings), FULL), wanted)


@pytest.mark.parametrize(
    "merge",
    [
        Dare(DareSettings(density=0.5)),
        Della(DellaSettings(density=0.5, epsilon=0.2, then="sum")),
    ],
    ids=["dare", "della"],
)
def test_what_is_drawn_is_right_on_average(merge: Merge) -> None:
    """Within three standard errors of a thousand seeds, at nearly every entry, before the cut to a rank."""
    found = torch.stack([merged(merge, FULL, seed) for seed in range(DRAWS)])
    wanted = exact(EXPERTS, WEIGHTS, "query")
    error = found.std(dim=0) / DRAWS**0.5
    assert (error > 0).all()
    assert ((found.mean(dim=0) - wanted).abs() <= 3 * error).double().mean() >= 0.95


def test_dare_on_factors_draws_both() -> None:
    given = [expert(2, 0, "query")]
    settings = DareSettings(density=0.5, on="factors")
    found = Dare(settings).merge(given, [1.0]).factors["query"]
    for own, value in zip(given[0]["query"], found, strict=True):
        assert_close(value[value != 0], 2 * own[value != 0])
        assert 0 < (value == 0).double().mean() < 1


def test_equal_experts_are_drawn_apart() -> None:
    own = EXPERTS[0]
    alone = Dare().merge([own], [1.0], rank=FULL).factors
    twice = Dare().merge([own, own], [0.5, 0.5], rank=FULL).factors
    assert not torch.allclose(dense(alone)["query"], dense(twice)["query"])


def test_ties_after_dropping_is_ties_of_what_is_left() -> None:
    whole = DareSettings(density=1.0, then="ties")
    assert_close(merged(Dare(whole), FULL), merged(Ties(TiesSettings(density=1.0)), FULL))
    assert_close(
        merged(Della(DellaSettings(density=1.0)), FULL),
        merged(Ties(TiesSettings(density=1.0)), FULL),
    )


def test_della_keeps_large_entries_more_often() -> None:
    """The share of draws in which an entry stays is its probability by its place in the row."""
    own, settings = expert(2, 0, "query"), DellaSettings(density=0.5, epsilon=0.4, then="sum")
    kept = torch.stack([
        dense(Della(settings).merge([own], [1.0], rank=FULL, seed=seed).factors)["query"].abs()
        > 1e-9
        for seed in range(DRAWS)
    ]).double()  # fmt: skip
    places = dense(own)["query"].abs().argsort(dim=1).argsort(dim=1)
    wanted = 0.1 + 0.8 * places / (INNER - 1)
    error = (wanted * (1 - wanted) / DRAWS).sqrt()
    assert ((kept.mean(dim=0) - wanted).abs() <= 3 * error).double().mean() >= 0.95


def test_probabilities_outside_of_zero_to_one_are_refused() -> None:
    for density, epsilon in ((0.1, 0.15), (0.9, 0.15), (0.15, 0.15)):
        with pytest.raises(ValueError, match=r"density - epsilon must be above 0"):
            DellaSettings(density=density, epsilon=epsilon)
    assert DellaSettings(density=1.0).density == 1.0


def test_maps_are_drawn_apart_though_their_factors_be_equal() -> None:
    own = expert(2, 0, "query")["query"]
    found = dense(Dare().merge([{"query": own, "value": own}], [1.0], rank=FULL).factors)
    assert not torch.allclose(found["query"], found["value"])

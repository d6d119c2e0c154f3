"""Units of one rank: clusters of them, whatever their order, sign and scale."""

import math
import sys

import pytest
import torch
from torch.testing import assert_close

from tests.methods.merges.drawn import INNER, dense, exact, expert
from weft.lowrank.product import Pair
from weft.methods.merges.lego import Lego, LegoSettings

Expert = dict[str, Pair]


def near(own: Expert, seed: int, size: float = 1e-3) -> Expert:
    """The same expert, a little moved."""
    draw = torch.Generator().manual_seed(seed)
    return {
        name: tuple(v + size * torch.randn(v.shape, generator=draw).double() for v in pair)
        for name, pair in own.items()
    }  # pyright: ignore[reportReturnType]


def reordered(own: Expert) -> Expert:
    A, B = own["query"]
    return {"query": (A.flip(0), B.flip(1))}


def rescaled(own: Expert, factors: list[float]) -> Expert:
    A, B = own["query"]
    f = torch.tensor(factors, dtype=A.dtype)
    return {"query": (f[:, None] * A, B / f)}


def test_equal_experts_merge_to_the_expert() -> None:
    own = expert(4, 0, "query")
    found = Lego().merge([own, own, own], [1.0, 1.0, 1.0])
    assert len(found.factors["query"][0]) == 4
    assert_close(dense(found.factors)["query"], dense(own)["query"])


@pytest.mark.parametrize("factors", [[-1.0, 1.0, -1.0, -1.0], [3.0, 0.2, 1.0, 7.0]])
def test_signs_and_scales_of_units_do_not_matter_in_one_form(factors: list[float]) -> None:
    own = expert(4, 0, "query")
    both = [own, rescaled(own, factors)]
    wanted = dense(own)["query"]
    found = dense(Lego().merge(both, [1.0, 1.0]).factors)["query"]
    assert_close(found, wanted)
    loose = Lego(LegoSettings(canonical=False)).merge(both, [1.0, 1.0], rank=4)
    assert ((dense(loose.factors)["query"] - wanted).norm() / wanted.norm()) > 0.2


def test_all_units_without_reweighting_the_output_are_the_exact_sum() -> None:
    given = [expert(2, 0, "query"), expert(3, 1, "query")]
    settings = LegoSettings(reweight_output=False)
    found = Lego(settings).merge(given, [0.5, -2.0], rank=5)
    assert_close(dense(found.factors)["query"], exact(given, [0.5, -2.0], "query"))
    assert found.error == 0.0
    scaled = dense(Lego().merge(given, [0.5, -2.0], rank=5).factors)["query"]
    assert_close(scaled, math.sqrt(3 / 5) * exact(given, [0.5, -2.0], "query"))


def test_the_order_of_ranks_and_experts_does_not_matter() -> None:
    given = [expert(3, seed, "query") for seed in range(4)]
    weights = [1.0, 0.5, 2.0, 1.0]
    found = dense(Lego().merge(given, weights, rank=4, seed=2).factors)["query"]
    turned = [reordered(own) for own in given[::-1]]
    other = dense(Lego().merge(turned, weights[::-1], rank=4, seed=2).factors)["query"]
    assert_close(other, found)


def test_reweighted_centroids_are_as_long_as_their_units_are_on_average() -> None:
    own = expert(3, 0, "query")
    given = [own, near(own, 1, 0.3), near(own, 2, 0.3)]
    for reweight in (True, False):
        settings = LegoSettings(canonical=False, reweight_parameters=reweight)
        A, B = Lego(settings).merge(given, [1.0] * 3).factors["query"]
        found = torch.cat([A, B.T], dim=1)
        wanted = []
        for unit in range(3):
            group = torch.stack([
                torch.cat([e["query"][0][unit], e["query"][1][:, unit]]) for e in given
            ])  # fmt: skip
            mean = group.mean(dim=0)
            scale = group.norm(dim=1).mean() / mean.norm() if reweight else 1.0
            wanted.append(mean * scale)
        order = [int((found - one).norm(dim=1).argmin()) for one in wanted]
        assert sorted(order) == [0, 1, 2]
        assert_close(found[order], torch.stack(wanted))


@pytest.mark.parametrize("rank", [1, 2, 6, 20])
def test_there_are_at_most_as_many_ranks_as_units_that_differ(rank: int) -> None:
    own = expert(3, 0, "query")
    found = Lego().merge([own, own, expert(2, 1, "query")], [1.0, 1.0, 1.0], rank=rank)
    assert len(found.factors["query"][0]) == min(rank, 5)
    assert found.clamped == ({"query": 5} if rank > 5 else {})


def test_clusters_that_stay_empty_are_left_out() -> None:
    """Units that differ by rounding alone: k-means finds fewer clusters than it was asked for."""
    own = expert(2, 0, "query")
    given = [own, near(own, 1, 1e-16), near(own, 2, 1e-16)]
    found = Lego(LegoSettings(reweight_output=False)).merge(given, [1.0] * 3, rank=4)
    assert len(found.factors["query"][0]) <= 4
    assert found.factors["query"][0].isfinite().all()


def test_ranks_of_nothing_and_weights_of_zero_are_no_units() -> None:
    own = expert(2, 0, "query")
    A, B = own["query"]
    padded = {"query": (torch.cat([A, torch.ones(2, INNER).double()]), torch.cat([B, 0 * B], 1))}
    found = Lego().merge([padded], [1.0])
    assert len(found.factors["query"][0]) == 2
    assert_close(dense(found.factors)["query"], dense(own)["query"])


def test_without_scikit_learn_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    with pytest.raises(ValueError, match=r"pip install 'weft\[merge\]'"):
        Lego().merge([expert(2, 0, "query"), expert(2, 1, "query")], [1.0, 1.0])

"""The pure part of the merges whose weights are learned: weights to factors."""

import pytest
import torch
from torch.testing import assert_close

from tests.methods.merges.drawn import dense, expert
from weft.methods.merges.lorahub import Lorahub, LorahubSettings
from weft.methods.merges.soups import Soups


def test_lorahub_adds_factors_up_and_is_quadratic_in_the_weights() -> None:
    one, other = expert(2, 0, "query"), expert(2, 1, "query")
    found = dense(Lorahub().merge([one, other], [0.5, -1.2]).factors)["query"]
    (A, B), (C, D) = one["query"], other["query"]
    assert_close(found, (0.5 * B - 1.2 * D) @ (0.5 * A - 1.2 * C))
    alone = dense(Lorahub().merge([one], [-0.7]).factors)["query"]
    assert_close(alone, 0.49 * dense(one)["query"])
    mirrored = dense(Lorahub().merge([one, other], [-0.5, 1.2]).factors)["query"]
    assert_close(mirrored, found)


def test_lorahub_of_deltas_is_the_weighted_sum_in_any_ranks() -> None:
    one, other = expert(2, 0, "query"), expert(3, 1, "query")
    merge = Lorahub(LorahubSettings(mode="delta"))
    found = merge.merge([one, other], [0.5, -1.2])
    wanted = 0.5 * dense(one)["query"] - 1.2 * dense(other)["query"]
    assert_close(dense(found.factors)["query"], wanted)
    assert found.error == pytest.approx(0, abs=1e-7)


def test_lorahub_of_factors_refuses_unequal_ranks_and_says_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"ranks 2, 3 have no sum of factors; set mode: delta"):
        Lorahub().merge([expert(2, 0, "query"), expert(3, 1, "query")], [1.0, 1.0])


def test_soups_with_given_weights_are_the_exact_sum() -> None:
    one, other = expert(2, 0, "query"), expert(3, 1, "query", "value")
    found = Soups().merge([one, other], [0.25, 0.75])
    assert_close(dense(found.factors)["value"], 0.75 * dense(other)["value"])
    assert torch.equal(found.factors["query"][0], torch.cat([one["query"][0], other["query"][0]]))

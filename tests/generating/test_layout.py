"""An expert as a vector and back, in a form that its change alone determines; and normalised."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from weft.generating.layout import Layout, parted, state_of
from weft.generating.statistics import Statistics
from weft.lowrank.product import Pair, balanced


def drawn(*shape: int, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=draw, dtype=torch.float64)


def pairs() -> dict[str, Pair]:
    return {"one": (drawn(3, 7), drawn(9, 3, seed=1)), "two": (drawn(2, 5, seed=2), drawn(4, 2))}


def regauged(pair: Pair) -> Pair:
    """The same change by other factors."""
    A, B = pair
    G = drawn(len(A), len(A), seed=9) + 3 * torch.eye(len(A), dtype=A.dtype)
    return G @ A, B @ torch.linalg.inv(G)


def test_flattened_and_back_is_the_same_bits() -> None:
    state = state_of(pairs(), {"weight": drawn(2, 7), "bias": drawn(2)}, "trained")
    layout = Layout.of(state)
    vector = layout.flatten(state)
    assert vector.shape == (layout.length,) == (3 * 7 + 9 * 3 + 2 * 5 + 4 * 2 + 14 + 2,)
    back = layout.unflatten(torch.cat([vector, torch.full((5,), 7.0)]))
    assert list(back) == list(state)
    assert all(torch.equal(back[name], value) for name, value in state.items())
    factors, head = parted(back)
    assert all(
        torch.equal(a, b) for m in factors for a, b in zip(factors[m], pairs()[m], strict=True)
    )
    assert torch.equal(head["bias"], drawn(2))


def test_the_canonical_form_is_the_same_change_and_the_same_for_all_its_factors() -> None:
    for pair in pairs().values():
        A, B = balanced(*pair)
        assert_close(B @ A, pair[1] @ pair[0], rtol=1e-12, atol=1e-12)
        for other in (
            regauged(pair),
            (-pair[0], -pair[1]),
            (pair[0].flip(0), pair[1].flip(1)),
            (2 * pair[0], pair[1] / 2),
        ):
            again = balanced(*other)
            assert_close(again[0], A, rtol=1e-9, atol=1e-9)
            assert_close(again[1], B, rtol=1e-9, atol=1e-9)
        assert_close(A.norm(dim=1), B.norm(dim=0))
        largest = A.gather(1, A.abs().argmax(dim=1, keepdim=True))
        assert bool((largest > 0).all())


def test_ranks_that_change_nothing_are_exact_zeros_and_stay_in_place() -> None:
    A, B = drawn(3, 7), drawn(9, 3, seed=1)
    A[2] = 2 * A[0]
    own = balanced(A, B)
    assert own[0].shape == A.shape
    assert own[1].shape == B.shape
    assert not own[0][2].any()
    assert not own[1][:, 2].any()
    assert_close(own[1] @ own[0], B @ A)
    # More ranks than a side has.
    A, B = drawn(5, 3), drawn(4, 5)
    own = balanced(A, B)
    assert own[0].shape == A.shape
    assert_close(own[1] @ own[0], B @ A)


def test_a_tensor_of_another_shape_is_named() -> None:
    state = state_of(pairs(), {"bias": drawn(2)}, "canonical")
    layout = Layout.of(state)
    assert layout.difference(Layout.of(state)) is None
    with pytest.raises(ValueError, match=r"two\.A: expected shape \(2, 5\), got shape \(3, 5\)"):
        layout.flatten({**state, "two.A": drawn(3, 5)})
    with pytest.raises(ValueError, match=r"head\.more: expected no such tensor, got shape \(1,\)"):
        layout.flatten({**state, "head.more": drawn(1)})


def test_pooled_statistics_are_over_tasks_however_many_states_each_has() -> None:
    vectors, tasks, sizes = drawn(5, 6), torch.tensor([0, 0, 0, 1, 2]), [4, 2]
    own = Statistics.pooled(vectors, tasks, sizes)
    each = torch.stack([vectors[:3].mean(0), vectors[3], vectors[4]])
    assert_close(own.mean, each.mean(0))
    squares = torch.stack([((vectors[tasks == t] - own.mean) ** 2).mean(0) for t in range(3)]).mean(
        0
    )
    assert_close(own.deviation, torch.stack([squares[:4].mean(), squares[4:].mean()]).sqrt())
    assert_close(own.restored(own.normalised(vectors, sizes), sizes), vectors)


def test_own_statistics_make_every_tensor_one_of_mean_0_and_deviation_1() -> None:
    vector, sizes = 3 * drawn(9) + 5, [4, 5]
    own = Statistics.own(vector, sizes)
    for part in own.normalised(vector, sizes).split(sizes):
        assert part.mean().item() == pytest.approx(0, abs=1e-12)
        assert part.std(unbiased=False).item() == pytest.approx(1)
    assert_close(own.restored(own.normalised(vector, sizes), sizes), vector)


def test_what_does_not_vary_is_not_divided_by_0() -> None:
    same = torch.ones(2, 6, dtype=torch.float64)
    own = Statistics.pooled(same, torch.tensor([0, 1]), [4, 2])
    assert not own.normalised(same, [4, 2]).any()
    assert Statistics.own(same[0], [6]).deviation.item() == 1

"""Nested ranks: every leading part is a LoRA of its own; which ranks learn at b is exact."""

import math

import pytest
import torch
from torch import Tensor

from tests.methods.adapters.starts import draw, variant_on
from weft.methods.adapters.contract import Adapter

OUT, IN, RANK, ALPHA = 24, 16, 4, 12.0
NEAR = {"rtol": 1e-12, "atol": 1e-12}


def nested(W0: Tensor, *, moved: bool = True, **spec: object) -> Adapter:
    adapter = variant_on("nested", W0, rank=RANK, alpha=ALPHA, **spec)
    if moved:
        with torch.no_grad():
            for number, value in enumerate(adapter.parameters()):
                value.copy_(draw(*value.shape, seed=number + 1))
    return adapter


def lora_of_slices(adapter: Adapter, W0: Tensor, ranks: int) -> Adapter:
    """A plain LoRA of rank b with the same alpha, made of the first b ranks."""
    twin = variant_on("lora", W0, rank=ranks, alpha=ALPHA)
    state = adapter.state_dict()
    twin.load_state_dict({"A": state["A"][:ranks], "B": state["B"][:, :ranks]})
    return twin


@pytest.mark.parametrize("ranks", range(1, RANK + 1))
def test_at_b_it_is_the_lora_of_the_first_b_ranks(ranks: int) -> None:
    W0, x = draw(OUT, IN), draw(5, IN, seed=9)
    adapter = nested(W0)
    twin = lora_of_slices(adapter, W0, ranks)
    adapter.active = ranks
    for train in (True, False):
        adapter.train(train)
        torch.testing.assert_close(adapter(x, W0), twin(x, W0), **NEAR)
        torch.testing.assert_close(adapter.delta(W0), twin.delta(W0), **NEAR)
        A, B = adapter.factors(W0)
        assert (len(A), B.shape[1]) == (ranks, ranks)
    # The authors' way there: alpha / rank, and the root of rank / b on each factor.
    root = math.sqrt(RANK / ranks)
    state = adapter.state_dict()
    A, B = root * state["A"][:ranks], root * state["B"][:, :ranks]
    torch.testing.assert_close(adapter.delta(W0), ALPHA / RANK * B @ A, **NEAR)


@pytest.mark.parametrize("ranks", range(1, RANK + 1))
@pytest.mark.parametrize("mode", ["frozen", "full"])
def test_what_learns_at_b(mode: str, ranks: int) -> None:
    W0, x = draw(OUT, IN), draw(5, IN, seed=9)
    adapter = nested(W0, mode=mode)
    twin = lora_of_slices(adapter, W0, ranks)
    adapter.draw(ranks)
    weights = draw(5, OUT, seed=8)
    (adapter(x, W0) * weights).sum().backward()
    (twin(x, W0) * weights).sum().backward()
    first = ranks - 1 if mode == "frozen" else 0
    A, B = torch.zeros(RANK, IN), torch.zeros(OUT, RANK)
    A, B = A.double(), B.double()
    A[first:ranks] = twin.get_parameter("A").grad[first:]
    B[:, first:ranks] = twin.get_parameter("B").grad[:, first:]
    grown = adapter.get_parameter("A").grad, adapter.get_parameter("B").grad
    torch.testing.assert_close(grown, (A, B), **NEAR)
    assert not grown[0][:first].any()
    assert not grown[0][ranks:].any()
    assert grown[0][first:ranks].all()


def test_ranks_above_b_have_no_influence_at_b() -> None:
    W0, x = draw(OUT, IN), draw(5, IN, seed=9)
    adapter = nested(W0)
    adapter.active = 2
    before = adapter(x, W0)
    with torch.no_grad():
        adapter.get_parameter("A")[2:] = 100
        adapter.get_parameter("B")[:, 2:] = 100
    assert torch.equal(adapter(x, W0), before)
    with torch.no_grad():
        adapter.get_parameter("A")[1] += 1
    assert not torch.equal(adapter(x, W0), before)


def test_what_is_drawn_for_training_is_not_what_is_evaluated() -> None:
    W0, x = draw(OUT, IN), draw(5, IN, seed=9)
    adapter = nested(W0)
    adapter.draw(2)
    torch.testing.assert_close(adapter(x, W0), lora_of_slices(adapter, W0, 2)(x, W0), **NEAR)
    adapter.eval()
    torch.testing.assert_close(adapter(x, W0), lora_of_slices(adapter, W0, RANK)(x, W0), **NEAR)
    assert adapter.peft_alpha() == ALPHA
    adapter.train()
    adapter.draw(None)
    torch.testing.assert_close(adapter(x, W0), lora_of_slices(adapter, W0, RANK)(x, W0), **NEAR)


@pytest.mark.parametrize("begin", ["up", "down"])
def test_it_starts_as_a_no_op_at_every_rank(begin: str) -> None:
    W0, x = draw(OUT, IN), draw(5, IN, seed=9)
    adapter = nested(W0, moved=False, start=begin)
    for ranks in range(1, RANK + 1):
        adapter.active = ranks
        assert not adapter(x, W0).any()


def test_the_mirrored_start_draws_b_and_teaches_a_first() -> None:
    W0, x = draw(OUT, IN), draw(5, IN, seed=9)
    up, down = (nested(W0, moved=False, start=start, mode="full") for start in ("up", "down"))
    lora = variant_on("lora", W0, rank=RANK, alpha=ALPHA)
    assert torch.equal(up.get_parameter("A"), lora.get_parameter("A"))
    assert not up.get_parameter("B").any()
    assert not down.get_parameter("A").any()
    B = down.get_parameter("B")
    assert B.abs().max() <= 1 / math.sqrt(RANK)
    # Uniform: the variance is 1 / (3 rank); 96 draws are within a third of it.
    assert abs(B.var().item() * 3 * RANK - 1) < 1 / 3
    weights = draw(5, OUT, seed=8)
    (down(x, W0) * weights).sum().backward()
    G = weights.T @ x
    assert not down.get_parameter("B").grad.any()
    torch.testing.assert_close(down.get_parameter("A").grad, ALPHA / RANK * B.T @ G, **NEAR)


def test_cut_short_it_is_for_good_a_plain_lora_of_that_rank() -> None:
    W0, x = draw(OUT, IN), draw(5, IN, seed=9)
    adapter = nested(W0)
    twin = lora_of_slices(adapter, W0, 3)
    adapter.truncate(3)
    torch.testing.assert_close(adapter(x, W0), twin(x, W0), **NEAR)
    assert (adapter.rank, adapter.spec.rank, adapter.peft_alpha()) == (3, 3, ALPHA)
    assert {name: tuple(value.shape) for name, value in adapter.state_dict().items()} == {
        "A": (3, IN),
        "B": (OUT, 3),
    }
    with pytest.raises(ValueError, match="expected 1 to 3 ranks of a nested adapter, got 4"):
        adapter.active = 4


def test_a_number_of_ranks_that_it_does_not_have_is_refused() -> None:
    adapter = nested(draw(OUT, IN))
    for ranks in (0, RANK + 1):
        with pytest.raises(ValueError, match=f"expected 1 to {RANK} ranks .* got {ranks}"):
            adapter.active = ranks
        with pytest.raises(ValueError, match=f"expected 1 to {RANK} ranks .* got {ranks}"):
            adapter.draw(ranks)


def test_it_is_not_stored_as_more_than_is_in_use() -> None:
    adapter = nested(draw(OUT, IN))
    assert adapter.peft_alpha() == ALPHA
    adapter.active = 2
    with pytest.raises(ValueError, match=r"2 of 4 ranks are in use.*truncate\(2\)"):
        adapter.peft_alpha()

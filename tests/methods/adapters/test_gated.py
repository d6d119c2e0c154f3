"""Gated ranks: the equation with zero gates, what of it is exported, and what still learns."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from tests.methods.adapters.starts import draw, variant_on
from tests.methods.adapters.stored import assert_same_adapters, card_of, expert_of
from weft.base.loading import load_base
from weft.lowrank.peft.reading import read_peft
from weft.lowrank.peft.writing import CONFIG
from weft.methods.adapters.contract import Adapter
from weft.storage.experts import NATIVE, restore, save_expert
from weft.storage.tensors import linear_shapes

OUT, IN, RANK, ALPHA = 24, 16, 4, 12.0
NEAR = {"rtol": 1e-12, "atol": 1e-12}


def gated(W0: Tensor, gate: list[float] | None = None, rank: int = RANK) -> Adapter:
    """As it starts, or anywhere with these gates."""
    adapter = variant_on("gated", W0, rank=rank, alpha=ALPHA)
    if gate is not None:
        adapter.load_state_dict(
            {
                "A": draw(rank, IN, seed=1),
                "B": draw(OUT, rank, seed=2),
                "gate": torch.tensor(gate, dtype=torch.float64),
            }
        )
    return adapter


def naive(adapter: Adapter) -> Tensor:
    """The sum over all ranks, one at a time."""
    A, B, gate = (adapter.get_parameter(name) for name in ("A", "B", "gate"))
    terms = [gate[i] * torch.outer(B[:, i], A[i]) for i in range(adapter.rank)]
    return ALPHA / adapter.rank * torch.stack(terms).sum(0)


def test_it_starts_as_a_no_op_with_the_authors_laws() -> None:
    W0 = draw(OUT, IN)
    adapter = gated(W0)
    assert not adapter(draw(5, IN), W0).any()
    assert not adapter.get_parameter("B").any()
    assert adapter.get_parameter("A").abs().max() <= 1 / math.sqrt(IN)
    gates = torch.cat([gated(torch.zeros(200, 200), rank=200).get_parameter("gate")])
    assert abs(gates.mean()) < 0.25
    assert abs(gates.std() - 1) < 0.2
    assert adapter.parameter_count(OUT, IN, adapter.spec) == RANK * (OUT + IN) + RANK
    # A vector, which the trainer does not decay.
    assert adapter.get_parameter("gate").dim() == 1


def test_it_is_the_papers_equation() -> None:
    W0, x = draw(OUT, IN), draw(5, IN, seed=9)
    adapter = gated(W0, [0.5, 0.0, -2.0, 1.0])
    torch.testing.assert_close(adapter.delta(W0), naive(adapter), **NEAR)
    A, B, gate = (adapter.get_parameter(name) for name in ("A", "B", "gate"))
    expected = torch.stack([ALPHA / RANK * (B @ (gate * (A @ row))) for row in x])
    torch.testing.assert_close(adapter(x, W0), expected, **NEAR)


def test_what_is_exported_is_the_open_ranks_exactly() -> None:
    W0 = draw(OUT, IN)
    for gate in ([0.5, 0.0, -2.0, 1.0], [0.0, 0.0, 1e-30, 0.0], [1.0, 2.0, 3.0, 4.0]):
        adapter = gated(W0, gate)
        open_ranks = [i for i, value in enumerate(gate) if value]
        with torch.no_grad():
            A, B = adapter.factors(W0)
            torch.testing.assert_close(B @ A, naive(adapter), **NEAR)
            assert torch.equal(A, adapter.get_parameter("A")[open_ranks])
            assert B.shape == (OUT, len(open_ranks))
            torch.testing.assert_close(B @ A, adapter.delta(W0), **NEAR)


def test_all_gates_shut_leave_one_rank_of_zeros() -> None:
    W0, x = draw(OUT, IN), draw(5, IN, seed=9)
    adapter = gated(W0, [0.0] * RANK)
    with torch.no_grad():
        A, B = adapter.factors(W0)
        assert (len(A), B.shape[1]) == (1, 1)
        assert not B.any()
        assert not adapter(x, W0).any()


def test_a_shut_gate_still_learns_by_either_way() -> None:
    W0, x = draw(OUT, IN), draw(5, IN, seed=9)
    weights = draw(5, OUT, seed=8)
    gradients = []
    for by_factors in (False, True):
        adapter = gated(W0, [0.5, 0.0, -2.0, 0.0])
        if by_factors:
            A, B = adapter.factors(W0)
            got = (x @ A.T) @ B.T
        else:
            got = adapter(x, W0)
        (got * weights).sum().backward()
        gradients.append({name: value.grad for name, value in adapter.named_parameters()})
    torch.testing.assert_close(gradients[0], gradients[1], **NEAR)
    G = weights.T @ x
    A, B = draw(RANK, IN, seed=1), draw(OUT, RANK, seed=2)
    expected = ALPHA / RANK * torch.stack([B[:, i] @ G @ A[i] for i in range(RANK)])
    torch.testing.assert_close(gradients[0]["gate"], expected, **NEAR)
    assert expected.all()
    # Its vectors do not, until it opens.
    assert not gradients[0]["A"][[1, 3]].any()


def test_maps_of_different_open_ranks_are_stored_and_come_back(
    tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    base = load_base(str(tiny_folder("bert")))
    expert, recipe = expert_of("gated", base, rank=RANK)
    with torch.no_grad():
        for adapter, gate in zip(
            expert.adapters.values(), ([0.5, 0.0, 0.0, 2.0], [0.0] * RANK), strict=True
        ):
            adapter.get_parameter("gate").copy_(torch.tensor(gate))
            adapter.get_parameter("B").copy_(draw(32, RANK))
    card = card_of(expert, base)
    save_expert(expert, card, base, tmp_path / "e")
    assert (tmp_path / "e" / NATIVE).exists()
    stored = read_peft(tmp_path / "e", linear_shapes(base.trunk))
    assert [len(stored.factors[name][0]) for name in expert.adapters] == [2, 1]
    config = json.loads((tmp_path / "e" / CONFIG).read_text())
    assert sorted([config["r"], *config["rank_pattern"].values()]) == [1, 2]
    found = restore(tmp_path / "e", card, base, recipe)
    assert_same_adapters(found, expert, base)

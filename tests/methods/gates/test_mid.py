"""Middle maps against loops over experts."""

import pytest
import torch

from tests.methods.gates.example import BASE, DOWNS, LOGITS, RANKS, UPS, A, X, near, tensor
from weft.methods.gates.gate import GateSpec, gate
from weft.methods.gates.mid import blend, by_rank, core, diag, tile


def test_tile_is_the_sum_of_gated_up_projections_of_one_down_projection() -> None:
    gates = gate(LOGITS, GateSpec()).gates
    ups = torch.cat([2 * up for up in UPS], dim=1)
    found = BASE + tile(X @ DOWNS[0].T, gates) @ ups.T
    near(found, [4.685138, 0.605616], [1.424368, -4.556847])


def test_blend_mixes_weights_not_outputs() -> None:
    gates = gate(LOGITS, GateSpec()).gates
    ups = torch.cat([2 * up for up in UPS], dim=1)
    found = BASE + blend(X @ A.T, gates, RANKS) @ ups.T
    near(found, [8.124956, 2.159148], [2.248615, -4.241150])
    for token, row in enumerate(gates):
        mixed_A = sum(g * down for g, down in zip(row, DOWNS, strict=True))
        mixed_B = sum(g * up for g, up in zip(row, UPS, strict=True))
        wanted = BASE[token] + 2 * X[token] @ mixed_A.T @ mixed_B.T
        torch.testing.assert_close(found[token], wanted)
    one_hot = torch.eye(3, dtype=torch.float64)[[2, 0]]
    torch.testing.assert_close(
        blend(X @ A.T, one_hot, RANKS), diag(X @ A.T, one_hot, RANKS), rtol=0, atol=0
    )


def test_blend_of_unequal_ranks_pads_the_missing_with_zeros() -> None:
    draw = torch.Generator().manual_seed(0)
    ranks = (1, 3, 2)
    downs = [torch.randn(rank, 3, generator=draw, dtype=torch.float64) for rank in ranks]
    ups = [torch.randn(2, rank, generator=draw, dtype=torch.float64) for rank in ranks]
    gates = gate(LOGITS, GateSpec()).gates
    found = blend(X @ torch.cat(downs).T, gates, ranks) @ torch.cat(ups, dim=1).T
    for token, row in enumerate(gates):
        mixed_A = torch.zeros(3, 3, dtype=torch.float64)
        mixed_B = torch.zeros(2, 3, dtype=torch.float64)
        for g, down, up in zip(row, downs, ups, strict=True):
            mixed_A[: len(down)] += g * down
            mixed_B[:, : len(down)] += g * up
        torch.testing.assert_close(found[token], X[token] @ mixed_A.T @ mixed_B.T)


def test_core_mixes_small_matrices_between_one_pair_of_factors() -> None:
    cores = torch.stack([tensor([1, 0], [0, 1]), tensor([0, 1], [1, 0]), tensor([1, 1], [0, 1])])
    z = X @ DOWNS[0].T
    gates = gate(z @ tensor([0.1, 0], [0, 0.1], [0.1, -0.1]).T, GateSpec()).gates
    near(gates, [0.276221, 0.556242, 0.167537], [0.313591, 0.402659, 0.283749])
    found = BASE + core(z, gates, cores) @ UPS[0].T
    near(found, [5.893692, -0.228766], [2.006648, -3.432272])
    same = cores[:1].expand(3, 2, 2)
    torch.testing.assert_close(core(z, gates, same), z @ cores[0])


def test_gates_of_experts_or_of_ranks_and_nothing_else() -> None:
    gates = tensor([1, 2])
    assert by_rank(gates, (1, 3)).tolist() == [[1, 2, 2, 2]]
    assert by_rank(tensor([1, 2, 3, 4]), (1, 3)).tolist() == [[1, 2, 3, 4]]
    with pytest.raises(ValueError, match="3 gates for 2 experts with 4 ranks"):
        by_rank(tensor([1, 2, 3]), (1, 3))


@pytest.mark.parametrize("ranks", [(2, 2), (1, 3), (4,)])
def test_diag_gates_each_rank_by_its_expert_s_gate_or_by_its_own(ranks: tuple[int, ...]) -> None:
    draw = torch.Generator().manual_seed(0)
    z, of_ranks = (torch.randn(3, 5, 4, generator=draw, dtype=torch.float64) for _ in range(2))
    of_experts = of_ranks[..., : len(ranks)]
    place = [expert for expert, rank in enumerate(ranks) for _ in range(rank)]
    for at, expert in enumerate(place):
        spread = by_rank(of_experts, ranks)[..., at]
        assert torch.equal(spread, of_experts[..., expert])
        own = diag(z, of_experts, ranks)[..., at]
        torch.testing.assert_close(own, z[..., at] * of_experts[..., expert])
    torch.testing.assert_close(diag(z, of_ranks, ranks), z * of_ranks)

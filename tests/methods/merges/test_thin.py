"""Merges that never make a dense matrix, against the same done with dense ones in double precision."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tests.methods.merges.drawn import INNER, OUT, dense, exact, expert, nearest
from weft.methods.merges.contract import Merge
from weft.methods.merges.iso_c import IsoC
from weft.methods.merges.knots import Knots, KnotsSettings
from weft.methods.merges.sum import Sum
from weft.methods.merges.svd import Svd, SvdSettings
from weft.methods.merges.task_arithmetic import TaskArithmetic, TaskArithmeticSettings
from weft.methods.merges.tsv import Tsv

WEIGHTS = [0.5, -1.0, 2.0]
EXPERTS = [expert(2, 0, "query"), expert(3, 1, "query"), expert(1, 2, "query")]
WANTED = exact(EXPERTS, WEIGHTS, "query")


def merged(merge: Merge, rank: int | None = None) -> Tensor:
    return dense(merge.merge(EXPERTS, WEIGHTS, rank=rank).factors)["query"]


@pytest.mark.parametrize("rank", [1, 3, 5, 6, 7])
def test_svd_is_the_nearest_of_its_rank_and_exact_from_the_sums_rank_on(rank: int) -> None:
    assert_close(merged(Svd(), rank), nearest(WANTED, rank))
    found = Svd().merge(EXPERTS, WEIGHTS, rank=rank)
    assert (found.error == 0.0) == (rank >= 6)
    assert found.clamped == ({"query": 6} if rank > 6 else {})


def test_a_rank_above_that_of_the_sum_is_clamped_where_experts_share_directions() -> None:
    own = EXPERTS[1]
    found = Svd().merge([own, own], [1.0, 0.5], rank=5)
    assert len(found.factors["query"][0]) == 3
    assert found.clamped == {"query": 3}
    assert found.error == 0.0


def test_a_clamp_cuts_both_factors_to_a_quantile_whatever_signs_they_have() -> None:
    U, S, Vh = torch.linalg.svd(WANTED, full_matrices=False)
    turn = torch.tensor([1.0, -1.0, 1.0], dtype=U.dtype)
    for sign in (turn, -turn):
        B, A = sign * U[:, :3] * S[:3], (sign * Vh[:3].T).T
        entries = torch.cat([B.flatten(), A.flatten()])
        most = torch.cat([entries, -entries]).quantile(0.9)
        wanted = B.clamp(-most, most) @ A.clamp(-most, most)
        assert_close(merged(Svd(SvdSettings(clamp=0.9))), wanted)
    assert_close(merged(Svd(SvdSettings(clamp=1.0))), nearest(WANTED, 3))


def test_sum_has_no_more_ranks_than_the_sum() -> None:
    assert_close(merged(Sum()), WANTED)
    own = EXPERTS[0]
    found = Sum().merge([own, own, EXPERTS[1]], [1.0, 0.5, 1.0])
    assert len(found.factors["query"][0]) == 5
    many = [expert(3, seed, "query") for seed in range(5)]
    found = Sum().merge(many, [1.0] * 5)
    assert len(found.factors["query"][0]) == min(INNER, OUT)
    assert found.error == 0.0


def test_task_arithmetic_scales_and_forgets() -> None:
    merge = TaskArithmetic(TaskArithmeticSettings(scaling=0.4))
    assert_close(merged(merge), 0.4 * WANTED)
    assert merge.merge(EXPERTS, WEIGHTS).error == 0.0
    negated = TaskArithmetic(TaskArithmeticSettings(scaling=0.4, negate=True))
    assert_close(merged(negated), -0.4 * WANTED)
    assert negated.merge(EXPERTS, WEIGHTS).error == 0.0


def test_iso_c_makes_all_singular_values_their_mean() -> None:
    U, S, Vh = torch.linalg.svd(WANTED, full_matrices=False)
    even = S[:6].mean()
    assert_close(merged(IsoC()), even * U[:, :6] @ Vh[:6])
    assert_close(merged(IsoC(), 2), even * U[:, :2] @ Vh[:2])


def test_tsv_is_the_authors_formula() -> None:
    """Decompositions of the dense changes, and U V^T of the vectors side by side."""
    parts = [torch.linalg.svd(dense(own)["query"], full_matrices=False) for own in EXPERTS]
    ranks = [2, 3, 1]
    U = torch.cat([U[:, :r] for (U, _, _), r in zip(parts, ranks, strict=True)], dim=1)
    V = torch.cat([Vh[:r] for (_, _, Vh), r in zip(parts, ranks, strict=True)])
    S = torch.cat([
        w * S[:r] for w, (_, S, _), r in zip(WEIGHTS, parts, ranks, strict=True)
    ])  # fmt: skip
    u_u, _, v_u = torch.linalg.svd(U, full_matrices=False)
    u_v, _, v_v = torch.linalg.svd(V, full_matrices=False)
    assert_close(merged(Tsv()), u_u @ v_u @ S.diag() @ u_v @ v_v)


def test_tsv_shares_the_rank_and_equal_directions() -> None:
    assert len(Tsv().merge(EXPERTS, WEIGHTS, rank=4).factors["query"][0]) == 3
    assert len(Tsv().merge(EXPERTS, WEIGHTS, rank=5).factors["query"][0]) == 5
    own = EXPERTS[1]
    for weights in ([1.0, 1.0], [0.5, 1.5]):
        found = dense(Tsv().merge([own, own], weights).factors)["query"]
        assert_close(found, dense(own)["query"])
    nothing = {"query": (torch.ones(2, INNER).double(), torch.zeros(OUT, 2).double())}
    found = dense(Tsv().merge([own, nothing], [1.0, 1.0]).factors)["query"]
    assert_close(found, dense(own)["query"])


def test_knots_is_ties_in_the_basis_of_all_outputs() -> None:
    """The authors' steps: decompose the changes side by side, merge S V_i^T, go back by U."""
    changes = [dense(own)["query"] for own in EXPERTS]
    U, S, Vh = torch.linalg.svd(torch.cat(changes, dim=1), full_matrices=False)
    own = S > 1e-5
    U, parts = U[:, own], (S[own, None] * Vh[own]).split(INNER, dim=1)
    trimmed = []
    for part in parts:
        kept = torch.zeros(part.numel(), dtype=torch.bool)
        kept[part.abs().flatten().argsort(descending=True)[: int(0.4 * part.numel())]] = True
        trimmed.append(part * kept.view_as(part))
    elected = torch.where(sum(trimmed) >= 0, 1, -1)
    agree = [part.sign() == elected for part in trimmed]
    total = sum(w * p * a for w, p, a in zip(WEIGHTS, trimmed, agree, strict=True))
    wanted = U @ (total / sum(a.double() for a in agree).clamp(min=1))
    merge = Knots(KnotsSettings(density=0.4))
    assert_close(merged(merge, INNER), wanted)
    assert_close(merged(merge), nearest(wanted, 3))
    whole = Knots(KnotsSettings(density=1.0)).merge([EXPERTS[0]], [1.0])
    assert whole.error == 0.0

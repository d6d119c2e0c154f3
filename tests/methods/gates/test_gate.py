"""From logits to gates, against figures worked out by hand."""

import math

import pytest
import torch
from torch import Tensor

from tests.methods.gates.example import BASE, LOGITS, RANKS, ROUTER, UPS, A, B, X, near, tensor
from weft.methods.gates.apply import dense
from weft.methods.gates.gate import GateSpec, gate


def output(gates: Tensor) -> Tensor:
    return BASE + dense(X, A, B, gates, RANKS)


def test_the_loop_over_experts_and_the_dense_path_agree() -> None:
    near(BASE, [4, -1], [2.5, -3])
    for at, row in enumerate(([[-4, 10], [-3, 2]], [[6, 4], [1.5, -2]], [[3, 0], [0.75, -1.25]])):
        one_hot = torch.zeros(2, 3, dtype=torch.float64)
        one_hot[:, at] = 1
        near(dense(X, A, B, one_hot, RANKS), *row)
    found = gate(LOGITS, GateSpec())
    near(found.gates, [0.589648, 0.145406, 0.264946], [0.419229, 0.254275, 0.326496])
    near(output(found.gates), [3.308678, 5.478106], [1.868598, -3.078212])
    assert found.selected.all()
    for spec in (GateSpec(), GateSpec(normalise="softmax"), GateSpec(normalise="renormalise")):
        same = gate(LOGITS, spec)
        assert same.selected.dtype == torch.bool
        torch.testing.assert_close(same.gates, found.gates)


def test_top_k_with_every_normalisation() -> None:
    masked = gate(LOGITS, GateSpec(select="top_k", k=2))
    near(output(masked.gates), [2.436245, 4.896484], [1.487185, -2.569662])
    shared = gate(LOGITS, GateSpec(select="top_k", k=2, normalise="renormalise"))
    near(shared.gates, [0.689974, 0, 0.310026], [0.562177, 0, 0.437823])
    near(output(shared.gates), [2.170179, 5.899745], [1.141838, -2.422926])
    soft = gate(LOGITS, GateSpec(select="top_k", k=2, normalise="softmax"))
    torch.testing.assert_close(soft.gates, shared.gates)
    cool = gate(LOGITS, GateSpec(select="top_k", k=2, normalise="softmax", temperature=15))
    near(cool.gates, [0.513330, 0, 0.486670], [0.504167, 0, 0.495833])
    near(output(cool.gates), [3.406689, 4.133302], [1.359375, -2.611459])
    for found in (masked, shared, soft, cool):
        assert found.selected.tolist() == [[True, False, True], [True, False, True]]
    whole = gate(LOGITS, GateSpec(select="top_k", k=3, normalise="renormalise"))
    torch.testing.assert_close(whole.gates, gate(LOGITS, GateSpec()).gates)
    alone = gate(LOGITS, GateSpec(select="top_k", k=1, normalise="softmax"))
    near(alone.gates, [1, 0, 0], [1, 0, 0])


def test_ties_go_to_the_earlier_expert_and_a_score_of_zero_can_be_selected() -> None:
    tied = gate(torch.zeros(4, 5), GateSpec(score="raw", select="top_k", k=2))
    assert tied.selected.tolist() == [[True, True, False, False, False]] * 4
    assert not tied.gates.any()


def test_top_p_takes_the_fewest_that_hold_the_share() -> None:
    logits = tensor([0.5, 0.3, 0.2]).log()
    for p, count in ((0.4, 1), (0.5, 1), (0.6, 2), (0.8, 2), (0.81, 3), (1.0, 3)):
        found = gate(logits, GateSpec(select="top_p", p=p))
        assert found.selected.sum() == count, p
        torch.testing.assert_close(found.gates, found.scores * found.selected)
    # Scores need no sum of 1, and tokens are counted one by one.
    rows = tensor([3, 5, 2], [1, 1, 8]).unsqueeze(1)
    found = gate(rows, GateSpec(score="raw", select="top_p", p=0.6))
    assert found.selected.tolist() == [[[True, True, False]], [[False, False, True]]]


def test_a_threshold_counts_the_excess_and_always_selects_one() -> None:
    logits = torch.randn(50, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    threshold = torch.full((50, 1), 0.25, dtype=torch.float64) * torch.rand(
        50, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    found = gate(logits, GateSpec(select="threshold", normalise="renormalise"), threshold=threshold)
    assert found.selected.any(-1).all()
    excess = (logits.softmax(-1) - threshold).clamp_min(0)
    torch.testing.assert_close(found.gates, excess / excess.sum(-1, keepdim=True))
    # All scores at the threshold: nothing exceeds it, nothing is divided by zero.
    flat = gate(
        torch.zeros(1, 4),
        GateSpec(select="threshold", normalise="renormalise"),
        threshold=torch.full((1, 1), 0.25),
    )
    assert not flat.gates.any()
    assert flat.selected.all()


def test_hard_selection_is_the_label_and_carries_no_gradient() -> None:
    logits = LOGITS.clone().requires_grad_()
    found = gate(logits, GateSpec(select="hard"), labels=torch.tensor([2, 0]))
    near(found.gates.detach(), [0, 0, 1], [1, 0, 0])
    assert not found.gates.requires_grad


def test_ranks_as_experts_with_a_selection_bias() -> None:
    router = torch.cat([ROUTER, tensor([0, 0.1, 0], [0.2, -0.2, 0.1], [-0.1, -0.1, -0.1])])
    spec = GateSpec(score="sigmoid", select="top_k", k=2, normalise="sum_to_k")
    found = gate(X @ router.T, spec, bias=torch.zeros(6, dtype=torch.float64))
    near(found.gates, [1.108111, 0, 0.891889, 0, 0, 0], [0.990414, 0, 0, 0, 1.009586, 0])
    plain = torch.cat(UPS, dim=1) * 2  # alpha / k = 4 / 2, the experts' own scales left out
    near(
        BASE + dense(X, A, plain, found.gates, RANKS), [-0.432444, 6.135111], [-1.480829, -4.009586]
    )
    assert found.selected.sum(0).tolist() == [2, 0, 1, 0, 1, 0]
    pushed = torch.tensor([-1.0, 0, 0, 0, 0, 0], dtype=torch.float64)
    moved = gate(X @ router.T, spec, bias=pushed)
    assert not moved.selected[:, 0].any()
    outside = gate(X @ router.T, spec.model_copy(update={"bias_counts": False}), bias=pushed)
    assert torch.equal(outside.selected, moved.selected)
    torch.testing.assert_close(moved.gates.sum(-1), torch.full((2,), 2.0, dtype=torch.float64))


def test_scores_that_sum_to_nothing_or_less_have_no_shares() -> None:
    shared = GateSpec(score="raw", select="top_k", k=2, normalise="renormalise")
    logits = tensor([-1, -3, -9], [2, -2, -4], [2, -1, -4], [3, 1, 0])
    # Divided by a sum below zero, who says most would be counted against.
    near(gate(logits, shared).gates, [-1, -3, 0], [2, -2, 0], [2, -1, 0], [0.75, 0.25, 0])
    summed = GateSpec(score="sigmoid", select="top_k", k=2, normalise="sum_to_k")
    bias = tensor([-0.7, -0.6, -2])[0]
    found = gate(torch.zeros(1, 3, dtype=torch.float64), summed, bias=bias)
    near(found.gates, [1, 1, 0])
    found = gate(tensor([3, 0, 0]), summed, bias=bias)
    assert found.selected.tolist() == [[True, True, False]]
    own, least = 1 / (1 + math.exp(-3)) - 0.7, 1e-6
    total = own + least
    near(found.gates, [2 * own / total, 2 * least / total, 0])
    assert found.gates.sum().item() == pytest.approx(2, abs=1e-12)


def test_settings_that_do_not_go_together_are_refused() -> None:
    for settings, message in (
        ({"select": "top_k"}, "top_k takes k"),
        ({"k": 2}, "top_k takes k"),
        ({"select": "top_p"}, "top_p takes p"),
        ({"normalise": "sum_to_k"}, "needs select top_k"),
    ):
        with pytest.raises(ValueError, match=message):
            GateSpec.model_validate(settings)
    with pytest.raises(ValueError, match="k 4 is more than the 3 experts"):
        gate(LOGITS, GateSpec(select="top_k", k=4))
    for select in ("hard", "threshold"):
        with pytest.raises(ValueError, match="every token needs"):
            gate(LOGITS, GateSpec(select=select))


def test_half_precision_logits_are_gated_in_single() -> None:
    found = gate(LOGITS.to(torch.bfloat16), GateSpec())
    assert found.gates.dtype == torch.float32
    assert dense(X.bfloat16(), A.bfloat16(), B.bfloat16(), found.gates, RANKS).dtype == (
        torch.bfloat16
    )

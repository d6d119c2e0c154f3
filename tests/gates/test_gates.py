"""Gates, middle maps and losses against loops over experts and figures worked out by hand."""

import math

import pytest
import torch
from torch import Tensor

from weft.gates.apply import cheaper, dense, grouped
from weft.gates.gate import Gate, GateSpec, gate
from weft.gates.losses import (
    balance_cv2,
    balance_mixtral,
    balance_norm,
    balance_switch,
    entropy,
    label_ce,
    over,
    preserve_l2,
    z_loss,
)
from weft.gates.mid import blend, by_rank, core, diag, tile
from weft.gates.trace import GateTrace, current_trace, traced


def tensor(*rows: list[float]) -> Tensor:
    return torch.tensor(list(rows), dtype=torch.float64)


X = tensor([1, 2, 3], [0.5, -1, 2])
W0 = tensor([1, 0, 1], [0, 1, -1])
DOWNS = [
    tensor([1, 0, -1], [0, 1, 1]),
    tensor([0, 2, 0], [1, 1, 1]),
    tensor([1, 1, 0], [0, 0, 1]),
]
UPS = [tensor([1, 0], [0, 1]), tensor([0, 1], [1, 0]), tensor([1, 1], [1, -1])]
SCALES = [2.0, 1.0, 0.5]
ROUTER = tensor([0.1, 0.2, 0.3], [0.3, 0, -0.1], [-0.2, 0.1, 0.2])
A = torch.cat(DOWNS)
B = torch.cat([scale * up for scale, up in zip(SCALES, UPS, strict=True)], dim=1)
RANKS = (2, 2, 2)
BASE = X @ W0.T
LOGITS = X @ ROUTER.T


def near(found: Tensor, *rows: list[float]) -> None:
    torch.testing.assert_close(found, tensor(*rows), rtol=0, atol=6e-7)


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


@pytest.mark.parametrize("leading", [(7,), (2, 5), (2, 3, 4), (1,)])
@pytest.mark.parametrize("k", [1, 2, 4])
def test_dense_and_grouped_agree_in_values_and_gradients(leading: tuple[int, ...], k: int) -> None:
    draw = torch.Generator().manual_seed(len(leading) + k)
    ranks = (1, 3, 2, 5)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw, dtype=torch.float64).requires_grad_()

    values = [drawn(*leading, 6), drawn(sum(ranks), 6), drawn(4, sum(ranks)), drawn(*leading, 4)]
    x, down, up, logits = values
    found = gate(logits, GateSpec(select="top_k", k=k, normalise="renormalise"))
    wanted = dense(x, down, up, found.gates, ranks)
    got = grouped(x, down, up, found, ranks)
    torch.testing.assert_close(got, wanted)
    weights = torch.randn(wanted.shape, generator=draw, dtype=torch.float64)
    for one, other in zip(
        torch.autograd.grad((wanted * weights).sum(), values, retain_graph=True),
        torch.autograd.grad((got * weights).sum(), values),
        strict=True,
    ):
        torch.testing.assert_close(one, other)
    by_hand = sum(
        found.gates[..., at : at + 1] * (x @ a.T @ b.T)
        for at, (a, b) in enumerate(zip(down.split(ranks), up.split(ranks, dim=1), strict=True))
    )
    torch.testing.assert_close(wanted, by_hand)


def test_tokens_that_select_nobody_get_nothing() -> None:
    none = torch.zeros(2, 3, dtype=torch.float64)
    assert not grouped(X, A, B, Gate(none, none, none.bool()), RANKS).any()


def test_few_of_many_are_grouped() -> None:
    assert cheaper([8] * 4, 2) == "dense"
    assert cheaper([8] * 128, 2) == "grouped"
    assert cheaper([8] * 128, None) == "dense"


def test_losses_are_the_figures_worked_out_by_hand() -> None:
    found = gate(LOGITS, GateSpec())
    p = found.scores
    selected = gate(LOGITS, GateSpec(select="top_k", k=2)).selected
    figures = {
        1.513316: balance_switch(p),
        2.400479: balance_mixtral(p, 2),
        1.200239: balance_norm(p, selected),
        2.729360: z_loss(LOGITS),
        1.648783: label_ce(LOGITS, torch.tensor([1, 1])),
        1.010927: entropy(p),
        0.218304: balance_cv2(p.sum(0, keepdim=True)),
    }
    for wanted, value in figures.items():
        assert value.item() == pytest.approx(wanted, abs=1e-6)


def test_losses_at_balance_and_in_collapse() -> None:
    experts, k = 4, 2
    eye = torch.eye(experts, dtype=torch.float64)
    flat = torch.full((8, experts), 1 / experts, dtype=torch.float64)
    one = eye[torch.zeros(8, dtype=torch.long)]
    assert balance_switch(eye).item() == pytest.approx(1)
    assert balance_switch(one).item() == pytest.approx(experts)
    assert balance_mixtral(flat, k).item() == pytest.approx(k)
    assert balance_mixtral(one, k).item() == pytest.approx(experts)
    both = gate(one, GateSpec(score="raw", select="top_k", k=k)).selected
    assert balance_norm(flat, both).item() == pytest.approx(1)
    assert balance_norm(one, both).item() == pytest.approx(experts / k)
    assert z_loss(torch.zeros(3, experts)).item() == pytest.approx(math.log(experts) ** 2)
    assert entropy(flat).item() == pytest.approx(math.log(experts))
    assert entropy(one).item() == 0
    assert label_ce(torch.zeros(5, experts), torch.tensor([0, 1, 2, 3, -100])).item() == (
        pytest.approx(math.log(experts))
    )
    margin = 3.0
    assert label_ce(margin * eye, torch.arange(4)).item() == pytest.approx(
        math.log(1 + 3 * math.exp(-margin))
    )
    # Localised balance: none for one entry, 4 for a one-hot sample of four experts, blind to size.
    assert balance_cv2(tensor([3.0])).item() == 0
    assert balance_cv2(tensor([2, 0, 0, 0])).item() == pytest.approx(4.0)
    usage = tensor([1, 2, 3, 4], [4, 1, 1, 1])
    assert balance_cv2(5 * usage).item() == pytest.approx(balance_cv2(usage).item(), rel=1e-8)
    importance = tensor([1.5, 1.5, 0.5, 0.5])
    assert balance_cv2(1 / importance, importance).item() == pytest.approx(0, abs=1e-12)


def test_what_is_counted_carries_no_gradient() -> None:
    logits = LOGITS.clone().requires_grad_()
    p = logits.softmax(-1)
    (by_loss,) = torch.autograd.grad(balance_switch(p), logits, retain_graph=True)
    share = torch.tensor([1.0, 0, 0], dtype=torch.float64)  # both tokens' largest is the first
    (by_hand,) = torch.autograd.grad(3 * (share * p.mean(0)).sum(), logits)
    torch.testing.assert_close(by_loss, by_hand)


def test_distance_from_the_start_and_means_over_modules() -> None:
    start = [torch.randn(3, 2), torch.randn(4)]
    values = [value.clone().requires_grad_() for value in start]
    loss = preserve_l2(values, start)
    loss.backward()
    assert loss.item() == 0
    assert not any(value.grad.any() for value in values if value.grad is not None)
    assert preserve_l2([start[0] + 2, start[1]], start).item() == pytest.approx(24, rel=1e-5)
    each = [torch.tensor(1.0), torch.tensor(3.0)]
    assert (over(each).item(), over(each, "sum").item()) == (2, 4)


def test_a_trace_belongs_to_its_call_and_padding_never_counts() -> None:
    assert current_trace() is None
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    trace = GateTrace(mask=mask, labels=torch.tensor([2, 0]))
    scores = torch.arange(18.0).view(2, 3, 3)
    with traced(trace):
        for _ in range(2):  # gradient checkpointing runs a module twice
            found = current_trace()
            assert found is trace
            found.record("a", scores, Gate(scores, scores, scores > 0))
    assert current_trace() is None
    assert list(trace.gates) == ["a"]
    assert trace.counted(scores).tolist() == [[0, 1, 2], [3, 4, 5], [9, 10, 11]]
    assert trace.tokens_of_labels().tolist() == [2, 2, 0]
    assert GateTrace().counted(scores).shape == (6, 3)
    with pytest.raises(ValueError, match="have no labels"):
        GateTrace(mask=mask).tokens_of_labels()


def test_half_precision_logits_are_gated_in_single() -> None:
    found = gate(LOGITS.to(torch.bfloat16), GateSpec())
    assert found.gates.dtype == torch.float32
    assert dense(X.bfloat16(), A.bfloat16(), B.bfloat16(), found.gates, RANKS).dtype == (
        torch.bfloat16
    )

"""Losses on gates against figures worked out by hand."""

import math

import pytest
import torch

from tests.methods.gates.example import LOGITS, tensor
from weft.methods.gates.gate import GateSpec, gate
from weft.methods.gates.losses import (
    balance_cv2,
    balance_mixtral,
    balance_norm,
    balance_switch,
    entropy,
    label_ce,
    over,
    preserve_l2,
    task_ce,
    z_loss,
)
from weft.methods.gates.trace import GateTrace


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


def test_localised_balance_of_two_entries_and_of_none_in_use() -> None:
    # Unbiased variance of 1 and 3 is 2, their mean's square 4.
    assert balance_cv2(tensor([1, 3])).item() == pytest.approx(0.5)
    idle = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    value = balance_cv2(idle)
    value.backward()
    assert value.item() == 0
    assert idle.grad is not None
    assert not idle.grad.any()


def test_a_gate_of_every_token_is_told_its_sequence_s_task_at_each_real_one() -> None:
    logits = torch.randn(3, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [0, 1, 1, 1]])
    own = [2, 0, -1]
    log = logits.log_softmax(-1)
    wanted = -torch.stack(
        [log[row, token, own[row]] for row in (0, 1) for token in range(4) if mask[row, token]]
    ).mean()
    found = task_ce(GateTrace(mask, labels=torch.tensor(own)), logits)
    torch.testing.assert_close(found, wanted)
    nobody = GateTrace(mask, labels=torch.tensor([-1, -1, -1]))
    assert task_ce(nobody, logits).item() == 0

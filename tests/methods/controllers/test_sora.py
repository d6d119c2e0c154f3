"""SoRA: the proximal step against its closed form, its penalty, and what is left of shut gates."""

import pytest
import torch

from tests.methods.adapters.starts import draw, variant_on
from weft.methods.controllers.sora import SoRAController, SoRASettings, soft_threshold
from weft.methods.penalties.sora import SoRAPenalty, SoRAPenaltySettings
from weft.training.adamw import AdamW

OUT, IN, RANK = 12, 10, 5


def test_the_proximal_step_is_the_minimiser_it_stands_for() -> None:
    values = torch.tensor([-2.0, -0.3, 0.0, 0.1, 0.31, 1.5], dtype=torch.float64)
    found = soft_threshold(values, 0.3)
    expected = torch.tensor([-1.7, 0.0, 0.0, 0.0, 0.01, 1.2], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    # argmin_g 0.5 (g - v)^2 + 0.3 |g|, searched on a grid.
    grid = torch.linspace(-3, 3, 60_001, dtype=torch.float64)
    for value, own in zip(values, found, strict=True):
        best = grid[(0.5 * (grid - value) ** 2 + 0.3 * grid.abs()).argmin()]
        assert own == pytest.approx(best.item(), abs=1e-4)


def test_every_gate_moves_by_the_threshold_or_shuts_and_shut_ones_are_not_stored() -> None:
    adapter = variant_on("gated", draw(OUT, IN), rank=RANK)
    with torch.no_grad():
        adapter.get_parameter("gate").copy_(torch.tensor([0.9, -0.05, 0.02, -0.4, 0.1]))
        adapter.get_parameter("B").copy_(draw(OUT, RANK))
    optimizer = AdamW([{"params": list(adapter.parameters()), "lr": 0.05}])
    own = SoRAController(SoRASettings(threshold=2))
    before = adapter.get_parameter("gate").detach().clone()
    own.after_step({"map": adapter}, optimizer, 0, 10)
    gate = adapter.get_parameter("gate").detach()
    assert gate[[1, 2]].tolist() == [0, 0]
    open_ = gate != 0
    torch.testing.assert_close(gate[open_].abs(), before[open_].abs() - 0.1, rtol=0, atol=1e-12)
    with torch.no_grad():
        A, B = adapter.factors(draw(OUT, IN))
        assert len(A) == int(open_.sum())
        torch.testing.assert_close(B @ A, adapter.delta(draw(OUT, IN)), rtol=0, atol=1e-12)


def test_the_penalty_is_the_mean_size_of_all_gates() -> None:
    made = {
        name: variant_on("gated", draw(OUT, IN), rank=rank) for name, rank in (("a", 2), ("b", 5))
    }
    sizes = torch.cat([adapter.get_parameter("gate") for adapter in made.values()]).abs()
    own = SoRAPenalty(SoRAPenaltySettings(sparsity=10))
    found, wanted = torch.as_tensor(own.loss(None, None, made)), 10 * sizes.sum() / 7
    torch.testing.assert_close(found.detach(), wanted.detach(), rtol=1e-12, atol=0)
    assert own.loss(None, None, {}) == 0.0

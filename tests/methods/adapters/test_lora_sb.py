"""LoRA-SB starts at the best low-rank copy of the first full step, and steps as the equations say, in float64."""

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor

from tests.methods.adapters.starts import draw
from weft.methods.adapters.lora_sb import LoRASB, Spec
from weft.methods.adapters.lora_xs import LoRAXS
from weft.methods.adapters.lora_xs import Spec as XSSpec

OUT, IN, RANK, RATE = 20, 14, 4, 0.01
NEAR = {"rtol": 1e-12, "atol": 1e-12}


def start(W0: Tensor, rank: int = RANK) -> LoRASB:
    return LoRASB(W0, Spec(rank=rank), torch.Generator().manual_seed(1)).to(W0.dtype)


def calibrated(W0: Tensor, G: Tensor, rank: int = RANK, rate: float = RATE) -> LoRASB:
    adapter = start(W0, rank)
    LoRASB.prepare({"map": adapter}, {"map": W0}, lambda rows: {"map": G}, rate)
    return adapter


def truncated(matrix: Tensor, rank: int) -> Tensor:
    U, S, Vh = torch.linalg.svd(matrix, full_matrices=False)
    return (U[:, :rank] * S[:rank]) @ Vh[:rank]


def test_it_starts_at_the_best_low_rank_copy_of_the_first_step() -> None:
    W0, G = draw(OUT, IN), draw(OUT, IN, seed=2)
    step = -RATE * G.sign()
    change = calibrated(W0, G).delta(W0)
    torch.testing.assert_close(change, truncated(step, RANK), **NEAR)
    rest = torch.linalg.svdvals(step)[RANK:]
    torch.testing.assert_close((step - change).square().sum(), rest.square().sum(), **NEAR)


def test_at_full_rank_it_starts_where_adamw_would_step_to() -> None:
    W0, G = draw(OUT, IN), draw(OUT, IN, seed=2)
    full = W0.clone().requires_grad_()
    full.grad = G.clone()
    torch.optim.AdamW([full], lr=RATE, weight_decay=0.0).step()
    change = calibrated(W0, G, rank=IN).delta(W0)
    # AdamW divides by |g| + 1e-8, and no entry of this G is below 1e-3.
    assert G.abs().min() > 1e-3
    torch.testing.assert_close(W0 + change, full.detach(), rtol=0, atol=RATE * 1e-5)


@pytest.mark.parametrize("rate", [RATE, 1e-12, 0.0])
def test_the_frozen_factors_are_orthonormal_and_r_is_the_singular_values(rate: float) -> None:
    W0, G = draw(OUT, IN), draw(OUT, IN, seed=2)
    adapter = calibrated(W0, G, rate=rate)
    identity = torch.eye(RANK).double()
    torch.testing.assert_close(adapter.B.T @ adapter.B, identity, **NEAR)
    torch.testing.assert_close(adapter.A @ adapter.A.T, identity, **NEAR)
    values = torch.linalg.svdvals(G.sign())[:RANK]
    torch.testing.assert_close(adapter.R.detach(), (rate * values).diag(), rtol=1e-12, atol=0)
    # The directions are those of the step, whatever its size.
    torch.testing.assert_close((adapter.B * values) @ adapter.A, truncated(-G.sign(), RANK), **NEAR)


def test_they_stay_orthonormal_in_single_precision_under_a_half_precision_base() -> None:
    W0, G = draw(OUT, IN).bfloat16(), draw(OUT, IN, seed=2).bfloat16()
    adapter = start(W0).float()
    LoRASB.prepare({"map": adapter}, {"map": W0}, lambda rows: {"map": G}, RATE)
    identity = torch.eye(RANK)
    torch.testing.assert_close(adapter.B.T @ adapter.B, identity, rtol=0, atol=1e-5)
    torch.testing.assert_close(adapter.A @ adapter.A.T, identity, rtol=0, atol=1e-5)


def test_a_plain_step_on_r_is_the_projected_full_step() -> None:
    W0, G = draw(OUT, IN), draw(OUT, IN, seed=2)
    adapter = calibrated(W0, draw(OUT, IN, seed=3))
    before = adapter.delta(W0).detach()
    optimizer = torch.optim.SGD(adapter.parameters(), lr=0.5)
    (adapter.delta(W0) * G).sum().backward()
    torch.testing.assert_close(adapter.R.grad, adapter.B.T @ G @ adapter.A.T, **NEAR)
    optimizer.step()
    rows = adapter.A.T @ torch.linalg.inv(adapter.A @ adapter.A.T) @ adapter.A
    columns = adapter.B @ torch.linalg.inv(adapter.B.T @ adapter.B) @ adapter.B.T
    change = adapter.delta(W0).detach() - before
    torch.testing.assert_close(change, -0.5 * columns @ G @ rows, rtol=1e-11, atol=1e-11)


def test_in_the_gradients_own_directions_that_step_is_its_truncation() -> None:
    # Of a matrix of signs the calibration takes the leading directions of the matrix itself.
    W0, G = draw(OUT, IN), draw(OUT, IN, seed=2).sign()
    adapter = calibrated(W0, G)
    before = adapter.delta(W0).detach()
    (adapter.delta(W0) * G).sum().backward()
    torch.optim.SGD(adapter.parameters(), lr=0.5).step()
    change = adapter.delta(W0).detach() - before
    torch.testing.assert_close(change, -0.5 * truncated(G, RANK), rtol=1e-11, atol=1e-11)


def test_zeros_of_the_gradient_stay_zero_and_its_scale_does_not_matter() -> None:
    W0, G = draw(OUT, IN), draw(OUT, IN, seed=2)
    G[3] = 0.0
    G[:, [0, 5]] = 0.0
    change = calibrated(W0, G, rank=IN).delta(W0)
    torch.testing.assert_close(change, -RATE * G.sign(), **NEAR)
    assert change[3].abs().max() < 1e-15
    assert torch.equal(calibrated(W0, 1e-20 * G).delta(W0), calibrated(W0, G).delta(W0))


def test_the_forward_is_lora_xs_without_a_scale() -> None:
    W0, x = draw(OUT, IN), draw(3, IN, seed=4)
    adapter = calibrated(W0, draw(OUT, IN, seed=2))
    wide = LoRAXS(W0, XSSpec(rank=RANK, alpha=RANK), torch.Generator()).double()
    wide.load_state_dict(adapter.state_dict())
    torch.testing.assert_close(adapter(x, W0), wide(x, W0), **NEAR)
    change = adapter.B @ adapter.R @ adapter.A
    torch.testing.assert_close(adapter(x, W0), x @ change.T, **NEAR)


@pytest.mark.parametrize("shape", [(OUT, IN), (9, 31)])
def test_it_trains_rank_squared_numbers_on_a_map_of_any_size(shape: tuple[int, int]) -> None:
    assert LoRASB.parameter_count(*shape, Spec(rank=RANK)) == RANK**2
    assert set(start(draw(*shape)).state_dict()) == {"A", "B", "R"}


def test_before_calibration_it_changes_nothing_and_is_orthonormal() -> None:
    W0 = draw(OUT, IN)
    adapter = start(W0)
    assert not adapter.delta(W0).any()
    assert torch.equal(adapter.B.T @ adapter.B, torch.eye(RANK).double())
    assert torch.equal(adapter.A @ adapter.A.T, torch.eye(RANK).double())


def by_autograd(
    W0: Mapping[str, Tensor], adapters: Mapping[str, LoRASB]
) -> Callable[[int], Mapping[str, Tensor]]:
    """Gradients of a real loss of the model as it stands, over `rows` rows."""

    def gradients(rows: int) -> Mapping[str, Tensor]:
        leaves = {name: weight.clone().requires_grad_() for name, weight in W0.items()}
        x = draw(100, IN, seed=6)[:rows]
        loss = sum(
            (x @ leaf.T + adapters[name](x, leaf)).square().sum() for name, leaf in leaves.items()
        )
        assert isinstance(loss, Tensor)
        return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))

    return gradients


def test_preparing_is_repeatable_and_touches_nothing_else() -> None:
    W0 = {"one": draw(OUT, IN), "two": draw(9, IN, seed=8)}
    before = {name: weight.clone() for name, weight in W0.items()}
    asked: list[int] = []
    states = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        adapters = {
            name: LoRASB(w, Spec(rank=RANK, calibration_rows=30), torch.Generator()).double()
            for name, w in W0.items()
        }
        parameters = [adapter.R for adapter in adapters.values()]
        found = by_autograd(W0, adapters)

        def gradients(
            rows: int, found: Callable[[int], Mapping[str, Tensor]] = found
        ) -> Mapping[str, Tensor]:
            asked.append(rows)
            return found(rows)

        LoRASB.prepare(adapters, W0, gradients, RATE)
        assert torch.equal(torch.get_rng_state(), state)
        assert [adapter.R for adapter in adapters.values()] == parameters
        assert all(value.requires_grad and value.grad is None for value in parameters)
        states.append({name: value.state_dict() for name, value in adapters.items()})
    for name, weight in W0.items():
        assert torch.equal(weight, before[name])
        assert all(torch.equal(states[0][name][key], states[1][name][key]) for key in "ABR")
        x = draw(100, IN, seed=6)[:30]
        step = -RATE * (2 * (x @ weight.T).T @ x).sign()
        R = states[0][name]
        torch.testing.assert_close(R["B"] @ R["R"] @ R["A"], truncated(step, RANK), **NEAR)
    assert asked == [30, 30]


def test_weights_that_have_moved_are_kept() -> None:
    """An expert that starts from a trained one has its own directions already."""
    W0, G = draw(OUT, IN), draw(OUT, IN, seed=2)
    adapter = calibrated(W0, G)
    before = {name: value.clone() for name, value in adapter.state_dict().items()}
    LoRASB.prepare({"map": adapter}, {"map": W0}, lambda rows: {"map": -G.T.reshape(OUT, IN)}, 1.0)
    assert all(torch.equal(value, before[name]) for name, value in adapter.state_dict().items())


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0.0, "LoRA-SB: the gradient of layer.1 over 50 .* zero throughout.*calibration_rows"),
        (float("nan"), "LoRA-SB: the gradient of layer.1 over 50 .* not finite"),
    ],
)
def test_a_target_without_a_first_step_is_refused_by_name(value: float, message: str) -> None:
    W0 = {"layer.0": draw(OUT, IN), "layer.1": draw(OUT, IN)}
    G = {"layer.0": draw(OUT, IN), "layer.1": torch.full((OUT, IN), value).double()}
    adapters = {name: start(weight) for name, weight in W0.items()}
    with pytest.raises(ValueError, match=message):
        LoRASB.prepare(adapters, W0, lambda rows: G, RATE)
    assert not any(adapter.R.any() for adapter in adapters.values())

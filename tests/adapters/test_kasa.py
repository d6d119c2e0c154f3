"""KaSA: the truncated base, the learnt singular values, and PEFT's from the same tensors."""

import warnings

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import KasaConfig
from torch import Tensor, nn

from weft.adapters.kasa import KaSA, Spec

RANK, ALPHA = 3, 6.0
SHAPES = [(24, 16), (16, 24), (16, 16)]


def weight(out: int, inner: int, seed: int = 7) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(out, inner, generator=draw, dtype=torch.float64) / 4


def start(W0: Tensor, seed: int = 0) -> KaSA:
    return KaSA(W0, Spec(rank=RANK, alpha=ALPHA), torch.Generator().manual_seed(seed)).double()


def moved(W0: Tensor) -> KaSA:
    adapter = start(W0)
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for value in adapter.parameters():
            value.add_(0.2 * torch.randn(value.shape, generator=draw))
    return adapter


@pytest.mark.parametrize("shape", SHAPES)
def test_it_starts_at_the_weight_without_its_smallest_singular_values(
    shape: tuple[int, int],
) -> None:
    W0 = weight(*shape)
    kept = W0 + start(W0).delta(W0)
    U, S, Vh = torch.linalg.svd(W0, full_matrices=False)
    k = min(shape) - RANK
    torch.testing.assert_close(kept, U[:, :k] @ torch.diag(S[:k]) @ Vh[:k], rtol=0, atol=1e-12)
    assert torch.linalg.matrix_rank(kept, rtol=1e-9) == k
    torch.testing.assert_close(torch.linalg.norm(W0 - kept), S[k:].square().sum().sqrt())
    x = torch.randn(5, shape[1], dtype=torch.float64)
    torch.testing.assert_close(x @ W0.T + start(W0)(x, W0), x @ kept.T, rtol=0, atol=1e-12)
    assert (x @ W0.T - x @ kept.T).abs().max() > 0.1


def test_learnt_values_start_as_the_authors_draw_them() -> None:
    W0 = weight(24, 16)
    draws = [start(W0, seed) for seed in range(40)]
    d = torch.cat([adapter.d for adapter in draws])
    assert abs(d.mean()) < 0.3
    assert abs(d.std() - 1) < 0.2
    assert all(not adapter.B.any() for adapter in draws)
    assert max(adapter.A.abs().max() for adapter in draws) <= 1 / 16**0.5


@pytest.mark.parametrize("shape", SHAPES)
def test_the_change_is_the_papers_equation(shape: tuple[int, int]) -> None:
    W0 = weight(*shape)
    adapter = moved(W0)
    U, S, Vh = torch.linalg.svd(W0, full_matrices=False)
    tail = U[:, -RANK:] @ torch.diag(S[-RANK:]) @ Vh[-RANK:]
    update = ALPHA / RANK * adapter.B @ torch.diag(adapter.d) @ adapter.A
    torch.testing.assert_close(adapter.delta(W0), update - tail, rtol=0, atol=1e-12)
    A, B = adapter.factors(W0)
    assert A.shape == (2 * RANK, shape[1])
    assert B.shape == (shape[0], 2 * RANK)


def test_the_gradient_of_a_singular_value() -> None:
    W0 = weight(24, 16)
    G = weight(24, 16, seed=8)
    adapter = moved(W0)
    (found,) = torch.autograd.grad((adapter.delta(W0) * G).sum(), [adapter.d])
    wanted = [ALPHA / RANK * adapter.B[:, i] @ G @ adapter.A[i] for i in range(RANK)]
    torch.testing.assert_close(found, torch.stack(wanted), rtol=1e-12, atol=1e-12)
    fresh = start(W0)
    on_A, on_B, on_d = torch.autograd.grad((fresh.delta(W0) * G).sum(), [fresh.A, fresh.B, fresh.d])
    assert not on_A.any()
    assert not on_d.any()
    wanted_B = ALPHA / RANK * G @ (fresh.d[:, None] * fresh.A).T
    torch.testing.assert_close(on_B, wanted_B, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_it_trains_two_factors_and_a_vector(shape: tuple[int, int]) -> None:
    assert KaSA.parameter_count(*shape, Spec(rank=RANK)) == RANK * sum(shape) + RANK


@pytest.mark.parametrize("rank", [16, 17])
def test_a_rank_that_would_remove_the_whole_weight_is_refused(rank: int) -> None:
    with pytest.raises(ValueError, match=rf"rank {rank} leaves nothing .* choose a rank below 16"):
        KaSA(weight(24, 16), Spec(rank=rank), torch.Generator())


class Net(nn.Module):
    """Two maps, one wider than tall."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(16, 24)
        self.down = nn.Linear(24, 12)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.tanh(self.up(x)))


MAPS = ("up", "down")
LETTERS = {"A": "lora_A.{}.weight", "B": "lora_B.{}.weight", "d": "lora_diag.{}"}


def theirs(base: Net, adapters: dict[str, KaSA]) -> PeftModel:
    """PEFT's KaSA on a copy of `base`, with the same start."""
    copy = Net().double()
    copy.load_state_dict(base.state_dict())
    config = LoraConfig(
        r=RANK, lora_alpha=ALPHA, target_modules=list(MAPS), kasa_config=KasaConfig()
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(copy, config).double()
    own = twins(model)
    with torch.no_grad():
        for name, adapter in adapters.items():
            for letter, value in adapter.named_parameters():
                own[f"{name}.{letter}"].copy_(value)
            layer = model.get_submodule(f"base_model.model.{name}.base_layer").weight
            W0 = base.get_submodule(name).weight
            # PEFT decomposes in single precision, whatever the weight.
            kept = W0 + start(W0).delta(W0)
            torch.testing.assert_close(layer.data, kept, rtol=0, atol=2e-6)
            layer.copy_(kept)
    return model


def twins(model: PeftModel) -> dict[str, nn.Parameter]:
    return {
        f"{name}.{letter}": model.get_parameter(f"base_model.model.{name}.{path.format('default')}")
        for name in MAPS
        for letter, path in LETTERS.items()
    }


def test_outputs_gradients_and_ten_steps_are_pefts() -> None:
    torch.manual_seed(0)
    base = Net().double().requires_grad_(False)
    adapters = {name: moved(base.get_submodule(name).weight.detach()) for name in MAPS}
    model = theirs(base, adapters)

    def ours(x: Tensor) -> Tensor:
        up, down = base.up, base.down
        hidden = torch.tanh(up(x) + adapters["up"](x, up.weight))
        return down(hidden) + adapters["down"](hidden, down.weight)

    own = {f"{n}.{letter}": v for n, a in adapters.items() for letter, v in a.named_parameters()}
    other = twins(model)
    assert list(own) == list(other)
    x, y = torch.randn(8, 16, dtype=torch.float64), torch.randn(8, 12, dtype=torch.float64)
    optimizers = [
        torch.optim.AdamW(values.values(), lr=0.02, weight_decay=0.1) for values in (own, other)
    ]
    begun = {name: value.detach().clone() for name, value in own.items()}
    for _ in range(10):
        got, wanted = ours(x), model(x)
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)
        for output, optimizer in zip((got, wanted), optimizers, strict=True):
            optimizer.zero_grad()
            (output - y).square().mean().backward()
        for name, value in own.items():
            torch.testing.assert_close(value.grad, other[name].grad, rtol=1e-8, atol=1e-9)
        for optimizer in optimizers:
            optimizer.step()
    for name, value in own.items():
        torch.testing.assert_close(value, other[name], rtol=1e-8, atol=1e-8)
        assert (value - begun[name]).abs().max() > 0.02

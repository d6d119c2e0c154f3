"""KaSA: the truncated base, the learnt singular values, and PEFT's from the same tensors."""

import copy
import warnings

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import KasaConfig
from torch import Tensor, nn

from tests.methods.adapters.oracle import (
    LORA,
    Net,
    adapted,
    assert_ten_steps_agree,
    layer_of,
    parameters_of,
    twins_of,
)
from tests.methods.adapters.starts import draw, move
from weft.methods.adapters.kasa import KaSA, Spec

RANK, ALPHA = 3, 6.0
SHAPES = [(24, 16), (16, 24), (16, 16)]


def weight(out: int, inner: int, seed: int = 7) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(out, inner, generator=draw, dtype=torch.float64) / 4


def start(W0: Tensor, seed: int = 0) -> KaSA:
    return KaSA(W0, Spec(rank=RANK, alpha=ALPHA), torch.Generator().manual_seed(seed)).double()


def moved(W0: Tensor) -> KaSA:
    adapter = start(W0)
    move(adapter.parameters())
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


def theirs(base: Net, adapters: dict[str, KaSA]) -> tuple[PeftModel, dict[str, nn.Parameter]]:
    """PEFT's KaSA on the same net with the same start, and its parameters."""
    config = LoraConfig(
        r=RANK, lora_alpha=ALPHA, target_modules=list(adapters), kasa_config=KasaConfig()
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(copy.deepcopy(base), config).double()
    twins = twins_of(model, adapters, {**LORA, "d": "lora_diag.default"})
    for name, W0 in base.weights().items():
        layer = layer_of(model, name).base_layer.weight
        # PEFT decomposes in single precision, whatever the weight.
        kept = W0 + start(W0).delta(W0)
        torch.testing.assert_close(layer.data, kept, rtol=0, atol=2e-6)
        with torch.no_grad():
            layer.copy_(kept)
    return model, twins


def test_outputs_gradients_and_ten_steps_are_pefts() -> None:
    base = Net(16, 24, 12).double()
    adapters = {name: moved(W0) for name, W0 in base.weights().items()}
    model, twins = theirs(base, adapters)
    assert_ten_steps_agree(
        lambda x: adapted(base, adapters, x),
        model,
        parameters_of(adapters),
        twins,
        (draw(8, 16, seed=1), draw(8, 12, seed=2)),
        rate=0.02,
        decay=0.1,
        outputs={"rtol": 1e-9, "atol": 1e-9},
        gradients={"rtol": 1e-8, "atol": 1e-9},
        values={"rtol": 1e-8, "atol": 1e-8},
    )

"""Leading triplets of a changed weight without the dense matrix; intruders as PEFT finds and shrinks them."""

from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch
from peft.tuners.lora.intruders import reduce_intruder_dimension
from torch import Tensor, nn

from weft.base.loading import load_base
from weft.lowrank.intruders import Decomposed, leading_changed, mitigated

SHAPES = [(24, 24), (40, 24), (24, 40), (30, 7)]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def example(
    shape: tuple[int, int], size: float, rank: int = 3
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    out, inner = shape
    return drawn(out, inner), (drawn(rank, inner, seed=1), size * drawn(out, rank, seed=2))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [0.01, 1.0, 10.0])
def test_triplets_are_those_of_the_dense_sum(shape: tuple[int, int], size: float) -> None:
    weight, (A, B) = example(shape, size)
    found = leading_changed(Decomposed.of(weight), (A, B), 5)
    U, S, Vh = torch.linalg.svd(weight + B @ A, full_matrices=False)
    torch.testing.assert_close(found.S, S[:5])
    # A triplet is known but for its sign.
    for at in range(5):
        own = torch.outer(found.U[:, at], found.Vh[at])
        torch.testing.assert_close(own, torch.outer(U[:, at], Vh[at]), atol=1e-6, rtol=0)
    before = torch.linalg.svd(weight, full_matrices=False)[0]
    expected = (U.T @ before).abs().amax(1)[:5]
    torch.testing.assert_close(found.likeness, expected, atol=1e-6, rtol=0)


def test_a_large_spectrum_with_close_values_is_found_too() -> None:
    weight, pair = drawn(300, 200), (drawn(4, 200, seed=1), 3 * drawn(300, 4, seed=2))
    weight = weight / 20 + torch.eye(300, 200, dtype=torch.float64)
    found = leading_changed(Decomposed.of(weight), pair)
    expected = torch.linalg.svdvals(weight + pair[1] @ pair[0])[:10]
    torch.testing.assert_close(found.S, expected)


def test_equal_values_are_found_too() -> None:
    weight = torch.eye(40, dtype=torch.float64)
    pair = drawn(2, 40, seed=1), drawn(40, 2, seed=2)
    found = leading_changed(Decomposed.of(weight), pair, 8)
    torch.testing.assert_close(found.S, torch.linalg.svdvals(weight + pair[1] @ pair[0])[:8])


@pytest.mark.parametrize("shape", SHAPES)
def test_without_a_change_nothing_intrudes(shape: tuple[int, int]) -> None:
    weight, (A, B) = example(shape, 0.0)
    frozen = Decomposed.of(weight)
    assert not leading_changed(frozen, (A, B)).intruders().any()
    assert mitigated(frozen, (A, B)) == ((A, B), 0)


def test_a_planted_direction_intrudes_and_is_shrunk() -> None:
    """The new direction is orthogonal to what W0 reaches, so it is an intruder at any threshold, and comes first."""
    weight = torch.diag(torch.tensor([3.0, 2.0, 1.0, 0.0], dtype=torch.float64))[:, :3]
    A = torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64)
    B = torch.tensor([[0.0], [0.0], [0.0], [10.0]], dtype=torch.float64)
    (A2, B2), count = mitigated(Decomposed.of(weight), (A, B), epsilon=0.5, shrink=0.25)
    assert count == 1
    U, S, Vh = torch.linalg.svd(weight + B @ A)
    expected = weight + B @ A - 0.75 * S[0] * torch.outer(U[:, 0], Vh[0])
    torch.testing.assert_close(weight + B2 @ A2, expected)


@pytest.fixture
def wrapped(tiny_folder: Callable[[str], Path]) -> peft.PeftModel:
    """The tiny BERT in double precision with a large random adapter, which intrudes."""
    trunk = load_base(str(tiny_folder("bert")), dtype=torch.float64).trunk
    model = peft.get_peft_model(
        trunk, peft.LoraConfig(r=3, lora_alpha=6, target_modules=["query", "dense"])
    ).double()
    generator = torch.Generator().manual_seed(5)
    for name, value in model.named_parameters():
        if "lora_" in name:
            value.data.copy_(torch.randn(value.shape, generator=generator, dtype=torch.float64) / 4)
    return model


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_intruders_and_their_mitigation_are_peft_s(wrapped: peft.PeftModel) -> None:
    said: list[str] = []
    reduce_intruder_dimension(wrapped, logging_sink=said.append, top_k=6, threshold_epsilon=0.6)
    counts = [line.rpartition(" ")[2] for line in said if "ntruders" in line]
    found, seen = [], 0
    for module in wrapped.modules():
        if not isinstance(module, peft.tuners.lora.LoraLayer):
            continue
        base = module.get_base_layer()
        assert isinstance(base, nn.Linear)
        A = module.lora_A["default"].weight.detach()
        B = module.scaling["default"] * module.lora_B["default"].weight.detach()
        frozen = Decomposed.of(base.weight)
        (A2, B2), count = mitigated(frozen, (A, B), top=6, epsilon=0.6)
        found.append(str(count) if count else "intruders")
        ours = B2 @ A2
        if count:
            # PEFT's last step cuts the change to the adapter's rank.
            U, S, Vh = torch.linalg.svd(ours)
            ours = (U[:, :3] * S[:3]) @ Vh[:3]
            seen += 1
        theirs = module.get_delta_weight("intruder_reduced").detach()
        torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=1e-6)
    assert found == counts
    assert seen > 2

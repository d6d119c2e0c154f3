"""SLoRA, NLoRA and IntTune: where they start, what learns, and what is subtracted."""

import pytest
import torch
from torch import Tensor

from tests.methods.adapters.starts import move
from weft.config import RecipeSettings, validate
from weft.methods.adapters import adapters
from weft.methods.adapters.slora import SLoRA, Spec
from weft.methods.recipes import resolve

RANK, ALPHA = 3, 6.0
S = ALPHA / RANK
OUT, IN = 24, 16


def weight(seed: int = 7) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(OUT, IN, generator=draw, dtype=torch.float64) / 4


def start(W0: Tensor, seed: int = 0, **settings: object) -> SLoRA:
    spec = Spec.model_validate({"rank": RANK, "alpha": ALPHA, **settings})
    return SLoRA(W0, spec, torch.Generator().manual_seed(seed)).double()


def moved(W0: Tensor, **settings: object) -> SLoRA:
    adapter = start(W0, **settings)
    move(adapter.parameters())
    return adapter


def gradients(adapter: SLoRA, W0: Tensor, G: Tensor) -> dict[str, Tensor]:
    values = dict(adapter.named_parameters())
    found = torch.autograd.grad((adapter.delta(W0) * G).sum(), list(values.values()))
    return dict(zip(values, found, strict=True))


def near(got: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


def test_slora_starts_as_a_no_op_and_moves_b_first() -> None:
    W0, G = weight(), weight(8)
    adapter = start(W0)
    assert not adapter.delta(W0).any()
    assert adapter.A.abs().max() <= 1 / IN**0.5
    assert 0 < adapter.N.abs().max() <= 1 / RANK**0.5
    found = gradients(adapter, W0, G)
    assert not found["A"].any()
    assert not found["N"].any()
    near(found["B"], S * G @ (adapter.N @ adapter.A).T)


@pytest.mark.parametrize("settings", [{}, {"start": "slices"}])
def test_the_change_and_its_gradients_are_of_three_factors(settings: dict[str, object]) -> None:
    W0, G = weight(), weight(8)
    adapter = moved(W0, **settings)
    A, N, B = adapter.A, adapter.N, adapter.B
    near(adapter.delta(W0), S * B @ N @ A)
    found = gradients(adapter, W0, G)
    near(found["A"], S * (B @ N).T @ G)
    near(found["N"], S * B.T @ G @ A.T)
    near(found["B"], S * G @ (N @ A).T)
    a, b = adapter.factors(W0)
    assert a is A
    near(b, S * B @ N)


def test_with_the_identity_in_the_middle_it_is_lora() -> None:
    W0, G = weight(), weight(8)
    adapter = start(W0)
    variant = adapters.load("lora")
    spec = validate(variant.spec_type, {"rank": RANK, "alpha": ALPHA}, "test")
    lora = variant(W0, spec, torch.Generator().manual_seed(0)).double()
    # The same seed: A is drawn before N.
    near(adapter.A, lora.get_parameter("A"))
    near(adapter.B, lora.get_parameter("B"))
    with torch.no_grad():
        adapter.N.copy_(torch.eye(RANK))
        for own in (adapter.B, lora.get_parameter("B")):
            own.copy_(torch.linspace(-1, 1, OUT * RANK, dtype=torch.float64).view(OUT, RANK))
    x = torch.randn(5, IN, dtype=torch.float64)
    near(adapter(x, W0), lora(x, W0))
    found = gradients(adapter, W0, G)
    values = [lora.get_parameter("A"), lora.get_parameter("B")]
    wanted = torch.autograd.grad((lora.delta(W0) * G).sum(), values)
    near(found["A"], wanted[0])
    near(found["B"], wanted[1])


@pytest.mark.parametrize("train", ["all", "core"])
def test_nlora_starts_from_slices_of_the_weight_uncompensated(train: str) -> None:
    W0 = weight()
    adapter = start(W0, start="slices", train=train)
    assert torch.equal(adapter.A, W0[:RANK])
    assert torch.equal(adapter.N, W0[:RANK, :RANK])
    assert torch.equal(adapter.B, W0[:, :RANK])
    near(adapter.delta(W0), S * W0[:, :RANK] @ W0[:RANK, :RANK] @ W0[:RANK])
    assert adapter.delta(W0).abs().max() > 0.1
    # Its own copies: training writes to them.
    assert not {v.data_ptr() for v in (adapter.A, adapter.N)} & {W0.data_ptr()}


def test_the_slices_are_those_of_a_nystrom_approximation() -> None:
    draw = torch.Generator().manual_seed(1)
    left = torch.randn(OUT, RANK, generator=draw, dtype=torch.float64)
    W0 = left @ torch.randn(RANK, IN, generator=draw, dtype=torch.float64)
    adapter = start(W0, start="slices")
    got = adapter.B @ torch.linalg.pinv(adapter.N) @ adapter.A
    torch.testing.assert_close(got, W0, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("train", "rank"), [("all", 2 * RANK), ("core", RANK)])
def test_a_compensated_start_is_a_no_op_with_exact_factors(train: str, rank: int) -> None:
    W0, G = weight(), weight(8)
    settings = {"start": "slices", "compensate": True, "train": train}
    assert start(W0, **settings).delta(W0).abs().max() < 1e-14
    adapter = moved(W0, **settings)
    first = W0[:, :RANK] @ W0[:RANK, :RANK] @ W0[:RANK]
    near(adapter.delta(W0), S * (adapter.B @ adapter.N @ adapter.A - first))
    A, B = adapter.factors(W0)
    assert A.shape == (rank, IN)
    near(B @ A, adapter.delta(W0))
    near(gradients(adapter, W0, G)["N"], S * adapter.B.T @ G @ adapter.A.T)


def test_a_start_at_zero_has_nothing_to_compensate() -> None:
    adapter = start(weight(), compensate=True)
    assert not adapter.delta(weight()).any()
    assert set(adapter.state_dict()) == {"A", "N", "B"}


@pytest.mark.parametrize("compensate", [False, True])
def test_inttune_trains_the_middle_alone(compensate: bool) -> None:
    W0, G = weight(), weight(8)
    adapter = start(W0, start="slices", train="core", compensate=compensate)
    found = gradients(adapter, W0, G)
    assert set(found) == {"N"}
    near(found["N"], S * W0[:, :RANK].T @ G @ W0[:RANK].T)
    frozen = {name: value.clone() for name, value in adapter.named_buffers()}
    N = adapter.N.detach().clone()
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(3):
        adapter(torch.randn(4, IN, dtype=torch.float64), W0).square().sum().backward()
        optimizer.step()
    assert (adapter.N - N).abs().min() > 0
    assert set(frozen) == {"A", "B"} | ({"N0"} if compensate else set())
    assert all(torch.equal(value, frozen[name]) for name, value in adapter.named_buffers())


@pytest.mark.parametrize("shape", [(OUT, IN), (8, 40)])
def test_counts(shape: tuple[int, int]) -> None:
    for settings, count in (
        ({}, RANK * sum(shape) + RANK**2),
        ({"start": "slices", "compensate": True}, RANK * sum(shape) + RANK**2),
        ({"start": "slices", "train": "core"}, RANK**2),
    ):
        spec = Spec.model_validate({"rank": RANK, **settings})
        assert SLoRA.parameter_count(*shape, spec) == count


def test_inttune_at_llamas_size_is_the_advertised_count() -> None:
    spec = Spec(rank=128, start="slices", train="core")
    assert 32 * 7 * SLoRA.parameter_count(4096, 4096, spec) == 3_670_016


def test_training_only_the_middle_of_a_zero_product_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing would be learnt; choose start: slices"):
        validate(Spec, {"train": "core"}, "recipe")
    with pytest.raises(ValueError, match=r"recipe inttune: .*choose start: slices"):
        resolve(RecipeSettings.model_validate({"name": "inttune", "start": "kaiming"}))


@pytest.mark.parametrize(
    ("name", "where", "what"),
    [("slora", "kaiming", "all"), ("nlora", "slices", "all"), ("inttune", "slices", "core")],
)
def test_the_three_recipes_are_settings_of_one_adapter(name: str, where: str, what: str) -> None:
    recipe = resolve(RecipeSettings(name=name))
    assert recipe.adapter is SLoRA
    assert isinstance(recipe.spec, Spec)
    assert (recipe.spec.start, recipe.spec.train, recipe.spec.compensate) == (where, what, False)
    assert recipe.spec.alpha == recipe.spec.rank

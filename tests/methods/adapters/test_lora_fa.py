"""LoRA-FA's form: LoRA with a down-projection that nothing moves; PEFT opens it as the LoRA it is."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from tests.methods.adapters.starts import draw, variant_on
from tests.methods.adapters.stored import card_of
from weft.base.loading import Base, load_base
from weft.config import RecipeSettings
from weft.lowrank.peft.reading import read_peft
from weft.methods.adapters.contract import Adapter
from weft.methods.recipes import resolve
from weft.model.expert import Expert, build
from weft.storage.experts import NATIVE, load_expert, save_expert
from weft.storage.tensors import linear_shapes

OUT, IN, RANK, ALPHA = 24, 16, 3, 12.0
NEAR = {"rtol": 1e-12, "atol": 1e-12}


def start(W0: Tensor, seed: int = 0, **spec: object) -> Adapter:
    return variant_on("lora_fa", W0, seed=seed, **{"rank": RANK, "alpha": ALPHA} | spec)


@pytest.fixture
def base(tiny_folder: Callable[[str], Path]) -> Base:
    return load_base(str(tiny_folder("bert")))


@pytest.fixture
def expert(base: Base) -> Expert:
    return build("x", base, resolve(RecipeSettings(name="lora_fa")), None, seed=3)


def test_it_starts_as_lora_does_and_is_a_no_op() -> None:
    W0 = draw(OUT, IN)
    adapter = start(W0)
    assert not adapter(draw(5, IN), W0).any()
    A, B = adapter.factors(W0)
    assert not B.any()
    assert torch.equal(A, variant_on("lora", W0, rank=RANK).get_parameter("A"))
    assert A.abs().max() <= 1 / math.sqrt(IN)


def test_only_the_up_projection_is_trained() -> None:
    W0 = draw(OUT, IN)
    adapter = start(W0)
    assert list(dict(adapter.named_parameters())) == ["B"]
    assert adapter.parameter_count(OUT, IN, adapter.spec) == OUT * RANK
    # Thawing whatever an expert has does not thaw A.
    assert not adapter.requires_grad_(True).get_buffer("A").requires_grad


def test_forward_and_gradients_equal_pefts_with_a_frozen() -> None:
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Linear(IN, OUT)).double()
    W0, bias = layer[0].weight.detach().clone(), layer[0].bias.detach().clone()
    config = LoraConfig(r=RANK, lora_alpha=int(ALPHA), target_modules=["0"])
    peft = get_peft_model(layer, config).double()
    theirs = {name.split(".")[-3]: p for name, p in peft.named_parameters() if "lora_" in name}
    theirs["lora_A"].requires_grad_(False)
    adapter = start(W0)
    with torch.no_grad():
        adapter.get_parameter("B").copy_(draw(OUT, RANK, seed=1))
        theirs["lora_B"].copy_(adapter.get_parameter("B"))
        theirs["lora_A"].copy_(adapter.get_buffer("A"))
    x = draw(5, IN, seed=2)
    got = x @ W0.T + bias + adapter(x, W0)
    expected = peft(x)
    torch.testing.assert_close(got, expected, **NEAR)
    own = torch.autograd.grad(got.square().sum(), adapter.get_parameter("B"))
    torch.testing.assert_close(
        own, torch.autograd.grad(expected.square().sum(), theirs["lora_B"]), **NEAR
    )


@pytest.mark.parametrize("needed", [False, True])
def test_the_backward_pass_does_not_keep_the_input(needed: bool) -> None:
    W0 = draw(OUT, IN)
    x = draw(5, IN).requires_grad_(needed)
    kept: list[tuple[int, ...]] = []

    def pack(value: Tensor) -> Tensor:
        kept.append(tuple(value.shape))
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        start(W0)(x, W0)
    assert (5, RANK) in kept
    assert (5, IN) not in kept


def test_a_is_bit_identical_after_training_steps_with_decay(base: Base, expert: Expert) -> None:
    rule = resolve(RecipeSettings(name="lora_fa")).optimizer
    before = {name: a.get_buffer("A").clone() for name, a in expert.adapters.items()}
    up = {name: a.get_parameter("B").detach().clone() for name, a in expert.adapters.items()}
    optimizer = torch.optim.AdamW(rule.param_groups(expert.adapters, 0.1), weight_decay=0.1)
    held = [p for group in optimizer.param_groups for p in group["params"]]
    # All that the expert trains, so there is no rest that a trainer could add.
    assert {id(p) for p in held} == {id(p) for p in expert.trained().values()}
    assert {id(p) for p in held} == {id(a.get_parameter("B")) for a in expert.adapters.values()}
    for step in range(6):
        for name, adapter in expert.adapters.items():
            W0 = base.trunk.get_submodule(name).get_parameter("weight")
            (adapter(W0[:4], W0) - 1).square().sum().backward()
        rule.transform(expert.adapters, step)
        optimizer.step()
        optimizer.zero_grad()
    for name, adapter in expert.adapters.items():
        assert torch.equal(adapter.get_buffer("A"), before[name])
        assert not torch.equal(adapter.get_parameter("B"), up[name])


def test_it_is_stored_as_a_plain_lora_and_goes_on_from_the_same_bits(
    base: Base, expert: Expert, tmp_path: Path
) -> None:
    with torch.no_grad():
        for number, value in enumerate(expert.trained().values()):
            value.copy_(draw(*value.shape, seed=number))
    recipe = resolve(RecipeSettings(name="lora_fa")).describe().model_dump(mode="json")
    card = card_of(expert, base, recipe=recipe)
    save_expert(expert, card, base, tmp_path / "e")
    assert not (tmp_path / "e" / NATIVE).exists()
    stored = read_peft(tmp_path / "e", linear_shapes(base.trunk))
    assert set(stored.alphas.values()) == {16.0}
    torch.manual_seed(9)
    found, _ = load_expert(tmp_path / "e", base)
    assert list(found.trained()) == list(expert.trained())
    for name, adapter in expert.adapters.items():
        again = found.adapters[name]
        assert torch.equal(again.get_buffer("A"), adapter.get_buffer("A"))
        assert torch.equal(again.get_parameter("B"), adapter.get_parameter("B"))
        assert torch.equal(stored.factors[name][0], adapter.get_buffer("A"))

"""VB-LoRA: sub-vectors out of one bank, by the paper's equation and by PEFT."""

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import VBLoRAConfig, get_peft_model
from torch import Tensor

from tests.methods.adapters.oracle import (
    Net,
    adapted,
    assert_ten_steps_agree,
    parameters_of,
    twins_of,
)
from tests.methods.adapters.starts import adapters_of, draw, move
from weft.atomic import write_tensors
from weft.base.loading import load_base
from weft.config import RecipeSettings
from weft.methods.adapters.vb_lora import VBLoRA
from weft.methods.recipes import resolve
from weft.model.expert import Expert, build, factors_of
from weft.storage.tensors import native_adapters, native_metadata, native_state

OUT, IN, RANK = 24, 16, 3
EXACT = {"rtol": 1e-12, "atol": 1e-12}


def weight(out: int = OUT, inner: int = IN) -> Tensor:
    draw = torch.Generator().manual_seed(out + inner)
    return torch.randn(out, inner, generator=draw, dtype=torch.float64) / 4


def made(
    weights: Mapping[str, Tensor],
    ranks: Mapping[str, int] | None = None,
    seed: int = 0,
    **settings: Any,
) -> Expert:
    """As an expert starts it."""
    adapters, shared = adapters_of(
        "vb_lora", weights, ranks, seed=seed, **{"rank": RANK} | settings
    )
    return Expert("x", adapters, None, shared=shared)


def shaken(expert: Expert) -> Expert:
    """Anywhere but at its start, as after training."""
    move(expert.trained().values(), by=0.3)
    return expert


def values(expert: Expert, module: str = "map") -> tuple[Tensor, Tensor, Tensor]:
    """The bank, and a map's logits for A and for B."""
    own = expert.trained()
    number = list(expert.adapters).index(module)
    return (
        own["shared.vectors"],
        own[f"_adapters.{number}.logits_A"],
        own[f"_adapters.{number}.logits_B"],
    )


def sub_vector(bank: Tensor, logits: Tensor, k: int) -> Tensor:
    """Softmax over the k largest logits, of the bank's vectors, one after the other."""
    chosen = sorted(range(len(logits)), key=lambda j: -logits[j].item())[:k]
    weights = [logits[j].exp() for j in chosen]
    parts = [w / sum(weights) * bank[j] for w, j in zip(weights, chosen, strict=True)]
    return sum(parts, torch.zeros_like(bank[0]))


@pytest.mark.parametrize("k", [2, 4])
def test_factors_are_mosaics_of_mixed_vectors(k: int) -> None:
    W0 = weight()
    expert = shaken(made({"map": W0}, num_vectors=7, vector_length=4, top_k=k))
    bank, logits_A, logits_B = values(expert)
    assert (logits_A.shape, logits_B.shape) == ((RANK, IN // 4, 7), (OUT // 4, RANK, 7))
    A, B = torch.zeros(RANK, IN, dtype=W0.dtype), torch.zeros(OUT, RANK, dtype=W0.dtype)
    for row in range(RANK):
        for part in range(IN // 4):
            A[row, 4 * part : 4 * part + 4] = sub_vector(bank, logits_A[row, part], k)
        for part in range(OUT // 4):
            B[4 * part : 4 * part + 4, row] = sub_vector(bank, logits_B[part, row], k)
    found = expert.adapters["map"].factors(W0)
    torch.testing.assert_close(found, (A, B), **EXACT)
    x = torch.randn(5, IN, dtype=W0.dtype)
    torch.testing.assert_close(expert.adapters["map"](x, W0), x @ A.T @ B.T, **EXACT)


def test_it_starts_by_the_authors_laws_and_is_no_no_op() -> None:
    W0 = weight(64, 32)
    expert = made({"map": W0})
    bank, logits_A, logits_B = values(expert)
    assert bank.shape == (90, 32)
    assert bank.abs().max() <= 0.02
    # Of 2,880 uniform and 810 normal draws, variances are within a tenth (2.6 and 2 deviations).
    assert bank.var().item() == pytest.approx(0.02**2 / 3, rel=0.1)
    logits = torch.cat([logits_A.flatten(), logits_B.flatten()])
    assert logits.var().item() == pytest.approx(0.1**2, rel=0.1)
    assert expert.adapters["map"].delta(W0).any()
    other = values(made({"map": W0}, seed=1))
    assert not any(torch.equal(a, b) for a, b in zip(values(expert), other, strict=True))
    wide = made({"map": W0}, init_bound=1.0, init_std=2.0)
    torch.testing.assert_close(values(wide)[0], 50 * bank, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(values(wide)[1], 20 * logits_A, rtol=1e-6, atol=1e-6)


def test_only_what_is_chosen_gets_a_gradient() -> None:
    W0 = weight()
    expert = shaken(made({"map": W0}, num_vectors=60))
    bank, *logits = values(expert)
    x = torch.randn(5, IN, dtype=W0.dtype)
    expert.adapters["map"](x, W0).square().sum().backward()
    used = torch.zeros(len(bank), dtype=torch.bool)
    for own in logits:
        chosen = torch.zeros_like(own, dtype=torch.bool)
        chosen.scatter_(
            -1, own.topk(2, dim=-1).indices, torch.tensor(True).expand(*own.shape[:2], 2)
        )
        assert torch.equal(own.grad != 0, chosen)
        # Weights that add up to one: what one logit gains the other loses.
        torch.testing.assert_close(own.grad.sum(-1), torch.zeros(own.shape[:2]).double(), **EXACT)
        used |= chosen.flatten(0, 1).any(0)
    assert not used.all()
    assert torch.equal((bank.grad != 0).any(-1), used)


def test_the_banks_gradient_is_the_sum_over_the_maps() -> None:
    weights = {"one": weight(), "two": weight(32, 64)}
    expert = shaken(made(weights, num_vectors=6))
    bank = values(expert, "one")[0]

    def gradient(*names: str) -> Tensor:
        total = sum(expert.adapters[name].delta(weights[name]).square().sum() for name in names)
        return torch.autograd.grad(total, bank)[0]

    both = gradient("one", "two")
    torch.testing.assert_close(both, gradient("one") + gradient("two"), **EXACT)
    assert gradient("one").any()
    assert gradient("two").any()


@pytest.mark.parametrize(
    ("shapes", "length"),
    [
        ([(768, 768)], 128),
        ([(384, 384), (1536, 384)], 128),
        ([(768, 768), (3072, 768), (768, 3072)], 128),
        ([(1024, 1024), (1024, 2624)], 64),
        ([(24, 16)], 8),
        ([(300, 600)], 100),
        ([(7, 10)], 1),
    ],
)
def test_vectors_are_as_long_as_all_maps_allow(shapes: list[tuple[int, int]], length: int) -> None:
    weights = {str(at): torch.empty(*shape, device="meta") for at, shape in enumerate(shapes)}
    expert = made(weights)
    assert values(expert, "0")[0].shape == (90, length)
    for name, shape in enumerate(shapes):
        logits = sum(value.numel() for value in values(expert, str(name))[1:])
        assert logits == 90 * RANK * sum(shape) // length


def test_a_length_that_divides_no_map_is_refused_with_its_name() -> None:
    weights = {"layer.0.query": weight(32, 64), "layer.0.ffn": weight(24, 64)}
    with pytest.raises(
        ValueError,
        match=r"vector_length 16 does not divide both sides of layer\.0\.ffn, which is 24 x 64; "
        "set a divisor of 8",
    ):
        made(weights, vector_length=16)
    assert values(made(weights, vector_length=4), "layer.0.ffn")[0].shape == (90, 4)
    recipe = resolve(RecipeSettings(name="vb_lora", vector_length=16))
    with pytest.raises(ValueError, match="does not divide both sides of the map"):
        VBLoRA.parameter_count(24, 64, recipe.spec)


def test_the_count_is_the_bank_and_a_logit_for_each_vector_and_sub_vector() -> None:
    weights = {"one": weight(), "two": weight(32, 64)}
    expert = made(weights, ranks={"one": 2, "two": 5}, num_vectors=6, vector_length=8)
    logits = 6 * 2 * (OUT + IN) // 8 + 6 * 5 * (32 + 64) // 8
    assert expert.adapter_parameters() == 6 * 8 + logits
    spec = expert.adapters["two"].spec
    assert VBLoRA.parameter_count(32, 64, spec) == 6 * 5 * (32 + 64) // 8


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"top_k": 1}, "top_k: .*greater than or equal to 2, got 1"),
        ({"num_vectors": 3, "top_k": 4}, "top_k: .*at most num_vectors, which is 3, got 4"),
        ({"init_bound": 0.0}, "init_bound: .*greater than 0"),
        ({"alpha": 16.0}, "no setting named 'alpha'"),
        ({"save_only_topk_weights": True}, "no setting named 'save_only_topk_weights'"),
    ],
)
def test_settings_without_a_meaning_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"recipe vb_lora: {message}"):
        resolve(RecipeSettings(name="vb_lora", **settings))


def test_ranks_may_differ_and_all_logits_come_back(
    tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    base = load_base(str(tiny_folder("bert")), dtype=torch.float64)
    settings = {"targets": ["query", "ffn_in"], "rank": 3, "ranks": {"query": 2}}
    recipe = resolve(RecipeSettings(name="vb_lora", **settings))
    expert = shaken(build("x", base, recipe, None, seed=5))
    assert {adapter.rank for adapter in expert.adapters.values()} == {2, 3}
    path = tmp_path / "native.safetensors"
    write_tensors(path, native_state(expert), native_metadata(expert))
    adapters, shared = native_adapters(path, factors_of(expert, base.trunk), base, recipe)
    found = Expert("y", adapters, None, shared=shared).state_dict()
    expected = expert.state_dict()
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


def test_forward_gradients_and_ten_steps_equal_pefts() -> None:
    net = Net(IN, OUT, 32).double()
    expert = shaken(made(net.weights(), num_vectors=6, vector_length=8))
    config = VBLoRAConfig(
        r=RANK, num_vectors=6, vector_length=8, topk=2, target_modules=["first", "second"]
    )
    peft = get_peft_model(copy.deepcopy(net), config).double()
    paths = {letter: f"vblora_{letter}.default" for letter in ("logits_A", "logits_B")}
    twins = twins_of(peft, expert.adapters, paths)
    twins["bank"] = peft.base_model.vblora_vector_bank["default"]
    own = {**parameters_of(expert.adapters), "bank": values(expert, "first")[0]}
    with torch.no_grad():
        twins["bank"].copy_(own["bank"])
    x, target = draw(9, IN, seed=1), draw(9, 32, seed=2)

    def ours(x: Tensor) -> Tensor:
        return adapted(net, expert.adapters, x)

    torch.testing.assert_close(ours(x), peft(x), **EXACT)
    before = {name: value.detach().clone() for name, value in own.items()}
    near = {"rtol": 1e-8, "atol": 1e-8}
    assert_ten_steps_agree(ours, peft, own, twins, (x, target), rate=0.03, decay=0.1, outputs=near)
    assert all((value - before[name]).abs().max() > 0.1 for name, value in own.items())
    # Even another choice of vectors was met on the way.
    logits = "first.logits_A"
    assert not torch.equal(own[logits].topk(2).indices, before[logits].topk(2).indices)
    torch.testing.assert_close(ours(x), peft(x), **near)

"""Uni-LoRA: all factors are `P theta`, by P written out and by PEFT."""

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import UniLoraConfig, get_peft_model
from torch import Tensor, nn

from tests.methods.adapters.oracle import Net, adapted, assert_ten_steps_agree, layer_of
from tests.methods.adapters.starts import adapters_of, draw
from weft.atomic import write_tensors
from weft.base.loading import load_base
from weft.config import RecipeSettings
from weft.methods.adapters.lora import LoRA
from weft.methods.adapters.lora import Spec as LoRASpec
from weft.methods.adapters.uni_lora import UniLoRA, Vector
from weft.methods.recipes import resolve
from weft.model.expert import Expert, build, factors_of
from weft.storage.tensors import native_adapters, native_metadata, native_state

IN, MIDDLE, OUT, RANK = 16, 24, 32, 3
SHAPES = {"first": (MIDDLE, IN), "second": (OUT, MIDDLE)}
ENTRIES = RANK * (IN + MIDDLE + MIDDLE + OUT)
EXACT = {"rtol": 1e-12, "atol": 1e-12}


def weights() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(7)
    return {
        name: torch.randn(*shape, generator=draw, dtype=torch.float64) / 4
        for name, shape in SHAPES.items()
    }


def made(
    W0: Mapping[str, Tensor],
    ranks: Mapping[str, int] | None = None,
    seed: int = 0,
    **settings: Any,
) -> Expert:
    """As an expert starts it."""
    adapters, shared = adapters_of("uni_lora", W0, ranks, seed=seed, **{"rank": RANK} | settings)
    return Expert("x", adapters, None, shared=shared)


def vector(expert: Expert) -> Vector:
    assert isinstance(expert.shared, Vector)
    return expert.shared


def indices(expert: Expert) -> Tensor:
    """Which number each entry of all factors is, map after map, A before B."""
    return torch.cat([a.get_buffer("index") for a in expert.adapters.values()]).long()


def projection(expert: Expert) -> Tensor:
    """P (entries, length), from the indices alone."""
    index = indices(expert)
    P = torch.zeros(len(index), vector(expert).theta.numel(), dtype=torch.float64)
    for row, number in enumerate(index.tolist()):
        P[row, number] = (index == number).sum().double() ** -0.5
    return P


def flat(expert: Expert, W0: Mapping[str, Tensor]) -> Tensor:
    """All factors end to end."""
    pairs = [adapter.factors(W0[name]) for name, adapter in expert.adapters.items()]
    return torch.cat([side.flatten() for pair in pairs for side in pair])


@pytest.mark.parametrize("length", [1, 7, 48, 100, 287, ENTRIES])
def test_the_factors_are_an_isometry_of_the_vector(length: int) -> None:
    W0 = weights()
    expert = made(W0, length=length)
    theta, P = vector(expert).theta, projection(expert)
    torch.testing.assert_close(P.T @ P, torch.eye(length, dtype=torch.float64), **EXACT)
    assert torch.equal((P != 0).sum(1), torch.ones(ENTRIES, dtype=torch.long))
    found = flat(expert, W0)
    torch.testing.assert_close(found, P @ theta, **EXACT)
    torch.testing.assert_close(found.norm(), theta.norm(), **EXACT)


def test_the_gradient_is_that_of_all_factors_pulled_back() -> None:
    W0 = weights()
    expert = made(W0, length=20)
    theta, P = vector(expert).theta, projection(expert)
    x = torch.randn(5, IN, dtype=torch.float64)

    def loss(entries: Tensor) -> Tensor:
        """Naively, from the flat factors."""
        h, at = x, 0
        for name, (out, inner) in SHAPES.items():
            A = entries[at : at + RANK * inner].view(RANK, inner)
            at += RANK * inner
            B = entries[at : at + RANK * out].view(out, RANK)
            at += RANK * out
            h = torch.tanh(h @ (W0[name] + B @ A).T)
        return h.square().sum()

    entries = (P @ theta).detach().requires_grad_()
    (pulled,) = torch.autograd.grad(loss(entries), entries)
    h = x
    for name, adapter in expert.adapters.items():
        h = torch.tanh(h @ W0[name].T + adapter(h, W0[name]))
    (found,) = torch.autograd.grad(h.square().sum(), theta)
    torch.testing.assert_close(found, P.T @ pulled, rtol=1e-10, atol=1e-12)
    assert found.all()


@pytest.mark.parametrize("length", [1, 10, 33, 256])
@pytest.mark.parametrize("ranks", [(3, 3), (1, 5), (8, 2)])
def test_every_number_stands_for_as_many_entries_give_or_take_one(
    length: int, ranks: tuple[int, int]
) -> None:
    expert = made(weights(), ranks=dict(zip(SHAPES, ranks, strict=True)), length=length)
    if length > 1:
        assert not torch.equal(indices(expert), indices(expert).sort().values)
    found = torch.bincount(indices(expert), minlength=length)
    assert torch.equal(found, vector(expert).counts.long())
    assert found.max() - found.min() <= 1
    assert found.sum() == sum(
        rank * sum(shape) for rank, shape in zip(ranks, SHAPES.values(), strict=True)
    )
    assert next(iter(expert.adapters.values())).get_buffer("index").dtype == torch.int32


def test_which_numbers_come_once_more_is_left_to_chance() -> None:
    """Over many seeds, each of 9 numbers stands for one of the entries left over as often as any other."""
    more = torch.zeros(9)
    for seed in range(64):
        counts = vector(made(weights(), seed=seed, length=9, rank=1)).counts
        more += counts > counts.min()
    # The two maps have 96 entries: 10 for each and 6 over, so 64 draws of 2/3; four deviations wide.
    assert more.sum() == 64 * 6
    assert ((more - 64 * 2 / 3).abs() < 4 * (64 * 2 / 9) ** 0.5).all()


def test_the_count_is_the_vectors_whatever_the_ranks_and_maps() -> None:
    W0 = weights()
    for rank in (1, 8):
        expert = made(W0, rank=rank, length=40)
        assert expert.adapter_parameters() == 40
        assert list(expert.trained()) == ["shared.theta"]
        assert UniLoRA.parameter_count(MIDDLE, IN, expert.adapters["first"].spec) == 0
    assert made({"first": W0["first"]}, length=40).adapter_parameters() == 40
    # A sixteenth of the entries, but never none.
    assert made(W0).adapter_parameters() == ENTRIES // 16 == 18
    assert made({"map": torch.ones(2, 3)}, rank=1).adapter_parameters() == 1
    bert = {str(at): torch.empty(768, 768, device="meta") for at in range(24)}
    assert made(bert, rank=8).adapter_parameters() == 294_912 // 16


def test_it_starts_small_but_is_no_no_op() -> None:
    W0 = weights()
    expert = made(W0, length=200)
    theta = vector(expert).theta
    assert theta.abs().max() <= 0.02
    # Of 200 uniform draws, the variance is within a fifth (3 deviations).
    assert theta.var().item() == pytest.approx(0.02**2 / 3, rel=0.2)
    for name, adapter in expert.adapters.items():
        delta = adapter.delta(W0[name])
        assert 0 < delta.abs().max() <= RANK * 0.02**2
    wide = vector(made(W0, length=200, init_bound=1.0)).theta
    torch.testing.assert_close(wide, 50 * theta, rtol=1e-6, atol=1e-6)


def test_with_a_number_for_each_entry_it_is_lora() -> None:
    W0 = weights()
    expert = made(W0, length=ENTRIES)
    with torch.no_grad():
        vector(expert).theta.mul_(30)
    x = torch.randn(5, MIDDLE, dtype=torch.float64)
    adapter, weight = expert.adapters["second"], W0["second"]
    lora = LoRA(weight, LoRASpec(rank=RANK, alpha=RANK), torch.Generator())
    lora.A, lora.B = (nn.Parameter(side.detach().clone()) for side in adapter.factors(weight))
    torch.testing.assert_close(adapter(x, weight), lora(x, weight), **EXACT)
    (found,) = torch.autograd.grad(adapter(x, weight).square().sum(), vector(expert).theta)
    lora(x, weight).square().sum().backward()
    wanted = torch.zeros(ENTRIES, dtype=torch.float64)
    own = adapter.get_buffer("index").long()
    assert len(own.unique()) == len(own)
    wanted[own] = torch.cat([lora.A.grad.flatten(), lora.B.grad.flatten()])
    torch.testing.assert_close(found, wanted, **EXACT)


def test_more_numbers_than_entries_are_refused_with_both() -> None:
    W0 = weights()
    with pytest.raises(
        ValueError, match=f"length {ENTRIES + 1} is more than the {ENTRIES} entries of all factors"
    ):
        made(W0, length=ENTRIES + 1)
    # What counts is the ranks that the maps have, not the expert's own.
    ranks = {"first": RANK, "second": RANK + 1}
    assert made(W0, ranks=ranks, length=ENTRIES + 1).adapter_parameters() == ENTRIES + 1
    with pytest.raises(ValueError, match="more than the 232 entries"):
        made(W0, ranks={"first": 3, "second": 2}, length=ENTRIES)
    meta = {name: torch.empty_like(value, device="meta") for name, value in W0.items()}
    with pytest.raises(ValueError, match=f"more than the {ENTRIES} entries"):
        made(meta, length=ENTRIES + 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"length": 0}, "length: .*greater than or equal to 1, got 0"),
        ({"init_bound": 0.0}, "init_bound: .*greater than 0"),
        ({"alpha": 16.0}, "no setting named 'alpha'"),
    ],
)
def test_settings_without_a_meaning_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"recipe uni_lora: {message}"):
        resolve(RecipeSettings(name="uni_lora", **settings))


def test_the_seed_decides_which_entry_is_which() -> None:
    first = indices(made(weights(), length=20))
    torch.manual_seed(9)
    assert torch.equal(indices(made(weights(), length=20)), first)
    assert not torch.equal(indices(made(weights(), length=20, seed=1)), first)


def test_the_indices_come_back_whatever_the_seed_and_the_order_of_the_maps(
    tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    base = load_base(str(tiny_folder("bert")), dtype=torch.float64)
    settings = {"targets": ["query", "ffn_in"], "rank": 3, "ranks": {"query": 2}}
    recipe = resolve(RecipeSettings(name="uni_lora", **settings))
    expert = build("x", base, recipe, None, seed=5)
    with torch.no_grad():
        vector(expert).theta.add_(0.3)
    path = tmp_path / "native.safetensors"
    write_tensors(path, native_state(expert), native_metadata(expert))
    factors = factors_of(expert, base.trunk)
    for order in (list(factors), list(factors)[::-1]):
        turned = {name: factors[name] for name in order}
        adapters, shared = native_adapters(path, turned, base, recipe)
        assert list(adapters) == order
        found = Expert("y", adapters, None, shared=shared)
        assert torch.equal(vector(found).theta, vector(expert).theta)
        assert torch.equal(vector(found).counts, vector(expert).counts)
        again = factors_of(found, base.trunk)
        for name, pair in factors.items():
            assert all(torch.equal(a, b) for a, b in zip(again[name], pair, strict=True))


def test_forward_gradients_and_ten_steps_equal_pefts() -> None:
    net = Net(IN, MIDDLE, OUT).double()
    expert = made(net.weights(), length=50)
    theta = vector(expert).theta
    with torch.no_grad():
        theta.mul_(50)
    config = UniLoraConfig(r=RANK, theta_d_length=50, target_modules=list(SHAPES))
    peft = get_peft_model(copy.deepcopy(net), config).double()
    twin = peft.base_model.unilora_theta_d["default"]
    # PEFT makes its scales in single precision, so both get 1 / sqrt(n) in double.
    scale = torch.bincount(indices(expert)).double() ** -0.5
    for name, (out, inner) in SHAPES.items():
        layer = layer_of(peft, name)
        own = expert.adapters[name].get_buffer("index").long()
        down, up = own[: RANK * inner].view(RANK, inner), own[RANK * inner :].view(out, RANK)
        layer.unilora_indices_A["default"], layer.unilora_indices_B["default"] = down, up
        layer.unilora_scales_A["default"] = scale[down]
        layer.unilora_scales_B["default"] = scale[up]
    with torch.no_grad():
        twin.copy_(theta)
    x, target = draw(9, IN, seed=1), draw(9, OUT, seed=2)

    def ours(x: Tensor) -> Tensor:
        return adapted(net, expert.adapters, x)

    torch.testing.assert_close(ours(x), peft(x), **EXACT)
    start = theta.detach().clone()
    own, twins, near = {"theta": theta}, {"theta": twin}, {"rtol": 1e-8, "atol": 1e-8}
    assert_ten_steps_agree(ours, peft, own, twins, (x, target), rate=0.03, decay=0.1, outputs=near)
    assert (theta - start).abs().max() > 0.1
    torch.testing.assert_close(ours(x), peft(x), **near)

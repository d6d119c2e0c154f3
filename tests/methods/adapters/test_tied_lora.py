"""Tied-LoRA: one pair of factors for all maps of a shape."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.methods.adapters.starts import adapters_of, move
from weft.base.loading import load_base
from weft.config import RecipeSettings
from weft.methods.adapters.lora import LoRA
from weft.methods.adapters.lora import Spec as LoRASpec
from weft.methods.adapters.tied_lora import Pairs, TiedLoRA
from weft.methods.recipes import resolve
from weft.model.expert import build

OUT, IN, RANK, ALPHA = 24, 16, 3, 6.0
SCALING = ALPHA / RANK
SHAPES = {"0.query": (OUT, IN), "0.up": (20, IN), "1.query": (OUT, IN), "1.up": (20, IN)}


def weights(shapes: Mapping[str, tuple[int, int]] = SHAPES) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(7)
    return {name: torch.randn(s, generator=draw).double() for name, s in shapes.items()}


def start(
    W0: Mapping[str, Tensor], seed: int = 0, ranks: Mapping[str, int] | None = None
) -> tuple[dict[str, TiedLoRA], Pairs]:
    settings = {"rank": RANK, "alpha": ALPHA}
    adapters, shared = adapters_of("tied_lora", W0, ranks, seed=seed, **settings)
    assert isinstance(shared, Pairs)
    return adapters, shared


def move_all(adapters: Mapping[str, TiedLoRA], shared: Pairs) -> None:
    modules = (*adapters.values(), shared)
    move([value for module in modules for value in module.parameters()], by=0.3)


def backward(adapters: Mapping[str, TiedLoRA], W0: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Run a loss over all maps backward; its gradient with respect to each map's weight."""
    deltas = {name: adapter.delta(W0[name]) for name, adapter in adapters.items()}
    total = torch.stack([(delta - W0[name]).square().sum() for name, delta in deltas.items()]).sum()
    total.backward()
    return {name: 2 * (delta - W0[name]).detach() for name, delta in deltas.items()}


def test_its_change_is_the_papers_product() -> None:
    W0 = weights()
    adapters, shared = start(W0)
    move_all(adapters, shared)
    for name, adapter in adapters.items():
        A, B = shared.of(W0[name])
        expected = SCALING * torch.diag(adapter.v) @ B @ torch.diag(adapter.u) @ A
        torch.testing.assert_close(adapter.delta(W0[name]), expected, rtol=1e-12, atol=1e-12)


def test_it_starts_as_a_no_op() -> None:
    W0 = weights()
    adapters, shared = start(W0)
    for name, adapter in adapters.items():
        assert not adapter.delta(W0[name]).any()
        assert (adapter.u == 1).all()
        assert (adapter.v == 1).all()
        A, B = shared.of(W0[name])
        assert not B.any()
        assert A.abs().max() <= IN**-0.5


def test_a_shared_gradient_is_the_sum_of_the_layers_lora_gradients() -> None:
    W0 = weights()
    adapters, shared = start(W0)
    move_all(adapters, shared)
    gradients = backward(adapters, W0)
    for shape in ((OUT, IN), (20, IN)):
        own = [name for name in W0 if W0[name].shape == shape]
        assert len(own) == 2
        pair = shared[f"{shape[0]}x{shape[1]}"]
        A, B = pair.get_parameter("A"), pair.get_parameter("B")
        want_A, want_B = torch.zeros_like(A), torch.zeros_like(B)
        for name in own:
            G = gradients[name]
            u, v = adapters[name].u, adapters[name].v
            # LoRA's own: s B^T G for A and s G A^T for B, here of the map's rescaled factors.
            want_A += u[:, None] * (SCALING * (v[:, None] * B).T @ G)
            want_B += v[:, None] * (SCALING * G @ (u[:, None] * A).T)
            per_rank = torch.diagonal(SCALING * (v[:, None] * B).T @ G @ A.T)
            per_row = torch.diagonal(SCALING * B @ torch.diag(u) @ A @ G.T)
            torch.testing.assert_close(adapters[name].u.grad, per_rank, rtol=1e-10, atol=1e-10)
            torch.testing.assert_close(adapters[name].v.grad, per_row, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(A.grad, want_A, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(B.grad, want_B, rtol=1e-10, atol=1e-10)


def test_a_single_map_with_vectors_of_one_is_lora() -> None:
    W0 = weights({"map": (OUT, IN)})
    adapters, shared = start(W0, seed=4)
    lora = LoRA(
        W0["map"], LoRASpec(rank=RANK, alpha=ALPHA), torch.Generator().manual_seed(4)
    ).double()
    A, B = shared.of(W0["map"])
    assert torch.equal(A, lora.A)
    for vector in (adapters["map"].u, adapters["map"].v):
        vector.requires_grad_(False)
    ours = torch.optim.AdamW(shared.parameters(), lr=0.05)
    theirs = torch.optim.AdamW(lora.parameters(), lr=0.05)
    draw = torch.Generator().manual_seed(1)
    for _ in range(10):
        x = torch.randn(5, IN, generator=draw, dtype=torch.float64)
        for optimizer, adapter in ((ours, adapters["map"]), (theirs, lora)):
            optimizer.zero_grad()
            (adapter(x, W0["map"]) - x @ W0["map"].T).square().mean().backward()
            optimizer.step()
    assert B.abs().min() > 1e-3
    torch.testing.assert_close(A, lora.A, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(B, lora.B, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(
        adapters["map"].delta(W0["map"]), lora.delta(W0["map"]), rtol=1e-9, atol=1e-9
    )


def test_maps_are_tied_by_shape_and_counted_once() -> None:
    W0 = weights()
    adapters, shared = start(W0)
    assert list(shared) == ["24x16", "20x16"]
    assert not torch.equal(*(pair.get_parameter("A") for pair in shared.values()))
    once = sum(value.numel() for value in shared.parameters())
    assert once == RANK * (OUT + IN) + RANK * (20 + IN)
    each = [sum(value.numel() for value in adapter.parameters()) for adapter in adapters.values()]
    assert each == [RANK + OUT, RANK + 20] * 2


def test_an_expert_owns_the_pair(tiny_folder: Callable[[str], Path]) -> None:
    base = load_base(str(tiny_folder("bert")))
    expert = build("x", base, resolve(RecipeSettings(name="tied_lora", rank=RANK)), None, seed=0)
    # Query and value of two layers, 32 x 32.
    assert expert.adapter_parameters() == RANK * (32 + 32) + 4 * (RANK + 32)
    assert [name for name in expert.trained() if name.startswith("shared.")] == [
        "shared.32x32.A",
        "shared.32x32.B",
    ]


def test_a_rank_of_a_maps_own_is_refused_with_the_reason() -> None:
    with pytest.raises(
        ValueError,
        match=r"ranks: .* share factors of rank 3, so a map \(20x16\) cannot have rank 2; set `rank`",
    ):
        start(weights(), ranks=dict.fromkeys(SHAPES, RANK) | {"1.up": 2})


def test_factors_come_from_the_experts_seed() -> None:
    W0 = weights()
    first, again, other = (start(W0, seed)[1]["24x16"].get_parameter("A") for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)

"""MiCA: what is frozen, what learns, and PEFT's own."""

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from weft.methods.adapters.mica import MiCA, Spec


def weight() -> Tensor:
    return torch.randn(24, 16, generator=torch.Generator().manual_seed(7)) / 4


def start(W0: Tensor) -> MiCA:
    return MiCA(W0, Spec(rank=3, alpha=6), torch.Generator())


def test_the_up_projection_is_the_weights_minor_directions_and_the_start_changes_nothing() -> None:
    W0 = weight().double()
    adapter = start(W0).double()
    assert not adapter.delta(W0).any()
    _, S, _ = torch.linalg.svd(W0)
    torch.testing.assert_close(adapter.B.T @ adapter.B, torch.eye(3, dtype=torch.float64))
    # Through them, the weight shows its smallest singular values alone.
    torch.testing.assert_close(torch.linalg.svdvals(adapter.B.T @ W0), S[-3:])
    assert [name for name, _ in adapter.named_parameters()] == ["A"]


def test_it_trains_as_pefts_does() -> None:
    W0 = weight()
    ours = start(W0)
    theirs = nn.Sequential(nn.Linear(16, 24, bias=False))
    theirs[0].weight = nn.Parameter(W0.clone())
    model = get_peft_model(
        theirs, LoraConfig(r=3, lora_alpha=6, target_modules=["0"], init_lora_weights="mica")
    )
    values = dict(model.named_parameters())
    A, B = (next(v for n, v in values.items() if f"lora_{side}" in n) for side in "AB")
    assert not B.requires_grad
    torch.testing.assert_close(B.abs(), ours.B.abs(), rtol=0, atol=1e-5)
    with torch.no_grad():
        B.copy_(ours.B)
    optimizers = [torch.optim.AdamW([value], lr=1e-2) for value in (A, ours.A)]
    draw = torch.Generator().manual_seed(1)
    for _ in range(10):
        x = torch.randn(5, 16, generator=draw)
        wanted = model(x)
        got = x @ W0.T + ours(x, W0)
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
        for value, optimizer in zip((wanted, got), optimizers, strict=True):
            value.square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    torch.testing.assert_close(ours.A, A, rtol=1e-4, atol=1e-5)
    assert ours.A.any()

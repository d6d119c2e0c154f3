"""Attention with the faster dropout is attention."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from weft.base.attention import NAME, attention
from weft.base.dropout import Dropout
from weft.base.loading import load_base
from weft.config import load_run
from weft.training.assembly import assemble
from weft.training.settings import completed

NEVER = 1e-9
"""A rate that rounds to no entry at all: the own path, with nothing dropped."""


def inputs() -> dict[str, Tensor]:
    ids = torch.randint(5, 90, (3, 40), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 30:] = 0
    mask[2, 5:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def with_rate(trunk: nn.Module, rate: float) -> None:
    """Dropout of attention alone at `rate`, in training."""
    trunk.train()
    for module in trunk.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    for name, module in trunk.named_modules():
        if isinstance(getattr(module, "attention_dropout", None), float):
            cast(Any, module).attention_dropout = rate
        inner = getattr(module, "attn_dropout", None)
        inner = getattr(module, "dropout", None) if name.endswith(("self", "attention")) else inner
        if isinstance(inner, nn.Dropout):
            inner.p = rate


def states(trunk: PreTrainedModel, implementation: str) -> Tensor:
    trunk.set_attn_implementation(implementation)
    batch = inputs()
    hidden = trunk(**batch).last_hidden_state
    return hidden * batch["attention_mask"].unsqueeze(-1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_without_dropout_it_is_sdpa_to_the_bit(
    model_type: str, dtype: torch.dtype, tiny_folder: Callable[[str], Path]
) -> None:
    trunk = load_base(str(tiny_folder(model_type)), dtype=dtype).trunk
    with torch.no_grad():
        assert torch.equal(states(trunk, NAME), states(trunk, "sdpa"))


def test_its_own_path_is_sdpas_equation_with_its_gradients(
    model_type: str, tiny_folder: Callable[[str], Path]
) -> None:
    trunk = load_base(str(tiny_folder(model_type)), dtype=torch.float64).trunk
    found = []
    for implementation, rate in ((NAME, NEVER), ("sdpa", 0.0)):
        with_rate(trunk, rate)
        trunk.requires_grad_(True).zero_grad()
        hidden = states(trunk, implementation)
        hidden.square().sum().backward()
        grads = {n: p.grad.clone() for n, p in trunk.named_parameters() if p.grad is not None}
        found.append((hidden.detach(), grads))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=0, atol=1e-12)
    # The rate does reach it.
    with_rate(trunk, 0.5)
    assert not torch.allclose(states(trunk, NAME), found[0][0])
    for name, value in found[1][1].items():
        torch.testing.assert_close(found[0][1][name], value, rtol=1e-8, atol=1e-10, msg=name)


def test_shares_are_dropped_at_the_rate_and_scaled_up() -> None:
    torch.manual_seed(0)
    layer = nn.Module()
    size = 200
    query, key = (torch.randn(2, 3, size, 8) for _ in range(2))
    value = torch.eye(size).expand(2, 3, size, size).contiguous()
    mask = torch.ones(2, 1, size, size, dtype=torch.bool)
    mask[1, ..., 150:] = False
    # With the identity as values, what comes out are the shares themselves.
    whole, _ = attention(layer, query, key, value, mask, is_causal=False)
    dropped, _ = attention(layer, query, key, value, mask, dropout=0.25, is_causal=False)
    seen = whole > 0
    kept = dropped[seen] > 0
    assert abs(kept.float().mean().item() - 0.75) < 5 * (0.25 * 0.75 / kept.numel()) ** 0.5
    torch.testing.assert_close(dropped[seen][kept], whole[seen][kept] / 0.75, rtol=1e-5, atol=1e-8)
    assert not dropped[~seen].any()


@pytest.mark.parametrize(("rate", "expected"), [(0.0, "sdpa"), (0.1, NAME)])
def test_training_takes_it_where_something_is_dropped(
    rate: float,
    expected: str,
    tiny_folder: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    (tmp_path / "t.yaml").write_text("kind: causal_lm\nformat: text\nmax_length: 32\nstride: 1\n")
    for split in ("train", "validation"):
        (tmp_path / f"{split}.txt").write_text("good film\n\nbad book\n")
    run = {
        "base": str(tiny_folder("llama")),
        "task": {"name": str(tmp_path / "t.yaml"), "data": str(tmp_path)},
        "training": {"base_dropout": rate, "max_steps": 1},
    }
    session = assemble(completed(load_run(run)), torch.device("cpu"))
    trunk = cast(PreTrainedModel, session.model.trunk)
    assert trunk.config._attn_implementation == expected
    assert not any(isinstance(m, nn.Dropout) and type(m) is not Dropout for m in trunk.modules())

"""OLoRA: the QR start; what it has in common with PiSSA is in test_olora_pissa."""

import pytest
import torch
from torch import Tensor

from tests.methods.adapters.starts import adapter_of, draw, move
from weft.methods.adapters.olora import OLoRA

OUT, IN, RANK, ALPHA = 24, 16, 3, 7.5
NEAR = {"rtol": 1e-12, "atol": 1e-12}


def start(W0: Tensor, **settings: object) -> OLoRA:
    adapter = adapter_of("olora", W0, **{"rank": RANK, "alpha": ALPHA} | settings)
    assert isinstance(adapter, OLoRA)
    return adapter


@pytest.mark.parametrize("shape", [(OUT, IN), (IN, OUT)])
def test_it_starts_from_the_first_columns_of_the_qr_decomposition(shape: tuple[int, int]) -> None:
    W0 = draw(*shape)
    adapter = start(W0)
    A, B = adapter.A.detach(), adapter.B.detach()
    torch.testing.assert_close(B.T @ B, torch.eye(RANK).double(), **NEAR)
    assert torch.equal(A, A.triu())
    assert (A.diagonal() > 0).all()
    # Gram and Schmidt: what the first columns of W0 span, and all of W0's share in it.
    torch.testing.assert_close(B @ A[:, :RANK], W0[:, :RANK], **NEAR)
    torch.testing.assert_close(A, B.T @ W0, **NEAR)
    first = W0[:, 0] / W0[:, 0].norm()
    torch.testing.assert_close(B[:, 0], first, **NEAR)


def test_the_same_weight_starts_the_same_however_its_signs_fall() -> None:
    W0 = draw(OUT, IN)
    signs = torch.where(draw(OUT, seed=1) < 0, -1.0, 1.0).double()
    # Rows flipped: the same R, and Q with the same rows flipped.
    one, two = start(W0), start(signs[:, None] * W0)
    torch.testing.assert_close(two.A, one.A, **NEAR)
    torch.testing.assert_close(two.B, signs[:, None] * one.B, **NEAR)


def test_at_full_rank_and_alpha_the_rest_is_nothing() -> None:
    W0 = draw(OUT, IN)
    adapter = start(W0, rank=IN, alpha=IN)
    torch.testing.assert_close(adapter.B0 @ adapter.A0, W0, **NEAR)


def test_its_start_is_part_of_its_state() -> None:
    W0 = draw(OUT, IN)
    adapter, other = start(W0), start(draw(OUT, IN, seed=1))
    move(adapter.parameters())
    assert set(adapter.state_dict()) == {"A", "B", "A0", "B0"}
    other.load_state_dict(adapter.state_dict())
    assert torch.equal(other.delta(W0), adapter.delta(W0))

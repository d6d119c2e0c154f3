"""Two tokens, three experts of rank 2 on one map: small enough to be worked out by hand."""

import torch
from torch import Tensor


def tensor(*rows: list[float]) -> Tensor:
    return torch.tensor(list(rows), dtype=torch.float64)


X = tensor([1, 2, 3], [0.5, -1, 2])
W0 = tensor([1, 0, 1], [0, 1, -1])
DOWNS = [
    tensor([1, 0, -1], [0, 1, 1]),
    tensor([0, 2, 0], [1, 1, 1]),
    tensor([1, 1, 0], [0, 0, 1]),
]
UPS = [tensor([1, 0], [0, 1]), tensor([0, 1], [1, 0]), tensor([1, 1], [1, -1])]
SCALES = [2.0, 1.0, 0.5]
ROUTER = tensor([0.1, 0.2, 0.3], [0.3, 0, -0.1], [-0.2, 0.1, 0.2])
A = torch.cat(DOWNS)
B = torch.cat([scale * up for scale, up in zip(SCALES, UPS, strict=True)], dim=1)
RANKS = (2, 2, 2)
BASE = X @ W0.T
LOGITS = X @ ROUTER.T


def near(found: Tensor, *rows: list[float]) -> None:
    torch.testing.assert_close(found, tensor(*rows), rtol=0, atol=6e-7)

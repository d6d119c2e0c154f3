"""Where factors start: seeded draws that are the same on every machine, and truncated decompositions of a weight.

Draws come from a CPU generator in single precision, whatever the device, and nothing is drawn on the meta device, where
adapters are built only to be counted. Decompositions run in at least single precision.
"""

import math

import torch
from torch import Tensor


def uniform(
    shape: tuple[int, ...], bound: float, generator: torch.Generator, like: Tensor
) -> Tensor:
    """Uniform in [-bound, bound), on the device of `like`."""
    if like.device.type == "meta":
        return torch.empty(shape, device="meta")
    return torch.empty(shape).uniform_(-bound, bound, generator=generator).to(like.device)


def normal(shape: tuple[int, ...], std: float, generator: torch.Generator, like: Tensor) -> Tensor:
    """Normal with mean 0, on the device of `like`."""
    if like.device.type == "meta":
        return torch.empty(shape, device="meta")
    return torch.empty(shape).normal_(0.0, std, generator=generator).to(like.device)


def kaiming(shape: tuple[int, int], generator: torch.Generator, like: Tensor) -> Tensor:
    """`(out, in)` uniform in ±1/sqrt(in): torch's default for a linear map, `kaiming_uniform_(a=sqrt(5))`."""
    return uniform(shape, 1 / math.sqrt(shape[1]), generator, like)


def zero_product(weight: Tensor, rank: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """`A (rank, in)` drawn by `kaiming` and `B (out, rank)` of zeros, for a map with the shape of `weight`."""
    out_features, in_features = weight.shape
    A = kaiming((rank, in_features), generator, weight)
    return A, torch.zeros(out_features, rank, device=weight.device)


def zero_first(weight: Tensor, rank: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The mirror of `zero_product`: `A (rank, in)` of zeros and `B (out, rank)` drawn by `kaiming`."""
    out_features, in_features = weight.shape
    B = kaiming((out_features, rank), generator, weight)
    return torch.zeros(rank, in_features, device=weight.device), B


def wide(weight: Tensor) -> Tensor:
    """`weight`, detached, in single precision, or in double where it is double."""
    return weight.detach().to(torch.promote_types(weight.dtype, torch.float32))


def svd(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`U (out, k), S (k,), Vh (k, in)` with `weight == U @ diag(S) @ Vh`, k the smaller side, S falling.

    Singular vectors have no sign of their own; here the entry of largest size in each column of U is positive, so that
    the same weight gives the same factors wherever the routine underneath happens to flip them.
    """
    U, S, Vh = torch.linalg.svd(wide(weight), full_matrices=False)
    if weight.device.type == "meta":
        return U, S, Vh
    largest = U.abs().argmax(dim=0, keepdim=True)
    sign = torch.where(U.gather(0, largest) < 0, -1.0, 1.0).to(U.dtype)
    return U * sign, S, Vh * sign.T


def leading(weight: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """`U (out, rank), S (rank,), Vh (rank, in)` of the largest singular values."""
    U, S, Vh = svd(weight)
    return U[:, :rank], S[:rank], Vh[:rank]


def trailing(weight: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """`U (out, rank), S (rank,), Vh (rank, in)` of the smallest singular values, still falling."""
    U, S, Vh = svd(weight)
    return U[:, -rank:], S[-rank:], Vh[-rank:]

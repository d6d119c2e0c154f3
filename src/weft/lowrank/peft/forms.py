"""PEFT's other low-rank types as the factors of a plain LoRA, their scales within them.

    ADALORA   dW = s B diag(E) A,  s = lora_alpha / (init_r + 1e-5)
    LOHA      dW = s (a1 b1) * (a2 b2), entry by entry, s = alpha / r: rank r^2, rows and columns taken in pairs
    VERA      dW = diag(b) B diag(d) A, A and B the same for all maps

Read from PEFT 0.21.2: `tuners/adalora/layer.py`, `tuners/loha/layer.py`, `tuners/vera/layer.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from weft.lowrank.peft.config import value_for

Sides = dict[str, Tensor]
_SAME_AS_LOADED = 1e-5
"""What PEFT adds to the rank it divides by."""


@dataclass(frozen=True)
class Projections:
    """VeRA's trained vectors by module, and the random maps they rescale, as far as they are stored."""

    b: dict[str, Tensor]
    """(out,) by module."""
    d: dict[str, Tensor]
    """(rank,) by module."""
    A: Tensor | None
    """(rank, largest in)."""
    B: Tensor | None
    """(largest out, rank)."""


def parts_of(
    tensors: Mapping[str, Tensor], ends: Mapping[str, str], path: Path
) -> tuple[dict[str, Sides], dict[str, Tensor]]:
    """Tensors by module and part, where their names end as `ends` has it, and all others.

    Raises:
        ValueError: If a module lacks a part.
    """
    found: dict[str, Sides] = {}
    extra = {}
    for name, value in tensors.items():
        module, _, last = name.rpartition(".")
        if last in ends:
            found.setdefault(module, {})[ends[last]] = value
        else:
            extra[name.replace(".base_layer.", ".")] = value
    for module, sides in found.items():
        for end, part in ends.items():
            if part not in sides:
                raise ValueError(f"{path}: lacks {module}.{end}")
    if not found:
        raise ValueError(f"{path}: holds no {', '.join(ends)}, so there is nothing to weave in")
    return found, extra


def adalora(
    tensors: Mapping[str, Tensor], config: Mapping[str, Any], path: Path
) -> tuple[dict[str, Sides], dict[str, Tensor]]:
    """A and B by module, and what else there is; a map whose ranks were all pruned has one that is 0."""
    found, extra = parts_of(tensors, {"lora_A": "A", "lora_B": "B", "lora_E": "E"}, path)
    alpha, rank = float(config["lora_alpha"]), float(config["init_r"])
    scaling = (alpha if alpha > 0 else rank) / (rank + _SAME_AS_LOADED)
    factors = {}
    for module, sides in found.items():
        A, B, E = (sides[part].float() for part in ("A", "B", "E"))
        if A.dim() != 2 or B.dim() != 2 or E.shape != (len(A), 1) or B.shape[1] != len(A):
            shapes = ", ".join(f"lora_{part} {tuple(sides[part].shape)}" for part in sides)
            raise ValueError(f"{path}: the parts of {module} do not belong together: {shapes}")
        if not len(A):
            A, B = A.new_zeros(1, A.shape[1]), B.new_zeros(len(B), 1)
            E = A.new_zeros(1, 1)
        factors[module] = {"A": (A * E).contiguous(), "B": scaling * B}
    return factors, extra


def loha(
    tensors: Mapping[str, Tensor], config: Mapping[str, Any], path: Path
) -> tuple[dict[str, Sides], dict[str, Tensor]]:
    """A and B by module, and what else there is; of no larger rank than the map has."""
    for name in tensors:
        if name.endswith((".hada_t1", ".hada_t2")):
            raise ValueError(f"{path}: {name} belongs to a convolution; weft reads linear maps")
    ends = {f"hada_{part}": part for part in ("w1_a", "w1_b", "w2_a", "w2_b")}
    found, extra = parts_of(tensors, ends, path)
    factors = {}
    for module, sides in found.items():
        a1, b1, a2, b2 = (sides[part].double() for part in ("w1_a", "w1_b", "w2_a", "w2_b"))
        rank = int(value_for(config, "rank_pattern", "r", module))
        fits = all(value.dim() == 2 for value in (a1, b1, a2, b2)) and (
            a1.shape == a2.shape and b1.shape == b2.shape and a1.shape[1] == b1.shape[0] == rank
        )
        if not fits:
            shapes = ", ".join(f"hada_{part} {tuple(sides[part].shape)}" for part in sides)
            raise ValueError(
                f"{path}: the parts of {module} do not belong together at rank {rank}: {shapes}"
            )
        scaling = value_for(config, "alpha_pattern", "alpha", module) / rank
        factors[module] = _product(a1, b1, a2, b2, scaling)
    return factors, extra


def _product(a1: Tensor, b1: Tensor, a2: Tensor, b2: Tensor, scaling: float) -> Sides:
    outs, ins, rank = len(a1), b1.shape[1], len(b1) ** 2
    if rank < min(outs, ins):
        A = (b1[:, None, :] * b2[None, :, :]).reshape(rank, ins)
        B = scaling * (a1[:, :, None] * a2[:, None, :]).reshape(outs, rank)
        return {"A": A.float(), "B": B.float()}
    delta = (scaling * (a1 @ b1) * (a2 @ b2)).float()
    if outs <= ins:
        return {"A": delta, "B": torch.eye(outs)}
    return {"A": torch.eye(ins), "B": delta}


def vera(tensors: Mapping[str, Tensor], path: Path) -> tuple[dict[str, Sides], dict[str, Tensor]]:
    """VeRA's b and d by module, and what else there is."""
    return parts_of(tensors, {"vera_lambda_b": "b", "vera_lambda_d": "d"}, path)

"""VB-LoRA: the factors of all maps are put together from one bank of short vectors.

    dW = B A,    sub-vector = sum over the k largest logits of softmax(those k)_j bank_j,    bank ~ U(±0.02)

Li, Han and Ji 2024, VB-LoRA: Extreme Parameter Efficient Fine-Tuning with Vector Banks, arXiv:2405.15179, section 3
(number from memory). Every row of A and every column of B is cut into sub-vectors of the bank's length; each
has its own logits over the bank, ~ N(0, 0.1²) at the start, and mixes the k vectors whose logits are largest. Bank and
logits are trained, at three learning rates with the head's (optimizer `vb_lora`). There is no alpha, and the start is
no no-op. The equation and the start are those of the authors' code (github.com/leo-yangli/VB-LoRA) and of PEFT 0.21.2.
90 vectors and k = 2 are the paper's for RoBERTa base and large; PEFT's default is 256 vectors.

Where we differ:

- The paper's sub-vectors have 256 numbers, which does not divide the 384 and 768 sides of small bases alike; here
  the length is the largest that divides both sides of every adapted map, up to 128, unless `vector_length` is set.
  Shorter vectors mean more sub-vectors, and so more logits.
- The small file that the paper counts, k indices and k - 1 weights for each sub-vector, is not offered: training cannot
  go on from it. What is saved is all the logits.
- One vector (k = 1) is refused: the softmax of one logit is 1, so logits would never learn.
"""

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor, nn
from torch.nn import functional

from weft.lowrank.start import normal, uniform
from weft.methods.adapters import contract

LONGEST = 128
"""Length of the bank's vectors that is not exceeded where `vector_length` is not set."""


class Spec(contract.Spec):
    """Settings of VB-LoRA."""

    num_vectors: int = Field(default=90, ge=2)
    """Vectors in the bank; every sub-vector has as many logits."""
    vector_length: int | None = Field(default=None, ge=1)
    """Numbers in each vector; None takes the largest common divisor, up to 128, of all adapted maps' sides."""
    top_k: int = Field(default=2, ge=2)
    """Vectors that each sub-vector mixes."""
    init_bound: float = Field(default=0.02, gt=0)
    """The bank starts uniform in ±init_bound; zeros would have no gradient."""
    init_std: float = Field(default=0.1, gt=0)
    """Standard deviation of the logits at the start."""

    @field_validator("top_k")
    @classmethod
    def _in_the_bank(cls, top_k: int, others: ValidationInfo) -> int:
        vectors = others.data.get("num_vectors", top_k)
        if top_k > vectors:
            raise ValueError(f"expected at most num_vectors, which is {vectors}")
        return top_k


class Bank(nn.Module):
    """The vectors that all sub-vectors of an expert are mixed from, (vectors, length)."""

    def __init__(self, vectors: Tensor) -> None:
        super().__init__()
        self.vectors = nn.Parameter(vectors)


class VBLoRA(contract.Factored):
    """The change of the weight is a product of two factors, each a mosaic of mixed vectors."""

    spec_type: ClassVar[type[contract.Spec]] = Spec
    spec: Spec
    shared: Bank

    def start(self, weight: Tensor, generator: torch.Generator) -> None:
        assert isinstance(self.shared, Bank)
        vectors, length = self.shared.vectors.shape
        down, up = weight.shape[1] // length, weight.shape[0] // length
        rank, std = self.rank, self.spec.init_std
        self.logits_A = nn.Parameter(normal((rank, down, vectors), std, generator, weight))
        self.logits_B = nn.Parameter(normal((up, rank, vectors), std, generator, weight))

    @classmethod
    def share(
        cls, weights: Mapping[str, Tensor], spec: contract.Spec, generator: torch.Generator
    ) -> Bank:
        assert isinstance(spec, Spec)
        length = _length({name: tuple(weight.shape) for name, weight in weights.items()}, spec)
        like = next(iter(weights.values()))
        return Bank(uniform((spec.num_vectors, length), spec.init_bound, generator, like))

    @classmethod
    def parameter_count(cls, out_features: int, in_features: int, spec: contract.Spec) -> int:
        """Trained numbers on one map of that shape, shared state not counted.

        Where `vector_length` is not set, this takes the map to be the only one; others of other sizes may leave it
        shorter vectors, and so more logits.
        """
        assert isinstance(spec, Spec)
        length = _length({"the map": (out_features, in_features)}, spec)
        return spec.num_vectors * spec.rank * ((out_features + in_features) // length)

    def factors(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        A = self._mixed(self.logits_A).flatten(1)
        B = self._mixed(self.logits_B).mT.flatten(0, 1)
        return A, B

    def _mixed(self, logits: Tensor) -> Tensor:
        """(..., vectors) logits to (..., length) sub-vectors."""
        largest, chosen = logits.topk(self.spec.top_k, dim=-1)
        vectors = functional.embedding(chosen, self.shared.vectors)
        return (largest.softmax(-1).unsqueeze(-1) * vectors).sum(-2)


def _length(shapes: Mapping[str, tuple[int, ...]], spec: Spec) -> int:
    """The length of the bank's vectors for maps of these (out, in).

    Raises:
        ValueError: If `vector_length` is set and does not divide a side.
    """
    common = math.gcd(*(side for shape in shapes.values() for side in shape))
    if spec.vector_length is None:
        return max(length for length in range(1, LONGEST + 1) if common % length == 0)
    for name, shape in shapes.items():
        if any(side % spec.vector_length for side in shape):
            raise ValueError(
                f"vector_length {spec.vector_length} does not divide both sides of {name}, which is "
                f"{shape[0]} x {shape[1]}; set a divisor of {common}, which divides all targets"
            )
    return spec.vector_length

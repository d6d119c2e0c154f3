"""LoRA: where it starts; that it is PEFT's is in test_oracle."""

import math

import torch

from tests.methods.adapters.starts import draw, variant_on

OUT, IN, RANK = 24, 16, 3


def test_it_starts_as_a_no_op_with_the_authors_law_of_a() -> None:
    W0 = draw(OUT, IN)
    adapter = variant_on("lora", W0, rank=RANK)
    assert not adapter(draw(2, 5, IN), W0).any()
    A, B = adapter.factors(W0)
    assert not B.any()
    bound = 1 / math.sqrt(IN)
    assert A.abs().max() <= bound
    # Uniform: the variance is bound^2 / 3; 48 draws are within a third of it.
    assert abs(A.var().item() / (bound**2 / 3) - 1) < 1 / 3
    other = variant_on("lora", W0, seed=1, rank=RANK)
    assert not torch.equal(other.factors(W0)[0], A)

"""Half precision, and the devices that only imitate it."""

from functools import cache

import torch


@cache
def is_emulated(kind: str, precision: str) -> bool:
    """Whether a kind of device computes a precision rightly, but has no instructions for its products.

    A training step in bf16 takes twenty times one in fp32 on an x86 processor that has AVX2 alone (one thread of an
    EPYC of 2019). Volta and Turing have instructions for fp16, none for bf16.

    Args:
        kind: cpu, cuda or mps.
        precision: fp32, bf16, fp16 or fp64.
    """
    if precision not in ("bf16", "fp16"):
        return False
    if kind == "cuda":
        return precision == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False)
    if kind != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    known = torch.ops.mkldnn
    if precision == "bf16":
        return not known._is_mkldnn_bf16_supported()
    return not known._is_mkldnn_fp16_supported()

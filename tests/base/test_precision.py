"""Half precision that a device only imitates is known, by the processor's own flags, and is warned of once."""

import logging
import platform
from pathlib import Path

import pytest
import torch

from weft.answering.inference import _warn, autocast
from weft.base.precision import is_emulated

CPUINFO = Path("/proc/cpuinfo")


def flags() -> set[str]:
    """What this processor has instructions for."""
    if platform.machine() != "x86_64" or not CPUINFO.is_file():
        pytest.skip("only Linux on x86-64 says what a processor has in this form")
    lines = CPUINFO.read_text(encoding="utf-8").splitlines()
    return set(next(line for line in lines if line.startswith("flags")).split())


def test_bf16_is_computed_where_the_processor_has_avx512() -> None:
    # Without AVX512-BF16 oneDNN widens bf16 in the registers of AVX-512, which costs little.
    has = {"avx512bw", "avx512vl", "avx512dq"} <= flags() or "avx_ne_convert" in flags()
    assert is_emulated("cpu", "bf16") is not has


def test_fp16_is_computed_where_the_processor_has_instructions_for_it() -> None:
    assert is_emulated("cpu", "fp16") is not bool({"avx512_fp16", "avx_ne_convert"} & flags())


def test_single_and_double_are_never_emulated() -> None:
    assert not any(
        is_emulated(kind, precision)
        for kind in ("cpu", "cuda", "mps")
        for precision in ("fp32", "fp64")
    )


def test_who_asks_for_what_is_emulated_is_warned_once(caplog: pytest.LogCaptureFixture) -> None:
    _warn.cache_clear()
    with caplog.at_level(logging.WARNING, "weft.answering.inference"):
        for precision in ("fp32", "bf16", "bf16"):
            autocast(torch.device("cpu"), precision)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == is_emulated("cpu", "bf16")
    assert all("bf16" in one and "choose precision fp32" in one for one in said)

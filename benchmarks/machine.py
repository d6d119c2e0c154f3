"""What a result file says of the machine and the libraries it was measured with."""

import os
import platform
import subprocess
from pathlib import Path
from typing import Any, Literal

import accelerate
import peft
import torch
import transformers

from weft.base.precision import is_emulated


def machine(device: str = "cpu") -> dict[str, Any]:
    """Processor or accelerator, threads, and versions."""
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
        "accelerate": accelerate.__version__,
        "commit": _commit(),
    }


def half() -> Literal["bf16", "fp32"]:
    """The precision of the long trainings: bf16, but single where the processor has no instructions for half.

    There a step of training takes some twenty times one in single precision (an EPYC of 2019, one thread).
    """
    return "fp32" if is_emulated("cpu", "bf16") else "bf16"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def _commit() -> str:
    found = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return found.stdout.strip()

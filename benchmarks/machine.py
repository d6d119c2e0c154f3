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

    There bf16 is emulated, 25 to 45 times slower than single in a product of matrices (an EPYC of 2019).
    """
    return "bf16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "fp32"


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

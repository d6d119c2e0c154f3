"""What a training says it cost."""

import subprocess
import sys

import torch

from weft.training.finishing import peak_memory_mib

ALONE = """
import torch
from weft.training.finishing import peak_memory_mib

cpu = torch.device("cpu")
before = peak_memory_mib(cpu)
block = torch.ones(100 * 2**20)
during = peak_memory_mib(cpu)
del block
print(before, during, peak_memory_mib(cpu))
"""


def test_peak_memory_is_this_process_s_own_and_never_falls() -> None:
    # This process holds more than the other will: what it held must not show there.
    block = torch.ones(400 * 2**20)
    assert peak_memory_mib(torch.device("cpu")) > 1600
    # A new process, because the peak of this one may lie far above what it holds now.
    done = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, check=True)
    before, during, after = map(float, done.stdout.split())
    assert before < 1600
    assert before + 390 < during < before + 440
    # The kernel counts pages by core and adds up in batches, so a reading is right to about a MiB.
    assert after > during - 1
    del block

"""What a training says it cost."""

import subprocess
import sys

import torch

from weft.finishing import peak_memory_mib


def test_peak_memory_is_this_process_s_own_and_never_falls() -> None:
    before = peak_memory_mib(torch.device("cpu"))
    block = torch.ones(100 * 2**20)
    during = peak_memory_mib(torch.device("cpu"))
    assert during > before + 300
    del block
    # The kernel counts pages by core and adds up in batches, so a reading is right to about a MiB.
    assert peak_memory_mib(torch.device("cpu")) > during - 1
    # A process started by this one does not take over what this one held.
    code = "import torch; from weft.finishing import peak_memory_mib as p; print(p(torch.device('cpu')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < during - 100

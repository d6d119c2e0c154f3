"""Trains what a file lists, one run after the other: `torchrun two_processes.py RUNS.json FOLDER`."""

import json
import sys
from pathlib import Path

import torch

from weft.training.loop import train

if __name__ == "__main__":
    torch.set_num_threads(1)
    runs = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    for name, run in runs.items():
        train(run, out=Path(sys.argv[2]) / name)

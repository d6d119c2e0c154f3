"""The first answer of a new process: `weft predict` on a run and on its export to ONNX, and a program without weft.

    python benchmarks/cold_start.py --beside ../before

Processor time of whole processes (user and system, children included), which other work on the machine changes less
than the clock; every side once a round, in turns. The run is made here: LoRA on the embedded base, a few steps on
rows that are made up, because what is measured does not depend on what was learnt. `--beside` names another checkout
of weft, whose code answers the same run folder in the same Python.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import weft
from machine import machine
from weft.data.generated import write_demo_data

RESULT = Path("results") / "cold-start-cpu.json"
TEXT = "Mary Stone went to Paris with the people of Acme."
SOURCE = Path(weft.__file__).parents[1]
PLAIN = """
import sys
import numpy as np
from onnxruntime import InferenceSession
from tokenizers import Tokenizer

folder, text = sys.argv[1:]
encoded = Tokenizer.from_file(f"{folder}/tokenizer.json").encode(text)
values = {"input_ids": encoded.ids, "attention_mask": encoded.attention_mask, "token_type_ids": encoded.type_ids}
inputs = {name: np.array([ids], dtype=np.int64) for name, ids in values.items()}
(logits,) = InferenceSession(f"{folder}/model.onnx", providers=["CPUExecutionProvider"]).run(None, inputs)
print(logits.argmax(-1))
"""
"""ONNX Runtime and tokenizers alone: logits, no entities."""


def seconds(command: list[str], source: Path) -> float:
    """Processor time of one process with the weft of `source`."""
    environment = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
    before = os.times()
    subprocess.run(
        command, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    after = os.times()
    return (
        after.children_user - before.children_user + after.children_system - before.children_system
    )


def prepared(folder: Path) -> tuple[Path, Path]:
    """A run and its export."""
    write_demo_data(folder, sizes={"choices": (8, 8), "spans": (8, 8), "entities": (32, 8)})
    task = {"name": str(folder / "demo_entities.yaml"), "data": str(folder / "entities")}
    run = weft.train(
        {
            "base": "minilm",
            "task": task,
            "recipe": {"name": "lora", "targets": ["all-linear"]},
            "training": {"max_steps": 2, "batch_size": 8},
            "device": "cpu",
        },
        out=folder / "run",
    )
    return run.path, weft.export(run.path, folder / "onnx", "onnx")


def sides(run: Path, graph: Path, beside: Path | None) -> dict[str, tuple[list[str], Path]]:
    """By name, the command and the source of weft that it finds."""
    python = sys.executable
    predict = [python, "-m", "weft", "predict"]
    found = {
        "weft predict RUN": ([*predict, str(run), TEXT], SOURCE),
        "weft predict EXPORT": ([*predict, str(graph), TEXT], SOURCE),
        "onnxruntime and tokenizers alone": ([python, "-c", PLAIN, str(graph), TEXT], SOURCE),
        "import weft": ([python, "-c", "import weft"], SOURCE),
        "import torch": ([python, "-c", "import torch"], SOURCE),
        "import transformers' models": (
            [python, "-c", "from transformers import PreTrainedModel"],
            SOURCE,
        ),
        "python": ([python, "-c", "pass"], SOURCE),
    }
    if beside is not None:
        found["weft predict RUN, before"] = ([*predict, str(run), TEXT], beside / "src")
    return found


def measured(every: dict[str, tuple[list[str], Path]], rounds: int) -> list[dict[str, Any]]:
    """Median, least and most of every side; the first round fills the system's cache and does not count."""
    taken: dict[str, list[float]] = {name: [] for name in every}
    for number in range(rounds + 1):
        for name, (command, source) in every.items():
            spent = seconds(command, source)
            if number:
                taken[name].append(spent)
        print(f"{time.strftime('%X')} round {number} of {rounds}", flush=True)
    return [
        {
            "what": name,
            "median": statistics.median(own),
            "least": min(own),
            "most": max(own),
            "rounds": own,
        }
        for name, own in taken.items()
    ]


def main() -> None:
    """Measure and write the result file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--beside", type=Path, help="Another checkout, measured in the same turns.")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run, graph = prepared(Path(folder))
        results = measured(sides(run, graph, arguments.beside), arguments.rounds)
    settings: dict[str, Any] = {"rounds": arguments.rounds, "text": TEXT}
    if arguments.beside is not None:
        settings["before"] = _commit(arguments.beside)
    written = {
        "script": "benchmarks/cold_start.py",
        "settings": settings,
        "results": results,
        "machine": machine("cpu"),
    }
    arguments.out.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    print(arguments.out)


def _commit(checkout: Path) -> str:
    command = ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()

"""What people wait for before anything is trained: lists and pages as whole processes, rows encoded and read back.

    python benchmarks/waiting.py --data ../shared/data

Commands run in processes of their own, in turns; rows are those of SQuAD and WNUT17 (train and validation) by the
embedded base's tokenizer: encoded and kept in an empty cache, then read from it. Medians, least and most, in seconds.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from machine import machine
from weft.base.loading import load_base
from weft.config import TaskSettings
from weft.data.encoding import encode_examples
from weft.data.reading import load_task

RESULT = Path("results") / "waiting-cpu.json"
COMMANDS = (
    "--version",
    "--help",
    "list recipes",
    "list heads",
    "list kinds",
    "show recipe lora",
    "show adapter kasa",
    "show mixture xlora",
    "show task squad",
)
SETS = ("squad", "wnut17")


def spread(taken: list[float]) -> dict[str, float]:
    """Median, least and most."""
    return {"median": statistics.median(taken), "least": min(taken), "most": max(taken)}


def seconds(call: Callable[[], Any]) -> float:
    """Wall-clock time of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def commands(rounds: int) -> dict[str, dict[str, float]]:
    """Each command as a process, every one once a round."""
    taken: dict[str, list[float]] = {command: [] for command in COMMANDS}
    for _ in range(rounds):
        for command, times in taken.items():
            process = [sys.executable, "-m", "weft", *command.split()]
            times.append(
                seconds(lambda p=process: subprocess.run(p, check=True, stdout=subprocess.DEVNULL))
            )
    return {command: spread(times) for command, times in taken.items()}


def rows(data: Path, rounds: int) -> list[dict[str, Any]]:
    """Each split encoded without a cache, encoded and kept, and read back."""
    tokenizer = load_base("minilm").tokenizer
    found = []
    for name in SETS:
        settings = TaskSettings(name=name, data=str(data / name))
        loaded = load_task(settings, splits=["train", "validation"], seed=0)
        for split, examples in loaded.splits.items():
            times: dict[str, list[float]] = {"encoded": [], "kept": [], "read": []}
            for _ in range(rounds):
                with tempfile.TemporaryDirectory() as folder:
                    for what, cache in (("encoded", None), ("kept", folder), ("read", folder)):
                        place = None if cache is None else Path(cache)
                        times[what].append(
                            seconds(
                                lambda p=place, e=examples, t=loaded.task: encode_examples(
                                    t, e, tokenizer, cache=p
                                )
                            )
                        )
            spreads = {what: spread(taken) for what, taken in times.items()}
            found.append({"set": name, "split": split, "rows": len(examples), **spreads})
    return found


def main() -> None:
    """Measure and write the result file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=Path("..") / "shared" / "data")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    written = {
        "script": "benchmarks/waiting.py",
        "settings": {"rounds": arguments.rounds},
        "commands": commands(arguments.rounds),
        "rows": rows(arguments.data, 3),
        "machine": machine("cpu"),
    }
    arguments.out.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    print(arguments.out)


if __name__ == "__main__":
    main()

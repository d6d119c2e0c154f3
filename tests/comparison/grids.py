"""Small comparisons, and when two of their tables are the same."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from weft.comparison.comparing import Row
from weft.comparison.grid import Grid, cells_of
from weft.comparison.jobs import Job, search_jobs


def grid_of(run: dict[str, Any], steps: int = 4) -> Grid:
    """LoRA at two rates, and one seed: three runs."""
    return Grid.model_validate(
        {
            "base": run["base"],
            "tasks": {"topic": {"task": run["task"]}},
            "recipes": {
                "lora": {"recipe": {"name": "lora", "rank": 2}, "learning_rates": [1e-8, 1e-2]}
            },
            "seeds": [0],
            "training": {"max_steps": steps, "batch_size": 4, "precision": "fp64"},
            "device": "cpu",
        }
    )


def searches_of(grid: Grid, out: Path) -> list[Job]:
    return [job for cell in cells_of(grid) for job in search_jobs(grid, out, cell).values()]


def bare(rows: Sequence[Row]) -> list[Row]:
    """The rows without what a clock and other processes have a say in."""
    return [replace(row, seconds=0.0, seconds_per_epoch=0.0, peak_memory_mib=0.0) for row in rows]


def has_checkpoint(job: Job) -> bool:
    """Whether a run is past its first checkpoint and not at its end."""
    folder = job.folder / "checkpoints"
    return folder.is_dir() and any(path.name.startswith("step-") for path in folder.iterdir())


def once(condition: Callable[[], bool], act: Callable[[], object]) -> threading.Thread:
    """Do something as soon as something is so, beside what the test does."""

    def wait() -> None:
        until = time.monotonic() + 300
        while time.monotonic() < until and not condition():
            time.sleep(0.02)
        act()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def processes(of: str) -> Iterator[int]:
    """Ids of the processes, living ones, whose command line has `of`."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if of in path.read_bytes().decode("utf-8", "replace"):
                yield int(path.parent.name)
        except (FileNotFoundError, ProcessLookupError):
            continue

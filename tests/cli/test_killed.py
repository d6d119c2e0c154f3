"""kill -9 in the middle of any command: nothing is lost or half-written, and the next call goes on or starts anew."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import weft
from weft.pruning.prune import prune
from weft.storage.exporting import export

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def given(
    tiny_folder: Callable[[str], Path],
    own_task: Path,
    settings: dict[str, Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """What every command is called with, and how."""
    folder = tmp_path_factory.mktemp("given")
    base = settings["base"]
    short = {**settings, "training": {"max_steps": 3, "batch_size": 4, "checkpoint_every": 1}}
    (folder / "run.yaml").write_text(yaml.safe_dump(short))
    weft.train(short, out=folder / "run")
    prune(base, folder / "pruned", kind="unstructured", ratio=0.5)
    weft.train({**short, "base": str(folder / "pruned")}, out=folder / "small")
    export(folder / "run", folder / "peft", "peft")
    grid = {
        "base": base,
        "device": "cpu",
        "tasks": {"moods": {"task": {"name": str(own_task)}, "training": short["training"]}},
        "recipes": {"lora": {"recipe": {"name": "lora", "rank": 2}, "learning_rates": [0.01]}},
        "seeds": [0],
    }
    (folder / "grid.yaml").write_text(yaml.safe_dump(grid))

    def call(
        made: str, *first: object, copies: list[str] | None = None, again: list | None = None
    ) -> dict:
        def words(values: Any) -> list[str]:
            return [str(value) for value in values]

        return {
            "made": made,
            "first": words(first),
            "again": words(again or []),
            "copies": copies or [],
        }

    run, out = folder / "run", "WORK/out"
    resumed = {"again": ["train", "--resume", out, "--quiet"]}
    calls = {
        "train": call("out", "train", folder / "run.yaml", "--out", out, "--quiet", **resumed),
        "mix": call(
            "out", "mix", run, "--mixture", "xlora", "--set", "training.max_steps=2", "--set", "device=cpu",
            "--set", "training.checkpoint_every=1", "--out", out, "--quiet", again=["mix", "--resume", out, "--quiet"],
        ),
        "evaluate": call("run", "evaluate", "WORK/run", "--device", "cpu", copies=["run"]),
        "predict": call("run", "predict", "WORK/run", "a good day", "--json", copies=["run"]),
        "export": call("out", "export", run, out),
        "import": call(
            "out", "import", folder / "peft", out, "--base", base, "--task", own_task, again=["list", "tasks"]
        ),
        "prune": call("out", "prune", base, out, "--kind", "unstructured", "--ratio", "0.5", again=["list", "tasks"]),
        "recover": call("out", "recover", folder / "small", out, "--base", base, again=["list", "tasks"]),
        "merge": call("out", "merge", run, "--weights", "0.5", "--out", out, again=["list", "tasks"]),
        "report": call("out", "report", run, "--out", out),
        "compare": call("out", "compare", folder / "grid.yaml", "--out", out, "--quiet"),
    }  # fmt: skip
    (folder / "calls.json").write_text(json.dumps(calls))
    return folder


def _killed(command: str, points: int, given: Path, work: Path) -> list[dict]:
    result = subprocess.run(
        [sys.executable, "-m", "tests.cli.killed", command, str(points), str(given), str(work)],
        cwd=ROOT,
        env={**os.environ, "WEFT_CACHE": str(work.parent / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return [json.loads(line) for line in result.stdout.splitlines()]


POINTS = {
    "train": 25, "mix": 20, "evaluate": 12, "predict": 4, "export": 12, "import": 12, "prune": 10, "recover": 10,
    "merge": 12, "report": 8, "compare": 6,
}  # fmt: skip


@pytest.mark.slow  # more than a hundred kills, each with the call after it
@pytest.mark.parametrize("command", POINTS)
def test_a_kill_at_any_file_operation_loses_nothing(
    command: str, given: Path, tmp_path: Path
) -> None:
    *faults, tried = _killed(command, POINTS[command], given, tmp_path / "work")
    assert faults == []
    assert tried["points"] >= min(POINTS[command], tried["operations"])

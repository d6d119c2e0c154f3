"""What a training writes while it runs: `log.jsonl`, and any tracker accelerate knows."""

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import LoggerType
from torch import Tensor

from weft.answering.evaluation import Evaluation
from weft.atomic import write_text, writing
from weft.config import Run
from weft.guard import parse_json, read_text
from weft.registry import unknown
from weft.training.learning import Learner

EVERY = 10
"""Optimizer steps that one line of the log averages over."""
RUN_NAME = {
    "wandb": "name",
    "trackio": "name",
    "mlflow": "run_name",
    "clearml": "task_name",
    "swanlab": "experiment_name",
}
"""What a tracker calls the name of a run, which accelerate hands on; the others name it by its folder."""


def accelerator_for(run: Run, folder: Path) -> Accelerator:
    """Devices, processes and the tracker that the run asks for.

    Raises:
        ValueError: If accelerate has no such tracker, or its package is not installed.
    """
    name = run.training.tracker
    known = [kind.value for kind in LoggerType if kind is not LoggerType.ALL]
    if name is not None and name not in known:
        raise ValueError(f"training.tracker: {unknown('tracker', name, known)}")
    if name is not None and LoggerType(name) not in get_available_trackers():
        raise ValueError(
            f"training.tracker: the package of {name!r} is not installed: pip install {name}"
        )
    # Without `cpu`, accelerate makes one training of each of several processes that find no accelerator.
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    on_cpu = run.device == "cpu" or (run.device == "auto" and not _has_accelerator())
    return Accelerator(cpu=on_cpu and not alone, log_with=name, project_dir=str(folder))


def _has_accelerator() -> bool:
    return torch.accelerator.is_available()


class Log:
    """Means of the loss every few steps and scores when measured; on resume, later lines are dropped.

    Args:
        path: `log.jsonl`.
        run: The run's settings; `training.tracker` names a tracker.
        accelerator: Only its main process writes.
        start: Steps done before.
    """

    def __init__(self, path: Path, run: Run, accelerator: Accelerator, start: int) -> None:
        self.path = path
        self._name = path.absolute().parent.name
        self.mean: dict[str, float] = {}
        self._writes = accelerator.is_main_process
        self._sums: dict[str, list[Tensor]] = {}
        self._run = run
        self._accelerator = accelerator
        if self._writes and start:
            kept = [line for line in log_lines(path) if _step(line, path) <= start]
            write_text(path, "".join(f"{line}\n" for line in kept))

    def __enter__(self) -> Self:
        with writing(self.path):
            self._file = self.path.open("a", encoding="utf-8") if self._writes else None
        tracker = self._run.training.tracker
        if tracker:
            settings = self._run.model_dump(mode="json")
            named = {tracker: {RUN_NAME[tracker]: self._name}} if tracker in RUN_NAME else {}
            self._accelerator.init_trackers("weft", config=_scalars(settings), init_kwargs=named)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file:
            # What a full disk did not take was told when it was written.
            with suppress(OSError):
                self._file.close()
        for tracker in self._accelerator.trackers:
            tracker.finish()

    def add(
        self, step: int, losses: Mapping[str, Tensor], tokens: int, learners: Sequence[Learner]
    ) -> bool:
        """Count one step's loss by task; whether `mean` is new, as it is every few steps, when a line is written."""
        for name, loss in losses.items():
            self._sums.setdefault(name, []).append(loss)
        if step % EVERY and step != max(learner.total for learner in learners):
            return False
        self.mean = {name: torch.stack(values).mean().item() for name, values in self._sums.items()}
        self._sums = {}
        rate = {"learning_rate": learners[0].optimizer.param_groups[0]["lr"], "tokens": tokens}
        self._write(step, {"loss": self.mean, **rate})
        return True

    def scores(self, step: int, scores: Mapping[str, float], losses: Mapping[str, float]) -> None:
        """Write the selection rows' scores by task, and their losses where training looks at them."""
        if scores:
            held = {"held_loss": dict(losses)} if losses else {}
            self._write(step, {"score": dict(scores), **held})

    def final(self, step: int, results: Mapping[str, Evaluation]) -> None:
        """Tell the tracker what each task scores in the end; on disk that is in `metrics.json`."""
        if self._run.training.tracker:
            scores = {
                task: {name: score.value for name, score in found.scores.items()}
                for task, found in results.items()
            }
            self._accelerator.log(_scalars({"final": scores}), step=step)

    def _write(self, step: int, values: Mapping[str, Any]) -> None:
        if self._file:
            with writing(self.path):
                self._file.write(json.dumps({"step": step, **values}) + "\n")
                self._file.flush()
        if self._run.training.tracker:
            self._accelerator.log(_scalars(values), step=step)


def log_lines(path: Path) -> list[str]:
    """The whole lines of a `log.jsonl`, of a training that runs or was killed too; none where there is no file."""
    if not path.is_file():
        return []
    lines = read_text(path).split("\n")
    # A kill, or a line being written, leaves half a line at the end; a whole one ends in a newline.
    return [line for line in lines[:-1] if line]


def _step(line: str, path: Path) -> int:
    values = parse_json(line, str(path), whole=False)
    if not isinstance(values, dict) or not isinstance(values.get("step"), int):
        raise ValueError(
            f"{path}: expected objects with a step, got {line:.60!r}; remove that line"
        )
    return values["step"]


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, its keys joined by dots."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _scalars(values: Mapping[str, Any]) -> dict[str, Any]:
    """What every tracker takes: flat, and what is no number, text or truth value as text."""
    return {
        name: value if isinstance(value, int | float | str | bool) else str(value)
        for name, value in flat(values).items()
    }

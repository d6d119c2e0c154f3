"""Run folders: what every command reads and writes."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weft.atomic import atomic_folder, write_text
from weft.config import Run, load_run, to_yaml
from weft.guard import RECORDS, read_json

CONFIG = "run.yaml"
STANDINGS = "beside.json"
"""What stands beside a mixture: its experts, uniform gates, their sum, other runs."""


@dataclass(frozen=True)
class RunFolder:
    """One run on disk.

    `run.yaml`, `expert/` or `mixture/`, `metrics.json`, `details.json`, `mistakes.json`, `training.json`, `log.jsonl`,
    `checkpoints/`.
    """

    path: Path

    @classmethod
    def create(cls, path: str | Path, run: Run) -> "RunFolder":
        """A new folder with the complete config in it.

        Raises:
            ValueError: If `path` exists.
        """
        folder = cls(Path(path))
        folder.refuse_existing()
        with atomic_folder(folder.path) as draft:
            cls(draft).write_config(run)
        return folder

    @classmethod
    def open(cls, path: str | Path) -> "RunFolder":
        """An existing run folder.

        Raises:
            ValueError: If `path` is no run folder.
        """
        folder = cls(Path(path))
        if not (folder.path / CONFIG).is_file():
            why = f"it has no {CONFIG}" if folder.path.exists() else "nothing is there"
            raise ValueError(
                f"{path} is no run folder: {why}; give a folder that `weft train` wrote"
            )
        return folder

    def refuse_existing(self) -> None:
        """Refuse to write where something is."""
        if self.path.exists():
            raise ValueError(
                f"{self.path} exists; choose another --out, continue it with --resume {self.path}, or remove it"
            )

    def write_config(self, run: Run) -> None:
        """Write `run.yaml`, complete."""
        write_text(self.path / CONFIG, to_yaml(run))

    @property
    def run(self) -> Run:
        """The run's settings."""
        return load_run(self.path / CONFIG)

    @property
    def label(self) -> str:
        """What the task of a run of one is called."""
        task = self.run.task
        assert task is not None  # a part has one
        return task.label

    @property
    def expert(self) -> Path:
        return self.path / "expert"

    @property
    def mixture(self) -> Path:
        """A mixture and all it needs; the run folder of one of its tasks is inside that of the mixture."""
        own = self.path / "mixture"
        return own if own.is_dir() or self.run.tasks else self.path.parent / "mixture"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def trajectory(self) -> Path:
        """States of the expert late in its training, an expert folder each, where the run was to keep some."""
        return self.path / "trajectory"

    @property
    def log(self) -> Path:
        return self.path / "log.jsonl"

    @property
    def is_complete(self) -> bool:
        """Whether training has ended and left what it was for."""
        if self.run.mixture is not None:
            return self.mixture.is_dir() and all(part.training for part in self.parts())
        if self.run.is_personal:
            return self.has_population and "users" in (self.training or {})
        return self.has_population

    @property
    def has_population(self) -> bool:
        """Whether the expert of every task is there; of a personal run, that of its population."""
        return all(part.expert.is_dir() and part.training is not None for part in self.parts())

    def parts(self) -> "list[RunFolder]":
        """The run folder of every task: itself, or its sub-folders if it trained several."""
        run = self.run
        return [RunFolder(self.path / task.label) for task in run.tasks] if run.tasks else [self]

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """Scores as `{name, value, low, high, n, seed, split}`; [] before there are any.

        Raises:
            ValueError: If the file is damaged.
        """
        path = self.path / "metrics.json"
        rows = _read_json(path) or []
        if not isinstance(rows, list) or not all(
            isinstance(row, dict) and {"name", "value", "split"} <= set(row) for row in rows
        ):
            raise ValueError(
                f"{path}: expected a list of scores, each with name, value and split; evaluate the run again"
            )
        return rows

    def write_metrics(self, metrics: Sequence[Mapping[str, Any]]) -> None:
        """Replace the scores that `metrics` has, by split and name; keep the others."""
        written = {(row["split"], row["name"]) for row in metrics}
        kept = [row for row in self.metrics if (row["split"], row["name"]) not in written]
        write_text(self.path / "metrics.json", json.dumps([*kept, *metrics], indent=1) + "\n")

    @property
    def details(self) -> dict[str, dict[str, Any]]:
        """What the scores are made of, by split: `weft.tasks.details.Details` as JSON; {} before there are any."""
        return _read_json(self.path / "details.json") or {}

    def write_details(self, split: str, details: Mapping[str, Any]) -> None:
        """Replace one split's details; keep the others."""
        values = {**self.details, split: details}
        write_text(self.path / "details.json", json.dumps(values, indent=1) + "\n")

    @property
    def mistakes(self) -> dict[str, dict[str, Any]]:
        """The worst rows with their text, a few, by split: `weft.tasks.cases.Mistakes` as JSON; or {}."""
        return _read_json(self.path / "mistakes.json") or {}

    def write_mistakes(self, split: str, mistakes: Mapping[str, Any]) -> None:
        """Replace one split's worst rows; keep the others."""
        values = {**self.mistakes, split: mistakes}
        text = json.dumps(values, indent=1, ensure_ascii=False)
        write_text(self.path / "mistakes.json", text + "\n")

    @property
    def training(self) -> dict[str, Any] | None:
        """What training cost and counted (parameters, steps, seconds, memory); None before it has ended.

        Raises:
            ValueError: If the file is damaged.
        """
        path = self.path / "training.json"
        summary = _read_json(path)
        if summary is not None and not isinstance(summary, dict):
            raise ValueError(f"{path}: expected a mapping, got {type(summary).__name__}")
        return summary

    def write_training(self, summary: Mapping[str, Any]) -> None:
        write_text(
            self.path / "training.json", json.dumps(summary, indent=1, sort_keys=True) + "\n"
        )


def _read_json(path: Path) -> Any:
    return read_json(path, RECORDS) if path.exists() else None

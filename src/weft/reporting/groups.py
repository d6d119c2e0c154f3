"""Runs side by side where they can be compared: a group for each task and split, best first."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from weft.reporting.document import distinct_names
from weft.reporting.runs import TaskRun
from weft.training.tracking import flat

NOT_SAID = {"modules", "data", "beside"}
"""Settings that names leave out: they follow from others, or say where and not what."""
DIFFERENCES = 3
"""Settings that a name says at most."""


@dataclass(frozen=True)
class Entry:
    """Runs of one method that differ in nothing but their seeds."""

    name: str
    runs: tuple[TaskRun, ...]

    @property
    def score(self) -> float | None:
        """The metric's mean over seeds."""
        return self._mean_of([run.score and run.score["value"] for run in self.runs])

    @property
    def interval(self) -> tuple[float, float] | None:
        """From the lowest to the highest end of the runs' intervals: what rows and seeds leave open."""
        rows = [run.score for run in self.runs if run.score]
        if not rows:
            return None
        return min(row["low"] for row in rows), max(row["high"] for row in rows)

    @property
    def spread(self) -> float | None:
        """The metric's standard deviation over seeds; None for one."""
        values = [run.score["value"] for run in self.runs if run.score]
        return stdev(values) if len(values) > 1 else None

    def cost(self, key: str) -> float | None:
        """Mean over seeds of a number of `training.json`."""
        return self._mean_of([run.cost and run.cost.get(key) for run in self.runs])

    @property
    def family(self) -> str:
        return self.runs[0].family

    @staticmethod
    def _mean_of(values: Sequence[Any]) -> float | None:
        known = [value for value in values if value is not None]
        return mean(known) if known else None


@dataclass(frozen=True)
class Group:
    """All that was measured on one task's rows of one split."""

    task: str
    split: str | None
    metric: str
    higher_is_better: bool
    loss_unit: str
    entries: tuple[Entry, ...]
    """Best first; those without a score last."""
    remarks: tuple[str, ...]
    """What keeps its numbers from being compared as they stand."""
    key: str
    """Names the group in addresses and file names."""

    @property
    def heading(self) -> str:
        """What it is called."""
        return f"{self.task} ({self.split or 'not scored yet'})"

    @property
    def runs(self) -> list[TaskRun]:
        return [run for entry in self.entries for run in entry.runs]

    @property
    def scored(self) -> list[Entry]:
        return [entry for entry in self.entries if entry.score is not None]


def groups_of(runs: Sequence[TaskRun]) -> list[Group]:
    """The runs by task and split, in the order in which these first appear; those without scores last."""
    grouped: dict[tuple[str, str | None], list[TaskRun]] = {}
    for run in runs:
        grouped.setdefault((run.task, run.split), []).append(run)
    keys = distinct_names([f"{task}-{split or 'unscored'}" for task, split in grouped])
    found = [_group(own, key) for own, key in zip(grouped.values(), keys, strict=True)]
    return sorted(found, key=lambda group: group.split is None)


def _group(runs: Sequence[TaskRun], key: str) -> Group:
    first = runs[0]
    grouped: dict[str, list[TaskRun]] = {}
    for run in runs:
        grouped.setdefault(repr(run.settings), []).append(run)
    found = [sorted(own, key=lambda run: run.seed) for own in grouped.values()]
    names = _names([own[0] for own in found])
    entries = [Entry(name, tuple(own)) for name, own in zip(names, found, strict=True)]
    sign = -1 if first.higher_is_better else 1

    def place(entry: Entry) -> tuple[bool, float]:
        return entry.score is None, sign * (entry.score or 0.0)

    return Group(
        task=first.task,
        split=first.split,
        metric=first.metric,
        higher_is_better=first.higher_is_better,
        loss_unit=first.loss_unit,
        entries=tuple(sorted(entries, key=place)),
        remarks=tuple(_remarks(runs)),
        key=key,
    )


def _names(runs: Sequence[TaskRun]) -> list[str]:
    """The method of each, with the settings in which it differs from others of its method; else the path."""
    settings = [flat(run.settings) for run in runs]
    names = []
    for run, own in zip(runs, settings, strict=True):
        rivals = [
            other for rival, other in zip(runs, settings, strict=True) if rival.method == run.method
        ]
        keys = dict.fromkeys(key for rival in rivals for key in rival)
        apart = [key for key in keys if len({repr(rival.get(key)) for rival in rivals}) > 1]
        said = [key for key in apart if not NOT_SAID & set(key.split("."))]
        own_values = [f"{key.rsplit('.', 1)[-1]} {_short(own.get(key))}" for key in said]
        names.append(", ".join([run.method, *own_values[:DIFFERENCES]]))
    return [
        name if names.count(name) == 1 else f"{name} ({run.run})"
        for name, run in zip(names, runs, strict=True)
    ]


def _short(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(_short(one) for one in value) or "none"
    if value is None:
        return "default"
    return Path(value).name if isinstance(value, str) else f"{value}"


REMARKS = {
    "n": "Scores are over {} rows: not the same rows, so differences may come from those.",
    "examples": "Runs were trained on {} examples: their scores and times compare only among equals.",
    "device": "Times were taken on {}: compare them only among equals.",
    "threads": "Times were taken with {} threads: compare them only among equals.",
    "machine": "Times were taken on machines of the kinds {}.",
    "base": "Runs stand on different bases: {}.",
}


def _remarks(runs: Sequence[TaskRun]) -> list[str]:
    costs = [run.cost for run in runs if run.cost]
    found: dict[str, set[str]] = {
        "n": {f"{run.score['n']:,}" for run in runs if run.score},
        "base": {Path(run.settings["base"]).name for run in runs},
    }
    for key in ("examples", "device", "threads", "machine"):
        found[key] = {
            f"{cost[key]:,}" if isinstance(cost[key], int) else str(cost[key])
            for cost in costs
            if cost.get(key) is not None
        }
    lines = [
        REMARKS[key].format(" and ".join(sorted(values)))
        for key, values in found.items()
        if len(values) > 1
    ]
    several = [run for run in runs if len(run.together) > 1]
    if several:
        names = ", ".join(sorted({run.run for run in several}))
        lines.append(f"The time of a run of several tasks is that of all of them: {names}.")
    return lines

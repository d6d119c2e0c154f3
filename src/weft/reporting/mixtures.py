"""What a mixture's run folder says beyond scores: its gates by map and expert, and what stands beside it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from weft.reporting.numbers import safe_name
from weft.reporting.runs import SPLITS, TaskRun
from weft.runs import STANDINGS, RunFolder

Grid = tuple[tuple[float | None, ...], ...]
"""A value for each map and gate; None where a map has no such gate."""


@dataclass(frozen=True)
class GateTable:
    """One task's gates."""

    task: str
    split: str
    tokens: int
    maps: tuple[str, ...]
    """Names of the adapted linear maps, without what they have in common."""
    columns: tuple[str, ...]
    """The experts, or numbered gates where there are not as many gates as experts."""
    gates: Grid
    """Mean gate over the task's tokens."""
    selected: Grid
    """Share of the tokens that select it, 0 to 1."""

    @property
    def averages(self) -> list[float | None]:
        """The mean gate over all maps that have it, by column."""
        return column_means(self.gates)

    @property
    def is_sparse(self) -> bool:
        """Whether some token leaves some expert out."""
        return any(value is not None and value < 1 for row in self.selected for value in row)


@dataclass(frozen=True)
class MixtureRun:
    """A mixture of one run folder, with all its tasks."""

    run: str
    method: str
    gates: tuple[GateTable, ...]
    standings: tuple[Mapping[str, Any], ...]
    """Rows of `beside.json`: the mixture's score of a task, and those it has to beat."""
    said: tuple[str, ...]
    """The remarks of `beside.json`."""
    missing: tuple[str, ...]

    @property
    def key(self) -> str:
        """Names the mixture in addresses and file names."""
        return safe_name(self.run)


def mixtures_of(runs: Sequence[TaskRun]) -> list[MixtureRun]:
    """The mixtures among some runs."""
    grouped: dict[str, list[TaskRun]] = {}
    for run in runs:
        if run.family == "mixture":
            grouped.setdefault(run.run, []).append(run)
    return [_mixture(own) for own in grouped.values()]


def _mixture(parts: Sequence[TaskRun]) -> MixtureRun:
    first = parts[0]
    places = [first.folder.path, first.folder.path.parent]
    path = next((at / STANDINGS for at in places if (at / STANDINGS).is_file()), None)
    beside = json.loads(path.read_text(encoding="utf-8")) if path else {}
    tasks = {part.task for part in parts}
    tables = [(part.task, gate_table(part.folder)) for part in parts]
    missing = [
        f"{first.run}, {task}: no gate maps; write them with `weft evaluate --gates`"
        for task, table in tables
        if table is None
    ]
    if path is None:
        missing.append(f"{first.run}: no {STANDINGS}, so nothing stands beside its scores")
    return MixtureRun(
        run=first.run,
        method=first.method,
        gates=tuple(table for _, table in tables if table is not None),
        standings=tuple(row for row in beside.get("rows", []) if row["task"] in tasks),
        said=tuple(beside.get("remarks", [])),
        missing=tuple(missing),
    )


def gate_table(folder: RunFolder) -> GateTable | None:
    """The gates that `weft evaluate --gates` left in one task's run folder; None if it did not."""
    places = ((split, folder.path / f"gates-{split}.json") for split in SPLITS)
    split, path = next(((split, path) for split, path in places if path.is_file()), ("", None))
    if path is None:
        return None
    said = json.loads(path.read_text(encoding="utf-8"))
    width = max(map(len, said["gates"].values()), default=0)
    experts = said["experts"]
    # One gate for all experts, or one for each rank: they have no names.
    columns = experts if len(experts) == width else [f"gate {at + 1}" for at in range(width)]
    gates, selected = (
        tuple((*row, *[None] * (width - len(row))) for row in said[key].values())
        for key in ("gates", "selected")
    )
    return GateTable(
        task=said["task"],
        split=split,
        tokens=said["tokens"],
        maps=tuple(short_names(list(said["gates"]))),
        columns=tuple(columns),
        gates=gates,
        selected=selected,
    )


def column_means(cells: Grid) -> list[float | None]:
    """The mean over the maps that have a value, by column."""
    columns = [[v for v in column if v is not None] for column in zip(*cells, strict=True)]
    return [mean(values) if values else None for values in columns]


def short_names(modules: Sequence[str]) -> list[str]:
    """Module names without the parts that are the same in all of them.

    `encoder.layer.0.attention.self.query` beside `encoder.layer.1.attention.self.value` is `0.query`.
    """
    parts = [name.split(".") for name in modules]
    shortest = min(map(len, parts), default=0)
    if len(set(map(len, parts))) > 1:
        start = next(
            (at for at in range(shortest) if len({own[at] for own in parts}) > 1), shortest - 1
        )
        return [".".join(own[start:]) for own in parts]
    apart = [at for at in range(shortest) if len({own[at] for own in parts}) > 1]
    return [
        ".".join(own[at] for at in apart) or name for own, name in zip(parts, modules, strict=True)
    ]

"""Mixtures and merges: scores beside each task's own expert, what they cost; none were published."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from weft.answering.recognition import RECOGNITION
from weft.comparison.comparing import examples_of, predictions_of
from weft.comparison.grid import label_of
from weft.merging.record import read_record
from weft.reporting.document import Section, Table
from weft.reporting.numbers import NONE, decimal, listed, number, percent, scored, unit
from weft.reproduction.plan import MergeRun, MixtureRun, Plan
from weft.reproduction.running import Outcome
from weft.reproduction.work import experts_of
from weft.runs import STANDINGS, RunFolder
from weft.tasks.scoring import Difference, Score, mean_difference, mean_score
from weft.training.standings import MIXTURE, OWN


@dataclass(frozen=True)
class Combined:
    """What experts of several tasks, combined, say of one task on one base."""

    base: str
    experts: str
    """The recipe whose experts are combined."""
    task: str
    metric: str
    seeds: tuple[int, ...]
    score: Score
    """Mean over seeds."""
    expert: Score
    """The task's own expert alone, on the same rows."""
    difference: Difference
    """How much higher the combined ones score."""


@dataclass(frozen=True)
class Blend(Combined):
    """One mixture on one task and base."""

    mixture: str
    beside: dict[str, float]
    """Scores of simpler ways to combine the experts, means over seeds."""
    recognition: float
    """Share of the rows whose task was recognised."""
    gate_parameters: int
    gate_share: float
    """Of the base's parameters."""
    forward_over_base: float
    """Time of a forward, as a multiple of the bare base's."""


def blends(outcome: Outcome) -> list[Blend]:
    """A row for each base, mixture and task that is there."""
    tasks = outcome.plan.profile.tasks
    return [_blend(outcome, own, task) for own in outcome.mixture_seeds.values() for task in tasks]


def _blend(outcome: Outcome, runs: list[MixtureRun], task: str) -> Blend:
    common, parts = _combined(outcome.plan, runs, task)
    standings = [_standings(run.folder) for run in runs]
    costs = [said["cost"] for said in standings]
    return Blend(
        **vars(common),
        mixture=runs[0].name,
        beside=_beside(standings, _label(parts[0])),
        recognition=mean(_metric(part, RECOGNITION) for part in parts),
        gate_parameters=costs[0]["gate_parameters"],
        gate_share=costs[0]["gate_share"],
        forward_over_base=mean(cost["forward_over_base"] for cost in costs),
    )


@dataclass(frozen=True)
class MergedTask(Combined):
    """What one merge has left of one task on one base."""

    merge: str
    error: float | None
    """Distance from the exact weighted sum of the experts as a share of it, mean over seeds; None where that is
    nothing."""
    rank: int
    """Of the merged expert, the largest of its maps."""


def merged_tasks(outcome: Outcome) -> list[MergedTask]:
    """A row for each base, merge and task that is there."""
    tasks = outcome.plan.profile.tasks
    return [_merged(outcome, own, task) for own in outcome.merge_seeds.values() for task in tasks]


def _merged(outcome: Outcome, runs: list[MergeRun], task: str) -> MergedTask:
    common, _ = _combined(outcome.plan, runs, task)
    records = [record for run in runs if (record := read_record(run.folder)) is not None]
    errors = [record.error for record in records if record.error is not None]
    return MergedTask(
        **vars(common),
        merge=runs[0].name,
        error=mean(errors) if errors else None,
        rank=max(record.rank for record in records),
    )


def _combined(
    plan: Plan, runs: Sequence[MixtureRun | MergeRun], task: str
) -> tuple[Combined, list[RunFolder]]:
    """Combined experts beside a task's own ones on the same rows; and the folder of that task, seed by seed."""
    at = list(plan.profile.tasks).index(task)
    own = [RunFolder.open((experts_of(plan, run) or [])[at].folder) for run in runs]
    loaded = examples_of(own[0])
    examples, metric = loaded.splits["validation"], loaded.task.metric
    ids = [example["id"] for example in examples]
    parts = [_part(run.folder, loaded.settings.label) for run in runs]
    ours, theirs = ([predictions_of(run.path, ids) for run in some] for some in (parts, own))
    found = Combined(
        base=label_of(runs[0].base),
        experts=runs[0].row.experts,
        task=task,
        metric=metric,
        seeds=tuple(run.seed for run in runs),
        score=mean_score(loaded.task, ours, examples)[metric],
        expert=mean_score(loaded.task, theirs, examples)[metric],
        difference=mean_difference(loaded.task, ours, theirs, examples)[metric],
    )
    return found, parts


def _part(folder: Path, label: str) -> RunFolder:
    """The folder of one task of a run; the run's own where that is its only one."""
    return {_label(own): own for own in RunFolder.open(folder).parts()}[label]


def _label(part: RunFolder) -> str:
    task = part.run.task
    assert task is not None  # a part has one
    return task.label


def _standings(folder: Path) -> dict[str, Any]:
    return json.loads((folder / STANDINGS).read_text(encoding="utf-8"))


def _beside(standings: list[dict[str, Any]], label: str) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for said in standings:
        for row in said["rows"]:
            if row["task"] == label and row["what"] not in (MIXTURE, OWN):
                found.setdefault(row["what"], []).append(row["score"]["value"])
    return {what: mean(values) for what, values in found.items()}


def _metric(part: RunFolder, name: str) -> float:
    return next(row["value"] for row in part.metrics if row["name"] == name)


def mixtures_section(plan: Plan, rows: Sequence[Blend]) -> Section:
    """Mixtures of the experts at their own rates; the study gave parameters alone."""
    said = ["The study counted parameters of its mixtures and published no score of them."]
    if not rows:
        said.append("No mixture is finished.")
    bases = dict.fromkeys(row.base for row in rows)
    tables = [_table(plan, base, [row for row in rows if row.base == base]) for base in bases]
    return Section("mixtures", "Mixtures", tuple(said), parts=tuple(tables))


def _table(plan: Plan, base: str, own: Sequence[Blend]) -> Table:
    others = list(dict.fromkeys(what for row in own for what in row.beside))
    rows = [
        (
            row.mixture,
            plan.set_name(row.task),
            unit(row.metric),
            scored(row.metric, row.score),
            scored(row.metric, row.expert),
            scored(row.metric, row.difference),
            *(number(row.metric, row.beside[o]) if o in row.beside else NONE for o in others),
            percent(row.recognition),
            f"{row.gate_parameters:,} ({percent(row.gate_share, 2)} %)",
            decimal(row.forward_over_base, 2),
        )
        for row in own
    ]
    headers = (
        "mixture",
        "set",
        "score",
        "mean (95 % interval)",
        "its own expert",
        "mixture - expert",
        *others,
        "recognised (%)",
        "gates (of the base)",
        "forward / base",
    )
    experts = ", ".join(dict.fromkeys(row.experts for row in own))
    caption = (
        f"{base}: mixtures of the {experts} experts of all sets, beside each set's own expert on the same rows; "
        f"seeds {listed(own[0].seeds)}. Differences are paired; recognised is the share of rows whose set was named."
    )
    return Table(caption, headers, tuple(rows), words=3)


def merges_section(plan: Plan, rows: Sequence[MergedTask]) -> Section:
    """The same experts made into one beforehand."""
    bases = dict.fromkeys(row.base for row in rows)
    said = (
        "One expert in place of several, with every set's own head: it costs what one expert costs, and its set need "
        "not be recognised.",
    )
    tables = [_merge_table(plan, base, [row for row in rows if row.base == base]) for base in bases]
    return Section("merges", "Merges", said, parts=tuple(tables))


def _merge_table(plan: Plan, base: str, own: Sequence[MergedTask]) -> Table:
    rows = [
        (
            row.merge,
            plan.set_name(row.task),
            unit(row.metric),
            scored(row.metric, row.score),
            scored(row.metric, row.expert),
            scored(row.metric, row.difference),
            percent(row.difference.value / row.expert.value + 1) if row.expert.value else NONE,
            percent(row.error),
            str(row.rank),
        )
        for row in own
    ]
    headers = (
        "merge",
        "set",
        "score",
        "mean (95 % interval)",
        "its own expert",
        "merge - expert",
        "kept (%)",
        "error (% of the sum)",
        "rank",
    )
    experts = ", ".join(dict.fromkeys(row.experts for row in own))
    caption = (
        f"{base}: merges of the {experts} experts of all sets, beside each set's own expert on the same rows; seeds "
        f"{listed(own[0].seeds)}. Differences are paired; the error is the distance from the exact weighted sum of the "
        "experts' changes."
    )
    return Table(caption, headers, tuple(rows), words=3)

"""The mixtures' rows: scores beside each task's own expert, recognition, cost of the gates; none were published."""

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from weft.answering.recognition import RECOGNITION
from weft.comparison.comparing import examples_of, predictions_of
from weft.comparison.grid import label_of
from weft.reproduction.plan import MixtureRun
from weft.reproduction.running import Outcome
from weft.reproduction.steps import experts_of
from weft.runs import STANDINGS, RunFolder
from weft.tasks.scoring import Difference, Score, mean_difference, mean_score
from weft.training.standings import MIXTURE, OWN


@dataclass(frozen=True)
class Blend:
    """One mixture on one task and base."""

    base: str
    mixture: str
    experts: str
    """The recipe whose experts are mixed."""
    task: str
    metric: str
    seeds: tuple[int, ...]
    score: Score
    """Mean over seeds."""
    expert: Score
    """The task's own expert alone, on the same rows."""
    difference: Difference
    """How much higher the mixture scores."""
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
    plan, first = outcome.plan, runs[0]
    at = list(plan.profile.tasks).index(task)
    own = [RunFolder.open((experts_of(plan, run) or [])[at].folder) for run in runs]
    loaded = examples_of(own[0])
    examples, metric = loaded.splits["validation"], loaded.task.metric
    ids = [example["id"] for example in examples]
    label = loaded.settings.label
    parts = [RunFolder.open(run.folder / label) for run in runs]
    ours, theirs = ([predictions_of(run.path, ids) for run in some] for some in (parts, own))
    standings = [_standings(run.folder) for run in runs]
    costs = [said["cost"] for said in standings]
    return Blend(
        base=label_of(first.base),
        mixture=first.name,
        experts=first.row.experts,
        task=task,
        metric=metric,
        seeds=tuple(run.seed for run in runs),
        score=mean_score(loaded.task, ours, examples)[metric],
        expert=mean_score(loaded.task, theirs, examples)[metric],
        difference=mean_difference(loaded.task, ours, theirs, examples)[metric],
        beside=_beside(standings, label),
        recognition=mean(_metric(part, RECOGNITION) for part in parts),
        gate_parameters=costs[0]["gate_parameters"],
        gate_share=costs[0]["gate_share"],
        forward_over_base=mean(cost["forward_over_base"] for cost in costs),
    )


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

"""Everything a reproduction has to say, gathered from its run folders; and as JSON values."""

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from weft.comparison.grid import label_of
from weft.reproduction.answers import answers
from weft.reproduction.blends import Blend, blends
from weft.reproduction.cells import Cell, cells
from weft.reproduction.claims import Kept, kept
from weft.reproduction.costs import CostRow, Total, costs, totals, usd
from weft.reproduction.durations import Faster, faster, published_hours
from weft.reproduction.gap import GapRow, Goal, gap, goal
from weft.reproduction.running import Outcome
from weft.reproduction.steps import Step, steps
from weft.runs import RunFolder
from weft.storage.card import versions

MACHINE = ("device", "machine", "threads", "processes", "python", "torch")
"""What a run's `training.json` says of where it ran."""


@dataclass(frozen=True)
class Reproduction:
    """The study's tables and claims beside ours, and what goes beyond them."""

    outcome: Outcome
    cells: tuple[Cell, ...]
    kept: tuple[Kept, ...]
    faster: tuple[Faster, ...]
    gap: tuple[GapRow, ...]
    goals: tuple[Goal, ...]
    blends: tuple[Blend, ...]
    costs: tuple[CostRow, ...]
    totals: tuple[Total, ...]
    price: float
    """USD for an hour."""
    machines: tuple[dict[str, Any], ...]
    """Where the finished runs ran, each with their number."""

    def as_json(self) -> dict[str, Any]:
        """All numbers, unrounded; no folder of this machine."""
        plan = self.outcome.plan
        hours = published_hours(plan.study)
        return {
            "study": plan.study.title,
            "profile": plan.name,
            "seeds": list(plan.seeds),
            "bases": {
                label_of(base): {"stands_for": entry.stands_for, "difference": entry.difference}
                for base, entry in plan.profile.bases.items()
            },
            "sets": {
                task: {"called": plan.set_name(task), "difference": entry.difference}
                for task, entry in plan.profile.tasks.items()
            },
            "versions": versions(),
            "machines": list(self.machines),
            "cells": [_cell(cell) for cell in self.cells],
            "kept": [asdict(row) for row in self.kept],
            "faster": [asdict(row) for row in self.faster],
            "gap": [
                {**asdict(row), "trained_share": row.trained_share, "meets_goal": row.meets_goal}
                for row in self.gap
            ],
            "goals": [asdict(row) for row in self.goals],
            "mixtures": [asdict(row) for row in self.blends],
            "usd_per_hour": self.price,
            "published": {"hours": hours, "usd": usd(3600 * hours, self.price)},
            "costs": [asdict(row) for row in self.costs],
            "totals": [asdict(row) for row in self.totals],
            "failed": [asdict(row) for row in self.outcome.failed],
        }


def gather(outcome: Outcome, price: float) -> Reproduction:
    """What has come of a plan, read from its run folders.

    Args:
        outcome: What `weft.reproduction.running.run` returned.
        price: USD for an hour of the machine.
    """
    plan = outcome.plan
    by_place = {}
    rows: list[GapRow] = []
    goals: list[Goal] = []
    for base in plan.profile.bases:
        for task in plan.profile.tasks:
            found = answers(outcome, base, task)
            own = gap(found) if found else []
            if found:
                by_place[plan.published_base(base), task] = found
            rows += own
            goals.append(goal(own, label_of(base), task))
    every = steps(plan)
    return Reproduction(
        outcome=outcome,
        cells=tuple(cells(plan)),
        kept=tuple(kept(plan, by_place)),
        faster=tuple(faster(plan)),
        gap=tuple(rows),
        goals=tuple(goals),
        blends=tuple(blends(outcome)),
        costs=tuple(costs(outcome, price)),
        totals=tuple(totals(every, price)),
        price=price,
        machines=tuple(_machines(every)),
    )


def _machines(every: list[Step]) -> list[dict[str, Any]]:
    found: Counter[tuple[Any, ...]] = Counter()
    for step in every:
        if step.state == "done" and step.job is not None:
            training = RunFolder.open(step.job.folder).parts()[0].training or {}
            found[tuple(training.get(key) for key in MACHINE)] += 1
    return [
        {**dict(zip(MACHINE, values, strict=True)), "runs": count}
        for values, count in found.items()
    ]


def _cell(cell: Cell) -> dict[str, Any]:
    figure = cell.figure
    return {
        **figure.address._asdict(),
        "unit": figure.unit,
        "published": figure.printed,
        "published_on": figure.machine,
        "measured": cell.measured,
        "deviation": cell.deviation,
        "seeds": cell.seeds,
        "remarks": list(cell.remarks),
    }

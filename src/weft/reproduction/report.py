"""Everything a reproduction has to say, gathered from its run folders: all numbers, and the document of them."""

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from weft.comparison.grid import label_of
from weft.reporting.document import Document, Section
from weft.reproduction.answers import answers
from weft.reproduction.cells import Cell, cells
from weft.reproduction.claims import (
    Faster,
    Kept,
    Spent,
    claims_section,
    faster,
    kept,
    published_hours,
    verdicts,
)
from weft.reproduction.costs import CostRow, Total, cost_section, costs, totals, usd
from weft.reproduction.gap import GapRow, Goal, gap, gap_section, goal
from weft.reproduction.mixtures import (
    Blend,
    MergedTask,
    blends,
    merged_tasks,
    merges_section,
    mixtures_section,
)
from weft.reproduction.plan import STUDY
from weft.reproduction.running import Outcome
from weft.reproduction.six_tables import tables_section
from weft.reproduction.work import Step, steps
from weft.runs import RunFolder
from weft.storage.card import versions

VALUES = "reproduction.json"
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
    merges: tuple[MergedTask, ...] = ()

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
            "merges": [asdict(row) for row in self.merges],
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
        merges=tuple(merged_tasks(outcome)),
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


def document(found: Reproduction) -> Document:
    """The study's six tables beside ours, its claims, and what goes beyond them.

    Raises:
        ValueError: If matplotlib is not installed.
    """
    outcome = found.outcome
    plan = outcome.plan
    spent = Spent(
        once=sum(row.seconds for row in found.costs if row.stage == STUDY),
        whole=sum(total.seconds for total in found.totals),
        price=found.price,
    )
    sections = (
        _summary_section(found),
        tables_section(plan.study, found.cells),
        claims_section(plan, found.kept, found.faster, spent),
        gap_section(outcome, found.gap, found.goals),
        mixtures_section(plan, found.blends),
        *([merges_section(plan, found.merges)] if found.merges else []),
        cost_section(plan, found.costs, found.totals, found.price),
    )
    title = f"The study's six tables, reproduced with profile {plan.name}"
    return Document(title, sections, found.as_json())


def _summary_section(found: Reproduction) -> Section:
    """What was measured where, what stands in for what, what is not there, and what came out."""
    plan = found.outcome.plan
    said = [f"{plan.profile.summary} Seeds {', '.join(map(str, plan.seeds))}."]
    said += [
        f"{place['runs']} runs on {place['device']} ({place['machine']}, {place['threads']} threads), "
        f"torch {place['torch']}."
        for place in found.machines
    ]
    notes = [f"Stand-in: {difference}." for difference in _differences(found)]
    notes += [f"Not measured: {why}." for why in _unmeasured(found)]
    notes += [f"Failed: {failure.run}: {failure.error}" for failure in found.outcome.failed]
    return Section("summary", "In short", (*said, *_came_out(found)), tuple(notes))


def _came_out(found: Reproduction) -> list[str]:
    plan = found.outcome.plan
    lines = verdicts(plan, found.kept, found.faster)
    lines += [f"{plan.set_name(own.task)} on {own.base}: {own.says}." for own in found.goals]
    return lines


def _differences(found: Reproduction) -> list[str]:
    profile = found.outcome.plan.profile
    entries = [*profile.bases.values(), *profile.tasks.values()]
    return [entry.difference for entry in entries if entry.difference]


def _unmeasured(found: Reproduction) -> list[str]:
    """Why cells have no number, each reason once."""
    return list(dict.fromkeys(cell.filling.why for cell in found.cells if cell.filling.why))

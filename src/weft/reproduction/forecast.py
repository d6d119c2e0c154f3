"""What a plan will run, what of it is done, and about how long the rest takes."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from weft.comparison.grid import label_of
from weft.reproduction.estimate import Estimate, calibrate, estimate
from weft.reproduction.plan import Plan
from weft.reproduction.steps import Step, place_of, steps
from weft.storage.loading import available_device


@dataclass(frozen=True)
class Line:
    """The runs of one recipe or mixture in one stage of one base."""

    base: str
    stage: str
    what: str
    runs: int
    done: int
    failed: int
    """In the last call; they are tried again."""
    seconds: float
    """Estimate of what is left."""


@dataclass(frozen=True)
class Forecast:
    """What is ahead."""

    out: Path
    lines: tuple[Line, ...]
    left: Estimate
    seconds: dict[Path, float]
    """Estimate of one run, by `place_of`."""
    at_once: int
    """Runs at the same time that do not share a machine."""
    notes: tuple[str, ...] = ()

    @property
    def runs(self) -> int:
        return sum(line.runs for line in self.lines)

    @property
    def done(self) -> int:
        return sum(line.done for line in self.lines)

    def as_json(self) -> dict[str, Any]:
        return {
            "runs": self.runs,
            "done": self.done,
            "lines": [asdict(line) for line in self.lines],
            "seconds_left": self.left.seconds / self.at_once,
            "says": self.left.says,
            "notes": list(self.notes),
        }


def forecast(
    plan: Plan,
    *,
    notes: tuple[str, ...] = (),
    at_once: int = 1,
    speed: Callable[[str], float] | None = None,
) -> Forecast:
    """What is ahead of a plan; nothing is written.

    Args:
        plan: What is to be run.
        notes: What else is to be said.
        at_once: Runs at the same time, each on a machine or an accelerator to itself. Workers that share out the cores
            of one machine are one.
        speed: Tokens per second of a base; None measures it here for a few seconds.
    """
    every = steps(plan)
    open_ = [step for step in every if step.state != "done"]
    speeds = {base: (speed or _speed(plan))(base) for base in {s.planned.base for s in open_}}
    seconds = {
        place_of(plan, step.planned): step.planned.tokens / speeds[step.planned.base]
        for step in open_
    }
    grouped: dict[tuple[str, str, str], list[Step]] = {}
    for step in every:
        run = step.planned
        grouped.setdefault((run.base, run.stage, run.what), []).append(step)
    lines = []
    for (base, stage, what), own in grouped.items():
        states = [step.state for step in own]
        left = [s for s, state in zip(own, states, strict=True) if state != "done"]
        took = sum(seconds[place_of(plan, step.planned)] for step in left)
        counts = len(own), states.count("done"), states.count("failed")
        lines.append(Line(label_of(base), stage, what, *counts, took))
    left = estimate([step.planned for step in open_], speeds)
    return Forecast(plan.out, tuple(lines), left, seconds, at_once, notes)


def _speed(plan: Plan) -> Callable[[str], float]:
    device = plan.profile.device
    where = torch.device(available_device() if device == "auto" else device)
    precision = str(plan.profile.training.get("precision", "fp32"))
    return lambda base: calibrate(base, where, precision)

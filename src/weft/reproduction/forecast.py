"""What a plan will run, what of it is done, about how long the rest takes; and how far it is while it runs.

Tokens over tokens per second, which are measured here for a few seconds.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from transformers import AutoModel

from weft.answering.inference import autocast
from weft.base.loading import attention_for, config_of
from weft.base.positions import max_positions
from weft.comparison.grid import label_of
from weft.comparison.jobs import Job
from weft.comparison.workers import Standing, Watch
from weft.reporting.progress import Bar
from weft.reporting.writers import console, say
from weft.reproduction.plan import Plan
from weft.reproduction.work import Planned, Step, place_of, steps
from weft.scoped import tell
from weft.storage.loading import available_device
from weft.training.assembly import DTYPES

ROWS, TOKENS = 16, 64
"""Size of a timed batch."""


@dataclass(frozen=True)
class Estimate:
    """How long some runs take together, one after the other."""

    runs: int
    seconds: float
    by_base: dict[str, float]
    """Seconds by base."""
    may_stop: int
    """Runs that may stop before their last epoch."""

    @property
    def says(self) -> str:
        """The estimate as a sentence."""
        early = f"; {self.may_stop} may stop early, so it may be less" if self.may_stop else ""
        return (
            f"{self.runs} runs, about {in_words(self.seconds)} one after the other: tokens of all runs over tokens per "
            f"second measured here for a few seconds on random weights, so half or double is possible{early}"
        )


def estimate(runs: Sequence[Planned], tokens_per_second: Mapping[str, float]) -> Estimate:
    """How long `runs` take.

    Args:
        runs: Those still to be run.
        tokens_per_second: Of LoRA by base, as `calibrate` measures them.
    """
    by_base: dict[str, float] = {}
    for run in runs:
        seconds = run.tokens / tokens_per_second[run.base]
        by_base[run.base] = by_base.get(run.base, 0.0) + seconds
    stopping = sum(run.may_stop for run in runs)
    return Estimate(len(runs), sum(by_base.values()), by_base, stopping)


def calibrate(
    base: str, device: torch.device, precision: str = "fp32", *, seconds: float = 3.0
) -> float:
    """Tokens per second of a forward and a backward through a frozen base, as LoRA's training makes them.

    From the base's config alone: random weights take as long as others, and nothing is downloaded for an alias.
    Adapters, head, optimizer and padding are left out, so training is somewhat slower.

    Args:
        base: An alias, a hub id or a folder.
        device: Where.
        precision: As in a run.
        seconds: How long it is timed, at least two rounds.
    """
    tell(f"measuring what a step on {label_of(base)} takes")
    config = config_of(base)
    dtype = DTYPES.get(precision, torch.float32)
    how = attention_for(device, half=precision in ("bf16", "fp16"))
    with torch.random.fork_rng(devices=[]):
        trunk = AutoModel.from_config(
            config, dtype=dtype, attn_implementation=how, trust_remote_code=False
        )
    trunk.to(device).requires_grad_(False).eval()
    limit = max_positions(trunk)
    length = TOKENS if limit is None else min(TOKENS, limit)
    start = torch.zeros(ROWS, length, config.hidden_size, device=device, dtype=dtype)
    start.requires_grad_(True)

    def step() -> None:
        with autocast(device, precision):
            out = trunk(inputs_embeds=start).last_hidden_state
        out.float().square().mean().backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    step()
    rounds, began = 0, time.perf_counter()
    while rounds < 2 or time.perf_counter() - began < seconds:
        step()
        rounds += 1
    return rounds * ROWS * length / (time.perf_counter() - began)


def in_words(seconds: float) -> str:
    """A time as people say it: no more digits than an estimate has."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} days"


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


SHOWN = 3
"""Runs in progress that are named."""


def show_forecast(ahead: Forecast, *, stderr: bool = True) -> None:
    """Print what will be run, what is done, and about how long the rest takes."""
    screen = console(stderr=stderr)
    table = Table("base", "stage", "recipe or mixture", "runs", "done", "failed before", "left")
    for line in ahead.lines:
        counts = [str(count) for count in (line.runs, line.done, line.failed)]
        left = in_words(line.seconds) if line.done < line.runs else ""
        table.add_row(*map(escape, (line.base, line.stage, line.what)), *counts, left)
    screen.print(table)
    say(screen, *ahead.notes)
    say(screen, f"{ahead.out}: {ahead.runs} runs, {ahead.done} done, {ahead.left.runs} to run")
    if ahead.left.runs:
        say(screen, ahead.left.says)
    if ahead.at_once > 1:
        together = in_words(ahead.left.seconds / ahead.at_once)
        say(screen, f"{ahead.at_once} at the same time on machines like this one: about {together}")


@contextmanager
def reproduction_shown(ahead: Forecast, *, quiet: bool) -> Iterator[Watch | None]:
    """A display for `Workers(watch=...)`: runs that have ended, time left, what is going on."""
    if quiet:
        yield None
        return
    with Bar("reproduce", Console(stderr=True)) as bar:
        clock = _Clock(ahead)

        def watch(standing: Standing) -> None:
            left = in_words(clock.left(standing.running))
            ended = ahead.done + standing.done
            failed = f", {standing.failed} failed" if standing.failed else ""
            now = ", ".join("/".join(job.folder.parts[-3:]) for job in standing.running[:SHOWN])
            words = f"{ended}/{ahead.runs} runs{failed}  about {left} left  {now}"
            bar.show(clock.fraction, words)

        yield watch


class _Clock:
    """How much of the work is done, and at which pace: the estimate, corrected by the runs that have ended."""

    def __init__(self, ahead: Forecast) -> None:
        self.ahead = ahead
        self.began = time.monotonic()
        self.ended = 0.0
        self._seen: dict[str, Job] = {}

    @property
    def fraction(self) -> float:
        return min(1.0, self.ended / max(self.ahead.left.seconds, 1e-9))

    def left(self, running: list[Job]) -> float:
        """Seconds, about."""
        now = {str(job.folder): job for job in running}
        for name in [name for name in self._seen if name not in now]:
            job = self._seen.pop(name)
            # A run whose process was lost is taken up again: it has not ended.
            if job.is_complete or job.failure is not None:
                self.ended += self._estimate(job)
        self._seen |= now
        passed = time.monotonic() - self.began
        pace = passed / self.ended if self.ended else 1 / self.ahead.at_once
        return max(0.0, self.ahead.left.seconds - self.ended) * pace

    def _estimate(self, job: Job) -> float:
        known = self.ahead.seconds
        return known.get(job.folder, known.get(job.folder.parent, 0.0))

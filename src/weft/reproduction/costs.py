"""What everything cost: time, memory, disk, and money at a price by the hour."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from weft.comparison.grid import Cell, label_of
from weft.comparison.jobs import final_jobs
from weft.reporting.document import Section, Table
from weft.reporting.numbers import decimal
from weft.reproduction.plan import Plan
from weft.reproduction.running import Outcome
from weft.reproduction.work import Step
from weft.runs import RunFolder

PRICE = 0.50
"""USD for an hour of a machine: an assumption, about that of a small cloud GPU; not a quote."""
MOMENTS = 2
"""Numbers of four bytes that AdamW keeps for each trained parameter."""


@dataclass(frozen=True)
class CostRow:
    """One recipe or mixture: means over its runs, one a seed."""

    base: str
    stage: str
    what: str
    task: str | None
    """None: all tasks at once."""
    seeds: int
    trained: int
    seconds: float
    """Of training, without reading rows and the final score."""
    seconds_per_epoch: float
    peak_memory_mib: float
    """The most that the process of one of the runs held."""
    optimizer_mib: float
    """Computed, not measured: two moments in single precision for each trained parameter."""
    disk_mib: float
    """The folder of the expert, or of the mixture with the experts in it."""
    usd: float


@dataclass(frozen=True)
class Total:
    """Training time of all finished runs of one base and stage."""

    base: str
    stage: str
    """study, own or mixtures."""
    part: str
    """search or final."""
    runs: int
    seconds: float
    usd: float


def costs(outcome: Outcome, price: float) -> list[CostRow]:
    """A row for each recipe, stage, task and base, and for each mixture.

    Args:
        outcome: What was run.
        price: USD for an hour.
    """
    return [*_recipes(outcome, price), *_mixtures(outcome, price)]


def totals(steps: list[Step], price: float) -> list[Total]:
    """Where the time went, over all finished runs, searches included."""
    grouped: dict[tuple[str, str, str], list[float]] = {}
    for step in steps:
        if step.state == "done" and step.job is not None:
            run = step.planned
            key = label_of(run.base), run.stage, run.part
            training = RunFolder.open(step.job.folder).parts()[0].training or {}
            grouped.setdefault(key, []).append(training["seconds"])
    return [
        Total(*key, len(took), sum(took), usd(sum(took), price)) for key, took in grouped.items()
    ]


def usd(seconds: float, price: float) -> float:
    """What some time costs."""
    return seconds / 3600 * price


def _recipes(outcome: Outcome, price: float) -> Iterator[CostRow]:
    for (name, base), rows in outcome.rows.items():
        stage = outcome.plan.stage(name, base)
        for row in rows:
            cell = Cell(stage.grid.base, row.task, row.recipe)
            jobs = final_jobs(stage.grid, stage.folder, cell, row.learning_rate)
            yield CostRow(
                base=label_of(base),
                stage=name,
                what=row.recipe,
                task=row.task,
                seeds=len(row.seeds),
                trained=row.trainable_parameters,
                seconds=row.seconds,
                seconds_per_epoch=row.seconds_per_epoch,
                peak_memory_mib=row.peak_memory_mib,
                optimizer_mib=_moments(row.trainable_parameters),
                disk_mib=mean(_size(RunFolder(job.folder).expert) for job in jobs),
                usd=usd(row.seconds, price),
            )


def _mixtures(outcome: Outcome, price: float) -> Iterator[CostRow]:
    for (base, name), runs in outcome.mixture_seeds.items():
        folders = [RunFolder.open(run.folder) for run in runs]
        # Its tasks are trained together, so each of them has the time of all.
        took = [part.training or {} for part in (folder.parts()[0] for folder in folders)]
        seconds = mean(own["seconds"] for own in took)
        yield CostRow(
            base=label_of(base),
            stage="mixtures",
            what=name,
            task=None,
            seeds=len(runs),
            trained=took[0]["trainable_parameters"],
            seconds=seconds,
            seconds_per_epoch=mean(own["seconds_per_epoch"] for own in took),
            peak_memory_mib=max(own["peak_memory_mib"] for own in took),
            optimizer_mib=_moments(took[0]["trainable_parameters"]),
            disk_mib=mean(_size(folder.mixture) for folder in folders),
            usd=usd(seconds, price),
        )


def _moments(trained: int) -> float:
    return MOMENTS * 4 * trained / 2**20


def _size(folder: Path) -> float:
    """MiB of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20


def cost_section(
    plan: Plan, rows: Sequence[CostRow], sums: Sequence[Total], price: float
) -> Section:
    """Time, memory, disk and price of every recipe, and where the time went."""
    said = (
        f"Prices are training time at {price:g} USD an hour: an assumption, which --price changes.",
        "Optimizer state is computed, not measured: two numbers in single precision for each trained parameter.",
    )
    return Section("cost", "What it cost", said, parts=(_where(sums), _each(plan, rows)))


def _where(sums: Sequence[Total]) -> Table:
    rows = [
        (
            total.base,
            f"{total.stage}, {total.part}",
            str(total.runs),
            decimal(total.seconds / 3600, 2),
            decimal(total.usd, 2),
        )
        for total in sums
    ]
    whole = [sum(getattr(t, key) for t in sums) for key in ("runs", "seconds", "usd")]
    rows.append(("all", "", f"{whole[0]}", decimal(whole[1] / 3600, 2), decimal(whole[2], 2)))
    headers = ("base", "stage", "runs", "time (h)", "price (USD)")
    caption = "Training time of all finished runs, every seed and every rate of the searches."
    return Table(caption, headers, tuple(rows), words=2)


def _each(plan: Plan, rows: Sequence[CostRow]) -> Table:
    cells = [
        (
            row.base,
            f"{row.stage}, {row.what}",
            plan.set_name(row.task) if row.task else "all",
            decimal(row.seconds),
            decimal(row.seconds_per_epoch),
            decimal(row.peak_memory_mib, 0),
            f"{row.trained:,}",
            decimal(row.optimizer_mib),
            decimal(row.disk_mib),
            decimal(row.usd, 4),
        )
        for row in rows
    ]
    headers = (
        "base",
        "stage, recipe",
        "set",
        "time (s)",
        "time per epoch (s)",
        "peak memory (MiB)",
        "trained parameters",
        "optimizer state, computed (MiB)",
        "disk (MiB)",
        "price (USD)",
    )
    caption = (
        "One training, mean over seeds. Peak memory is the most that a run's process held; disk is the expert's "
        "folder, a mixture's with its experts in it."
    )
    return Table(caption, headers, tuple(cells), words=3, brief=False)

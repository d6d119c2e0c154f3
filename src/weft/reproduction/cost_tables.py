"""What everything cost, as a section."""

from weft.reporting.document import Table
from weft.reproduction.layout import Block, Section, decimal
from weft.reproduction.result import Reproduction


def cost(found: Reproduction) -> Section:
    """Time, memory, disk and price of every recipe, and where the time went."""
    said = (
        f"Prices are training time at {found.price:g} USD an hour: an assumption, which --price changes.",
        "Optimizer state is computed, not measured: two numbers in single precision for each trained parameter.",
    )
    return Section("cost", "What it cost", said, (_where(found), _each(found)))


def _where(found: Reproduction) -> Block:
    rows = [
        (
            total.base,
            f"{total.stage}, {total.part}",
            str(total.runs),
            decimal(total.seconds / 3600, 2),
            decimal(total.usd, 2),
        )
        for total in found.totals
    ]
    whole = [sum(getattr(t, key) for t in found.totals) for key in ("runs", "seconds", "usd")]
    rows.append(("all", "", f"{whole[0]}", decimal(whole[1] / 3600, 2), decimal(whole[2], 2)))
    headers = ("base", "stage", "runs", "time (h)", "price (USD)")
    caption = "Training time of all finished runs, every seed and every rate of the searches."
    return Block(Table(caption, headers, tuple(rows), words=2))


def _each(found: Reproduction) -> Block:
    plan = found.outcome.plan
    rows = [
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
        for row in found.costs
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
    return Block(Table(caption, headers, tuple(rows), words=3), brief=False)

"""A comparison on the terminal: what it will run, how far it is, its leaderboard."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from weft.atomic import write_text
from weft.comparison.grid import label_of
from weft.comparison.jobs import Job, Plan
from weft.comparison.workers import Standing, Watch
from weft.reporting.progress import Bar
from weft.reporting.rates import draw_rates
from weft.reporting.tables import console, interval, number
from weft.reporting.terminal import say
from weft.runs import RunFolder
from weft.training.tracking import log_lines

BOARD = "leaderboard.json"
NO_FIGURE = "no figure of the learning rates: it needs matplotlib (pip install 'weft[report]')"
SHOWN = 3
"""Runs in progress that are named."""


def show_plan(plans: Sequence[Plan], out: Path) -> None:
    """Print to stderr what will be run and what is done."""
    runs, done, failed = (sum(getattr(p, key) for p in plans) for key in ("runs", "done", "failed"))
    table = Table("base", "task", "recipe", "runs", "done", "failed before")
    for plan in plans:
        cell = plan.cell
        counts = [str(count) for count in (plan.runs, plan.done, plan.failed)]
        table.add_row(*map(escape, (label_of(cell.base), cell.task, cell.recipe)), *counts)
    screen = console(stderr=True)
    screen.print(table)
    again = f", {failed} of them failed before" if failed else ""
    say(screen, f"{out}: {runs} runs, {done} done, {runs - done} to run{again}")


@contextmanager
def comparison_shown(plans: Sequence[Plan], *, quiet: bool) -> Iterator[Watch | None]:
    """A display for `Workers(watch=...)`; None where nothing is to be shown."""
    if quiet:
        yield None
        return
    runs, done = sum(plan.runs for plan in plans), sum(plan.done for plan in plans)
    with Bar("compare", Console(stderr=True)) as bar:

        def watch(standing: Standing) -> None:
            ended = done + standing.done
            failed = f", {standing.failed} failed" if standing.failed else ""
            now = ", ".join(_words(job) for job in standing.running[:SHOWN])
            bar.show(ended / max(runs, 1), f"{ended}/{runs} runs{failed}  {now}")

        yield watch


def write_board(board: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """Write `leaderboard.json` and the figure of the learning rates beside the runs.

    Args:
        board: What `leaderboard` returned.
        out: Folder of the comparison.

    Returns:
        The board with its `figure`: file names, caption and alternative text; None where nothing was searched, or a
        remark says that it could not be drawn.
    """
    whole = dict(board)
    try:
        picture = draw_rates(board, out)
        whole["figure"] = picture.as_json() if picture else None
    except ModuleNotFoundError:
        whole |= {"figure": None, "remarks": [*board["remarks"], NO_FIGURE]}
    write_text(out / BOARD, json.dumps(whole, indent=1) + "\n")
    return whole


def show_leaderboard(board: Mapping[str, Any], out: Path) -> None:
    """Print the rows, what failed and what to keep in mind."""
    screen = console()
    for base, task in dict.fromkeys((row["base"], row["task"]) for row in board["rows"]):
        own = [row for row in board["rows"] if (row["base"], row["task"]) == (base, task)]
        screen.print(_table(board, own, f"{task} on {label_of(base)}"))
    for failure in board["failed"]:
        say(screen, f"failed: {failure['run']}: {failure['error'] or 'not finished'}")
    say(screen, *board["remarks"], f"runs, leaderboard and figure are in {out}")


def _table(board: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], title: str) -> Table:
    metric, baseline = rows[0]["metric"], board["baseline"]
    table = Table(title=f"{escape(title)}: {metric}, {rows[0]['n']:,} rows")
    for heading in ("recipe", "mean (95 % interval)", "sd over seeds", "learning rate"):
        table.add_column(heading)
    if baseline is not None:
        table.add_column(f"minus {escape(baseline)} (95 % interval)")
        table.add_column("p corrected")
    for heading in ("trained", "adapter", "s/run", "peak MiB"):
        table.add_column(heading, justify="right")
    for row in rows:
        apart = row["from_baseline"]
        found = [interval(metric, apart), f"{apart['p_corrected']:.3f}"] if apart else ["", ""]
        table.add_row(
            escape(row["recipe"]),
            interval(metric, row["scores"][metric]),
            number(metric, row["deviation"]) if len(row["seeds"]) > 1 else "",
            f"{row['learning_rate']:g}",
            *(found if baseline is not None else []),
            f"{row['trainable_parameters']:,}",
            f"{row['adapter_parameters']:,}",
            f"{row['seconds']:.1f}",
            f"{row['peak_memory_mib']:,.0f}",
        )
    return table


def _words(job: Job) -> str:
    """A run by its last three folders, and the step that its log has come to."""
    name = "/".join(job.folder.parts[-3:])
    lines = log_lines(RunFolder(job.folder).log)
    return f"{name} step {json.loads(lines[-1])['step']}" if lines else name

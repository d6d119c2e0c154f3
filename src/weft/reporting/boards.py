"""A comparison: what it will run, how far it is, and the document of its leaderboard."""

import importlib.util
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table as Rich

from weft.atomic import write_text
from weft.comparison.choice import Candidate, Choice
from weft.comparison.grid import label_of
from weft.comparison.jobs import Job, Plan
from weft.comparison.workers import Standing, Watch
from weft.reporting.answers.verdict import sentence
from weft.reporting.document import Document, Section, Table, distinct_names
from weft.reporting.numbers import interval, number
from weft.reporting.progress import Bar
from weft.reporting.rates import draw_rates, rates_figure
from weft.reporting.writers import console, say, to_json, write
from weft.runs import RunFolder
from weft.training.tracking import log_lines

BOARD, PAGE, TEXT = "leaderboard.json", "leaderboard.html", "leaderboard.md"
NO_FIGURE = "no figure of the learning rates: it needs matplotlib (pip install 'weft[report]')"
NO_PAGE = "no page: it needs jinja2 (pip install 'weft[report]')"
SHOWN = 3
"""Runs in progress that are named."""


def show_plan(plans: Sequence[Plan], out: Path) -> None:
    """Print to stderr what will be run and what is done."""
    runs, done, failed = (sum(getattr(p, key) for p in plans) for key in ("runs", "done", "failed"))
    table = Rich("base", "task", "recipe", "runs", "done", "failed before")
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


def write_leaderboard(board: Mapping[str, Any], out: Path) -> Document:
    """Write `leaderboard.json`, its page and Markdown, and the figure of the learning rates beside the runs.

    Args:
        board: What `leaderboard` returned.
        out: Folder of the comparison.

    Returns:
        The document; its values are the board with its `figure`: file names, caption and alternative text; None where
        nothing was searched, or a remark says that it could not be drawn.
    """
    draws, prints = (
        importlib.util.find_spec(name) is not None for name in ("matplotlib", "jinja2")
    )
    absent = [said for said, there in ((NO_FIGURE, draws), (NO_PAGE, prints)) if not there]
    picture = draw_rates(board, out) if draws else None
    whole = {**board, "remarks": [*board["remarks"], *absent]}
    whole["figure"] = picture.as_json() if picture else None
    found = leaderboard_document(whole, figures=draws)
    if prints:
        write(found, out, page=PAGE, text=TEXT, values=BOARD)
    else:
        write_text(out / BOARD, to_json(found))
    return found


def leaderboard_document(board: Mapping[str, Any], *, figures: bool = True) -> Document:
    """A section for each task and base, then what failed and what to keep in mind.

    Args:
        board: What `leaderboard` returned.
        figures: Whether the learning rates are drawn.

    Raises:
        ValueError: If they are, and matplotlib is not installed.
    """
    places = list(dict.fromkeys((row["base"], row["task"]) for row in board["rows"]))
    notes = [f"failed: {own['run']}: {own['error'] or 'not finished'}" for own in board["failed"]]
    notes += board["remarks"]
    last = [Section("remarks", "To keep in mind", notes=tuple(notes))] if notes else []
    tasks = ", ".join(dict.fromkeys(task for _, task in places)) or "nothing yet"
    keys = distinct_names([f"{label_of(base)}-{task}" for base, task in places])
    sections = [
        _section(board, place, key, figures=figures)
        for place, key in zip(places, keys, strict=True)
    ]
    return Document(f"Recipes compared on {tasks}", (*sections, *last), board)


def _section(
    board: Mapping[str, Any], place: tuple[str, str], key: str, *, figures: bool
) -> Section:
    base, task = place
    rows = [row for row in board["rows"] if (row["base"], row["task"]) == (base, task)]
    heading = f"{task} on {label_of(base)}"
    figure = rates_figure({**board, "rows": rows}, f"rates-{key}") if figures else None
    table = _table(board, rows, heading)
    words = _verdict(board, rows, place)
    return Section(key, heading, words, parts=(table, figure) if figure else (table,))


def _verdict(
    board: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], place: tuple[str, str]
) -> tuple[str, ...]:
    """Which recipe to take on a task and base, where there are several."""
    costs = {
        row["recipe"]: Candidate(row["recipe"], row["trainable_parameters"], row["seconds"])
        for row in rows
    }
    metric = rows[0]["metric"]
    scores = {row["recipe"]: row["scores"][metric]["value"] for row in rows}
    own = [one for one in board["choices"] if (one["base"], one["task"]) == place]
    return tuple(sentence(Choice.from_json(one), metric, scores, costs) for one in own)


def _table(board: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], title: str) -> Table:
    metric, baseline = rows[0]["metric"], board["baseline"]
    headers = ["recipe", "mean (95 % interval)", "sd over seeds", "learning rate"]
    if baseline is not None:
        headers += [f"minus {baseline} (95 % interval)", "p corrected"]
    headers += ["trained", "adapter", "s/run", "peak MiB"]
    return Table(
        f"{title}: {metric}, {rows[0]['n']:,} rows",
        tuple(headers),
        tuple(_cells(row, against=baseline is not None) for row in rows),
    )


def _cells(row: Mapping[str, Any], *, against: bool) -> tuple[str, ...]:
    metric, apart = row["metric"], row["from_baseline"]
    found = [interval(metric, apart), f"{apart['p_corrected']:.3f}"] if apart else ["", ""]
    return (
        row["recipe"],
        interval(metric, row["scores"][metric]),
        number(metric, row["deviation"]) if len(row["seeds"]) > 1 else "",
        f"{row['learning_rate']:g}",
        *(found if against else []),
        f"{row['trainable_parameters']:,}",
        f"{row['adapter_parameters']:,}",
        f"{row['seconds']:.1f}",
        f"{row['peak_memory_mib']:,.0f}",
    )


def _words(job: Job) -> str:
    """A run by its last three folders, and the step that its log has come to."""
    name = "/".join(job.folder.parts[-3:])
    lines = log_lines(RunFolder(job.folder).log)
    return f"{name} step {json.loads(lines[-1])['step']}" if lines else name

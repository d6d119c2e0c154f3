"""A reproduction on a terminal: what is ahead, how far it is, and the main tables of what came out."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.table import Table as Rich

from weft.comparison.jobs import Job
from weft.comparison.workers import Standing, Watch
from weft.reporting.document import Table
from weft.reporting.progress import Bar
from weft.reporting.terminal import console, say
from weft.reproduction.estimate import in_words
from weft.reproduction.forecast import Forecast
from weft.reproduction.result import Reproduction
from weft.reproduction.sections import sections

SHOWN = 3
"""Runs in progress that are named."""


def show_forecast(ahead: Forecast, *, stderr: bool = True) -> None:
    """Print what will be run, what is done, and about how long the rest takes."""
    screen = console(stderr=stderr)
    table = Rich("base", "stage", "recipe or mixture", "runs", "done", "failed before", "left")
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


def show(found: Reproduction) -> None:
    """Print the six tables, what came out, and what failed; the files have the rest."""
    screen = console()
    for section in sections(found):
        say(screen, "", section.heading.upper(), *section.said, *section.notes)
        for block in section.blocks:
            if block.brief:
                screen.print(_rich(block.table))


def _rich(table: Table) -> Rich:
    shown = Rich(title=escape(table.caption), title_justify="left", title_style="dim")
    for at, header in enumerate(table.headers):
        shown.add_column(escape(header), justify="left" if at < table.words else "right")
    for row in table.rows:
        shown.add_row(*map(escape, row))
    return shown

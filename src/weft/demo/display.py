"""How the demonstration is shown: the whole way while it runs, its comparison afterwards."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from weft.reporting.progress import Bar, clock, words_of
from weft.reporting.tables import console, interval, number

if TYPE_CHECKING:
    from weft.demo.demonstration import Result, Stage


@contextmanager
def demonstration_shown() -> "Iterator[Callable[[Stage], None]]":
    """A display for `demonstrate(report=...)`: the whole way, and the run it is at."""
    with Bar("demo", Console(stderr=True)) as bar:

        def show(stage: "Stage") -> None:
            left = f"{clock(stage.seconds_left)} left in all"
            where = f"{stage.number}/{stage.runs} {stage.recipe} on {stage.task}"
            bar.show(stage.fraction, f"{left}  {where}  {words_of(stage.event, with_time=False)}")

        yield show


def show_demonstration(results: "Sequence[Result]", out: Path) -> None:
    """Print the demo's comparison."""
    table = Table("task", "recipe", "trained parameters", "score")
    for heading in ("% (95 % interval)", "guess %", "s/epoch"):
        table.add_column(heading)
    for result in results:
        table.add_row(
            result.task,
            result.recipe,
            f"{result.trainable_parameters:,}",
            result.metric,
            interval(result.metric, asdict(result.score)),
            number(result.metric, result.guess),
            f"{result.seconds_per_epoch:.1f}",
        )
    console().print(table)
    console().print(f"run folders are in {out}", markup=False, soft_wrap=True)

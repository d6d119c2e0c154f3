"""How the demonstration is shown: the whole way while it runs, its comparison afterwards."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from weft.reporting.document import Document, Section, Table
from weft.reporting.numbers import number, scored
from weft.reporting.progress import Bar, clock, words_of
from weft.reporting.writers import console, say, show

if TYPE_CHECKING:
    from weft.demo.demonstration import Result, Stage


@contextmanager
def demonstration_shown(quiet: bool = False) -> "Iterator[Callable[[Stage], None] | None]":
    """A display for `demonstrate(report=...)`: the whole way, and the run it is at; None if quiet."""
    if quiet:
        yield None
        return
    with Bar("demo", Console(stderr=True)) as bar:

        def show(stage: "Stage") -> None:
            left = f"{clock(stage.seconds_left)} left in all"
            where = f"{stage.number}/{stage.runs} {stage.recipe} on {stage.task}"
            bar.show(stage.fraction, f"{left}  {where}  {words_of(stage.event, with_time=False)}")

        yield show


def show_demonstration(results: "Sequence[Result]", out: Path) -> None:
    """Print the demo's comparison."""
    show(document(results))
    say(console(), f"run folders are in {out}")


def document(results: "Sequence[Result]") -> Document:
    """The demo's comparison: every recipe on every set, beside a guess."""
    rows = tuple(
        (
            result.task,
            result.recipe,
            f"{result.trainable_parameters:,}",
            result.metric,
            scored(result.metric, result.score),
            number(result.metric, result.guess),
            f"{result.seconds_per_epoch:.1f}",
        )
        for result in results
    )
    headers = ("task", "recipe", "trained parameters", "score")
    headers += ("% (95 % interval)", "guess %", "s/epoch")
    caption = "Scores of the validation rows with bootstrap intervals over rows, one seed; a guess looks at no input."
    section = Section("demo", "The demo", parts=(Table(caption, headers, rows, words=2),))
    return Document("Recipes on made-up sets", (section,), [asdict(row) for row in results])

"""What is shown while something runs: a live bar, or a line now and then without a terminal.

All of it goes to stderr, so that stdout holds results alone. The context managers make the
callbacks that the library's verbs take. What is silent for long is the command's voice to say (`voice`).
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from weft.reporting.voice import current

if TYPE_CHECKING:
    from weft.generating.learn import Epoch
    from weft.training.loop import Event

LINES = 10
"""Lines in all, where there is no terminal to draw a bar in."""
REDRAWS = 4
"""Redraws in a second; more would take time from the two cores that some machines have."""


class Bar:
    """One bar with words behind it; or, without a terminal, those words: the first, and every tenth of the way.

    While the command has a voice, what it hears stands behind the bar, and it repeats the words where none come.

    Args:
        name: What stands in front.
        console: Where to draw.
    """

    def __init__(self, name: str, console: Console) -> None:
        self.name = name
        self.console = console
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[words]}"),
            console=console,
            refresh_per_second=REDRAWS,
            disable=not console.is_terminal,
        )
        self._task: TaskID = self._progress.add_task(name, total=None, words="reading")
        self._tenth = -1
        self._voice = current()

    def __enter__(self) -> "Bar":
        if self._voice is not None and self.console.is_terminal:
            self._voice.drawn_by(self._behind)
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
        if self._voice is not None and self.console.is_terminal:
            self._voice.drawn_by(None)

    def show(self, fraction: float, words: str) -> None:
        """Draw the bar so far, 0 to 1."""
        self._progress.update(self._task, total=1.0, completed=fraction)
        self._behind(words)
        tenth = int(fraction * LINES + 1e-9)
        if tenth < self._tenth:
            self._tenth = (
                -1
            )  # something else is counted from here on: a search is over, its training begins
        if self.console.is_terminal:
            return
        if tenth > self._tenth:
            self._say(words)
        elif self._voice is not None:
            self._voice.hear(words)
        self._tenth = tenth

    def _behind(self, words: str) -> None:
        # The description is markup; the words may hold a task's name with brackets.
        self._progress.update(self._task, words=words.replace("[", "\\["))

    def _say(self, words: str) -> None:
        if self._voice is not None:
            self._voice.say(words)
        else:
            line = f"{self.name} {words}"
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def training_shown(quiet: bool) -> "Iterator[Callable[[Event], None] | None]":
    """A display for `train(report=...)`; None where nothing is to be shown."""
    if quiet:
        yield None
        return
    with Bar("train", Console(stderr=True)) as bar:
        yield lambda event: bar.show(event.step / event.total, words_of(event))


@contextmanager
def rows_shown(name: str) -> Iterator[Callable[[int, int], None]]:
    """A display for `evaluate(progress=...)` and whatever else counts rows."""
    with Bar(name, Console(stderr=True)) as bar:
        began: list[float] = []

        def show(done: int, total: int) -> None:
            words = f"{done}/{total} rows"
            began.append(time.monotonic())
            # The first batch holds what is done once; the pace is that of the others.
            if 0 < done < total and len(began) > 1:
                passed = began[-1] - began[0]
                words += f"  {clock(passed / (len(began) - 1) * len(began) / done * (total - done))} left"
            bar.show(done / max(total, 1), words)

        yield show


@contextmanager
def steps_shown(name: str, *, quiet: bool) -> Iterator[Callable[[int, int, str], None] | None]:
    """A display for work in named steps: how many are done, how many there are, which one begins."""
    if quiet:
        yield None
        return
    with Bar(name, Console(stderr=True)) as bar:
        yield lambda done, total, what: bar.show(done / max(total, 1), f"{done}/{total}  {what}")


@contextmanager
def epochs_shown(name: str, *, quiet: bool) -> "Iterator[Callable[[Epoch], None] | None]":
    """A display for `learn(report=...)`; None where nothing is to be shown."""
    if quiet:
        yield None
        return
    with Bar(name, Console(stderr=True)) as bar:

        def show(epoch: "Epoch") -> None:
            words = f"epoch {epoch.epoch}/{epoch.total}  error {epoch.error:.4f}"
            words += f"  divergence {epoch.divergence:.2f}  {clock(epoch.seconds_left)} left"
            bar.show(epoch.epoch / epoch.total, words)

        yield show


def words_of(event: "Event", *, with_time: bool = True) -> str:
    """A training event in one line."""
    parts = [f"step {event.step}/{event.total}", f"epoch {event.epoch:.1f}"]
    parts += [f"loss {_by_task(event.loss, '.3f')}"] if event.loss else []
    parts += [f"score {_by_task(event.score, '.3f')}"] if event.score else []
    parts += [f"{event.tokens_per_second:,.0f} tokens/s"]
    parts += [f"{clock(event.seconds_left)} left"] if with_time else []
    return "  ".join(parts)


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _by_task(values: dict[str, float], form: str) -> str:
    """One number alone; several with their tasks' names."""
    if len(values) == 1:
        return format(next(iter(values.values())), form)
    return " ".join(f"{name} {value:{form}}" for name, value in values.items())

"""Trainings that stop before their end: asked to by a signal, between two steps, with their state saved; or lost."""

import math
import signal
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

import torch

from weft.config import Run
from weft.system import stop_signals
from weft.training.learning import Learner


class Interrupted(KeyboardInterrupt):
    """Training was asked to stop; its state is on disk. The message says how to go on."""


class Diverged(ValueError):  # noqa: N818 - says what is so, as Interrupted does
    """What is trained holds NaN or infinite numbers, so nothing can come of it. The message says what to do."""


@contextmanager
def interrupts() -> Iterator[list[int]]:
    """Signals that ask training to stop are noted, so that it stops between two steps with its state saved."""
    asked: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        asked.append(number)

    try:
        former = {number: signal.signal(number, note) for number in stop_signals()}
    except ValueError:  # not the main thread: whoever started the thread handles signals
        yield asked
        return
    try:
        yield asked
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def refuse_divergence(
    losses: Mapping[str, float], learners: Iterable[Learner], run: Run, step: int
) -> None:
    """Stop a training that is lost, in place of hours that leave nothing; a loss that is none for once may pass.

    Args:
        losses: Means over the last steps, by task.
        learners: What is trained.
        run: Its settings.
        step: Steps done.

    Raises:
        Diverged: If a loss is no number, and neither are some of what a learner trains.
    """
    lost = [name for name, value in losses.items() if not math.isfinite(value)]
    if not lost or all(_is_finite(learner) for learner in learners):
        return
    raise Diverged(
        f"training has diverged: by step {step} the loss of {', '.join(lost)} is no number, and neither is what was "
        f"trained; train anew with a lower training.learning_rate than {run.training.learning_rate:g}, or look for "
        "rows that break the loss"
    )


def _is_finite(learner: Learner) -> bool:
    return all(bool(torch.isfinite(value).all()) for value in learner.parameters.values())

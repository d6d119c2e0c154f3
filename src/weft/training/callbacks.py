"""A user's own functions, called as training goes: `weft.train(..., on={"evaluation": show})`.

    step         after every optimizer step
    evaluation   after the selection rows were scored; `score` is new
    checkpoint   after the state was saved; `checkpoint` is its folder
    end          after the run folder was written; `score` is of the final rows

Each gets an `Event`. One that returns `STOP` ends the training as if its last step had been taken: what early stopping
kept is restored, the final rows are scored, the run folder is complete. One that raises ends it as an error does: what
it raised comes out of `train`, and a run with a checkpoint can be resumed. Of several processes the first alone calls.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from weft.registry import unknown

STOP: Final = "stop"
"""What a callback returns to end the training after this step."""

Moment = Literal["step", "evaluation", "checkpoint", "end"]
MOMENTS: tuple[Moment, ...] = ("step", "evaluation", "checkpoint", "end")


@dataclass(frozen=True)
class Event:
    """How far a training is."""

    step: int
    total: int
    epoch: float
    loss: dict[str, float]
    """Mean loss by task since the last event."""
    score: dict[str, float]
    """Latest score by task, where one was measured."""
    tokens_per_second: float
    seconds_left: float
    folder: Path | None = None
    """The run folder."""
    checkpoint: Path | None = None
    """The newest checkpoint of this training; None before the first, and after the last step."""


Callback = Callable[[Event], object]
"""Returns `STOP` to end the training; whatever else it returns is not looked at."""


class Callbacks:
    """A user's functions by moment, and whether one of them asked to stop.

    Args:
        functions: By moment, each a function of an `Event`; None is none.

    Raises:
        ValueError: If there is no such moment.
        TypeError: If one cannot be called.
    """

    def __init__(self, functions: Mapping[str, Callback] | None) -> None:
        self.functions = dict(functions or {})
        self.asked = False
        for moment, function in self.functions.items():
            if moment not in MOMENTS:
                raise ValueError(f"on: {unknown('event of training', str(moment), MOMENTS)}")
            if not callable(function):
                raise TypeError(
                    f"on[{moment!r}]: expected a function of an event, got {type(function).__name__}"
                )

    def call(self, moment: Moment, event: Callable[[], Event]) -> None:
        """Call the function of a moment, if there is one; what it raises says by which.

        Args:
            moment: What has just happened.
            event: Makes what the function gets.
        """
        function = self.functions.get(moment)
        if function is None:
            return
        try:
            said = function(event())
        except BaseException as error:
            error.add_note(f"raised by the callback of training for {moment!r}")
            raise
        # An array compared with a text is an array: nothing but the text itself is meant.
        self.asked = self.asked or (isinstance(said, str) and said == STOP)

"""Who answers a request: one expert, the head of one task of a mixture, whichever task fits, or experts weighed."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from weft.lowrank.pool import scaled
from weft.lowrank.route import Members
from weft.model.snapshot import Resident as Woven
from weft.registry import unknown
from weft.serving.computing.batches import Voices
from weft.serving.errors import BadInput, UnknownExpert
from weft.serving.names import AUTO, checked, owner
from weft.serving.resident import Resident
from weft.serving.settings import Options
from weft.tasks.contract import Task

MOST_WEIGHED = 32
"""Experts that one request may weigh."""


@dataclass(frozen=True)
class Asked:
    """What a request says of who is to answer.

    Attributes:
        names: Experts.
        task: Of a mixture, or of those that are weighed; `auto`: whichever fits; None leaves it open.
        weights: How much each of them counts; None for one that answers as it is.
    """

    names: tuple[str, ...]
    task: str | None = None
    weights: tuple[float, ...] | None = None

    @property
    def flow(self) -> str:
        """The expert that the request counts for: the heaviest."""
        # Users of one run count together: there may be thousands.
        return owner(checked(self.names[self.heaviest])[0])[0]

    @property
    def heaviest(self) -> int:
        """Place of the expert that counts most."""
        return max(range(len(self.names)), key=lambda at: abs((self.weights or (1.0,))[at]))


@dataclass(frozen=True)
class Speaker:
    """Who answers a row.

    Attributes:
        task: What the head was trained to do.
        head: Whose head.
        members: What speaks in the trunk.
        voices: Those of it that no model holds.
        states: How many numbers its gates read of whom a row is for; 0 where none do.
    """

    task: Task
    head: str
    members: Members
    voices: Voices = field(default_factory=dict)
    states: int = 0


def asked_of(expert: str | Mapping[str, float], options: Options, auto: str | None) -> Asked:
    """What a request asks for.

    Args:
        expert: A name, `auto`, `NAME/auto`, `NAME/TASK`, or weights by name.
        options: What the request sets.
        auto: The mixture that `auto` alone means; None where there is none, or more than one.

    Raises:
        NameRefused: If a name is none.
        UnknownExpert: If nothing recognises tasks here.
        BadInput: If weights are no weights, or two tasks are named.
    """
    if isinstance(expert, Mapping):
        return _weighed(expert, options)
    name, task = checked(expert)
    if name == AUTO:
        if auto is None:
            raise UnknownExpert(
                "'auto' alone means the only mixture there is, and there is none or more than one; name an expert, or "
                "a mixture, NAME/auto"
            )
        name, task = auto, task or AUTO
    if task is not None and options.task not in (None, task):
        raise BadInput(f"{expert} names a task, and options name {options.task!r}; name one")
    return Asked(
        (expert if name != auto or task is None else f"{name}/{task}",), task or options.task
    )


def _weighed(experts: Mapping[str, float], options: Options) -> Asked:
    if not 1 <= len(experts) <= MOST_WEIGHED:
        raise BadInput(
            f"weights of {len(experts)} experts; give 1 to {MOST_WEIGHED}, as {{name: weight, ...}}"
        )
    for name, weight in experts.items():
        checked(name)
        real = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not real or not math.isfinite(weight):
            raise BadInput(f"the weight of {name} must be a number, got {weight!r:.60}")
    weights = tuple(float(weight) for weight in experts.values())
    if not any(weights):
        raise BadInput("every weight is 0, so nobody would speak; give one that is not")
    return Asked(tuple(experts), options.task, weights)


def speaker_of(asked: Asked, residents: Sequence[Resident]) -> Speaker | None:
    """Who answers; None where the mixture has to recognise the task of each input.

    Raises:
        BadInput: If there is no such task, or one of several experts cannot be weighed.
    """
    if asked.weights is not None:
        return _weighed_speaker(asked, residents)
    own = residents[0]
    if own.mixture is not None and asked.task in (None, AUTO):
        return None
    return speaker(own, asked.task)


def speaker(own: Resident, task: str | None) -> Speaker:
    """Who answers for one task of what is in memory; None is its only one.

    Raises:
        BadInput: If it has no such task.
    """
    name = task if task is not None else next(iter(own.runs))
    run = own.runs.get(name)
    if run is None:
        raise BadInput(f"{own.name}: {unknown('task', name, own.runs)}")
    return Speaker(run.task, run.name, run.members, states=own.states)


def _weighed_speaker(asked: Asked, residents: Sequence[Resident]) -> Speaker:
    assert asked.weights is not None
    if len({id(own.ground) for own in residents}) > 1:
        raise BadInput(f"{', '.join(asked.names)} stand on different bases, so they do not add up")
    voices: dict[str, Woven] = {}
    for own, weight in zip(residents, asked.weights, strict=True):
        if own.mixture is not None:
            raise BadInput(f"{own.name} is a mixture, whose gates weigh its experts; weigh experts")
        if not weight:
            continue
        [run] = own.runs.values()
        resident = own.ground.model.snapshot.resident(run.name)
        try:
            woven = scaled(resident.woven, weight)
        except ValueError as error:
            raise BadInput(f"{own.name} cannot be weighed: {error}") from None
        voices[f"{run.name}*{weight!r}"] = Woven(resident.expert, woven, None)
    answering = residents[_answering(asked, residents)]
    [run] = answering.runs.values()
    return Speaker(run.task, run.name, tuple(voices), voices)


def _answering(asked: Asked, residents: Sequence[Resident]) -> int:
    """Whose head answers: that of the named task or expert, else of the heaviest."""
    if asked.task is None:
        return asked.heaviest
    for at, own in enumerate(residents):
        if asked.task == own.name or asked.task in own.runs:
            return at
    tasks = [task for own in residents for task in own.runs]
    raise BadInput(unknown("task or expert of those that are weighed", asked.task, tasks))

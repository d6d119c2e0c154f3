"""Which heads a merged expert answers with: every task's own, or one that is chosen. None is ever averaged."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from weft.merging.sources import Found, Part
from weft.registry import unknown

_SHOWN = 6
"""Labels of a head that an error tells."""


@dataclass(frozen=True)
class Answered:
    """A task of the merged expert."""

    part: Part
    """Whose head answers."""
    own: Found
    """The expert that the head was trained with."""


def chosen(found: Sequence[Found], head: str | None) -> tuple[list[Answered], list[str]]:
    """The tasks of the merged expert, and what must be said of the choice.

    Args:
        found: The experts.
        head: The run whose head alone answers; None keeps every task's own, and of several of one task the first.

    Raises:
        ValueError: If heads of one task differ in their labels, or one head is asked for where they do.
    """
    every = [Answered(part, own) for own in found for part in own.parts]
    if head is not None:
        return _only(every, head)
    kept: dict[str, Answered] = {}
    notes = []
    for one in every:
        label = one.part.label
        first = kept.setdefault(label, one)
        if first is one:
            continue
        if _kind(first.part) != _kind(one.part):
            raise ValueError(
                f"two experts are of a task named {label}, but their heads differ: {_told(first.part)} and "
                f"{_told(one.part)}; rename the task of one, or give those of one label set"
            )
        notes.append(
            f"{label}: the head is that of {first.part.folder.path}, the first; "
            f"--head {one.part.folder.path} takes the other"
        )
    return list(kept.values()), notes


def _only(every: Sequence[Answered], head: str) -> tuple[list[Answered], list[str]]:
    wanted = Path(head).expanduser().resolve()
    places = {one.part.folder.path.resolve(): one for one in every}
    below = [one for path, one in places.items() if path.parent == wanted]
    if wanted not in places and len(below) != 1:
        if below:
            names = ", ".join(str(one.part.folder.path) for one in below)
            raise ValueError(
                f"--head {head}: that run has a head for each of its tasks; name one: {names}"
            )
        known = [str(one.part.folder.path) for one in every]
        raise ValueError(f"--head: {unknown('run of this merge', head, known)}")
    one = places.get(wanted) or below[0]
    for other in every:
        same_kind = other.part.card.head == one.part.card.head
        if same_kind and other.part.card.labels != one.part.card.labels:
            raise ValueError(
                f"--head {head}: one head cannot answer for {_told(one.part)} and {_told(other.part)}; leave --head "
                "away, and each task keeps its own"
            )
    return [one], [f"{one.part.label}: the head is that of {one.part.folder.path}, as asked"]


def _kind(part: Part) -> tuple[str, tuple[str, ...]]:
    return part.card.head, part.card.labels


def _told(part: Part) -> str:
    labels = part.card.labels
    said = ", ".join(labels[:_SHOWN]) + (" ..." if len(labels) > _SHOWN else "")
    return f"{part.folder.path} ({part.card.head}{f': {said}' if labels else ''})"

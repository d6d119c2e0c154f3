"""What was put and removed since the start, numbered, so that a replica that missed some of it can be told.

Every request carries the number of the newest change; a replica that knows of fewer says so and is asked again, with
what it lacks. So what is answered after a change was made knows of it, whoever answers: replicas that were busy
meanwhile, that took the place of dead ones, or that were started for more load.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Changes:
    """Changes in a row.

    Attributes:
        after: Number of the change before the first of them.
        revision: Number of the last of them.
        folders: By name what it means after all of them; None is nothing.
    """

    after: int
    revision: int
    folders: Mapping[str, Path | None] = field(default_factory=dict)


class Ledger:
    """All changes; of several of one name the last."""

    def __init__(self) -> None:
        self.revision = 0
        """Number of the newest."""
        self._given = 0
        self._changes: dict[str, tuple[int, Path | None]] = {}

    def number(self) -> int:
        """A number for a change that is about to be made; those of changes that fail are never used again."""
        self._given += 1
        return self._given

    def note(self, name: str, folder: Path | None, number: int | None = None) -> None:
        """Write down what a name means from now on.

        Args:
            name: The expert's.
            folder: Where it lies; None: it means nothing.
            number: Of the change, the newest given; None gives one.
        """
        self.revision = self.number() if number is None else number
        self._changes[name] = self.revision, folder

    def since(self, revision: int) -> Changes:
        """What has changed after a change of some number."""
        found = {
            name: folder for name, (number, folder) in self._changes.items() if number > revision
        }
        return Changes(revision, self.revision, found)

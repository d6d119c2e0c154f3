"""A merge before any work: what settings and run folders can say is settled here, or refused."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from weft.config import MergeSettings, validate
from weft.merging.heads import Answered, chosen
from weft.merging.learned import learners
from weft.merging.sources import Found, find
from weft.methods.merges import merges
from weft.methods.merges.contract import Merge, check_weights


@dataclass(frozen=True)
class Plan:
    """A merge of which everything is known that settings and run folders can say."""

    settings: MergeSettings
    method: Merge
    found: list[Found]
    answered: list[Answered]
    notes: list[str]
    searches: bool = False

    @property
    def learns(self) -> bool:
        """Whether weights are learned from rows."""
        return self.settings.name in learners.names()

    @property
    def weights(self) -> list[float]:
        """One an expert."""
        return self.settings.weights or [1 / len(self.found)] * len(self.found)


def planned(runs: Sequence[str | Path], settings: MergeSettings, *, search: bool = False) -> Plan:
    """All that can be refused before a weight is read, refused; the settings, complete.

    Raises:
        KeyError: As `merge`.
        ValueError: As `merge`.
    """
    kind = merges.load(settings.name)
    spec = validate(kind.settings_type, settings.model_extra or {}, f"merge {settings.name}")
    found = find(runs, settings.dense)
    answered, notes = chosen(found, settings.head)
    if settings.weights is not None:
        _check_weights(settings.weights, found)
    learns = settings.name in learners.names()
    if (search or learns) and settings.weights is not None:
        what = f"{settings.name} learns them" if learns else "--search finds them"
        raise ValueError(f"weights are given, but {what}; leave one away")
    if search and learns:
        raise ValueError(f"--search: {settings.name} learns its weights itself; leave it away")
    if settings.weights is None and not (search or learns):
        notes = [*notes, f"no weights were given: each expert counts 1/{len(found)}"]
    complete = MergeSettings(
        **settings.model_dump(include=set(MergeSettings.model_fields) - {"runs"}),
        runs=[str(own.path.resolve()) for own in found],
        **spec.model_dump(mode="json"),
    )
    return Plan(complete, kind(spec), found, answered, notes, search)


def _check_weights(weights: Sequence[float], found: Sequence[Found]) -> None:
    if len(weights) != len(found):
        shown = ", ".join(f"{weight:g}" for weight in weights)
        names = ", ".join(str(own.path) for own in found)
        raise ValueError(
            f"{len(weights)} weights ({shown}) for {len(found)} experts ({names}); give one for each"
        )
    check_weights(weights)

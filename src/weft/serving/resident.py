"""An expert in memory: loaded whole or not at all, known by a digest of its files, counted in bytes."""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn

from weft.registry import said_by
from weft.serving.entries import Entry, Place, entry_of
from weft.serving.errors import ExpertRefused
from weft.storage.card import read_card
from weft.storage.loading import (
    Ground,
    LoadedMixture,
    LoadedRun,
    load_mixture_onto,
    load_onto,
    load_user_onto,
)
from weft.storage.mixture import folder_digest
from weft.storage.personal.opened import opened

VERSION_DIGITS = 12
"""Hexadecimal digits of a version: of all that one shelf will ever see none are alike."""


@dataclass(eq=False)
class Resident:
    """An expert or a mixture that answers.

    Attributes:
        name: What it is asked by.
        version: First digits of the SHA-256 over its files.
        place: Where it was read.
        ground: What it is woven into.
        entry: What is said of it.
        runs: What answers, by task.
        mixture: What recognises tasks, where it is a mixture.
        names: What its model calls its parts.
        bytes: Of its tensors.
        users: Requests that it is pinned by.
        gone: Whether another has its name by now; it goes when its last user does.
    """

    name: str
    version: str
    place: Place
    ground: Ground
    entry: Entry
    runs: dict[str, LoadedRun]
    mixture: LoadedMixture | None
    names: tuple[str, ...]
    bytes: int
    users: int = 0
    gone: bool = False

    @property
    def states(self) -> int:
        """How many numbers its gates read of whom a row is for; 0 where none do."""
        return (self.mixture.mix.mixture.spec.states or 0) if self.mixture is not None else 0

    def leave(self) -> None:
        """Take its parts out of its model; calls under way go on with them."""
        self.ground.model.change(remove=self.names)


@dataclass(frozen=True)
class Wanted:
    """What is to be loaded.

    Attributes:
        key: What it is asked by.
        inner: What its model calls it; its own for every load, so that two versions can answer side by side.
        place: Where it lies.
        task: Which of several.
    """

    key: str
    inner: str
    place: Place
    task: str | None

    @property
    def version(self) -> str:
        """The version of what lies there now."""
        place = self.place
        if place.user is not None:
            return opened(place.folder).version(place.user)[:VERSION_DIGITS]
        mixed = place.form == "mixture"
        folder = place.folder / "mixture" if mixed else place.cards[self.task or ""]
        return folder_digest(folder)[:VERSION_DIGITS]


def load(wanted: Wanted, ground: Ground) -> Resident:
    """An expert read from its folder and woven into a model.

    Raises:
        ExpertRefused: If it is damaged, of another base, or was changed while it was read; the model is as before.
    """
    try:
        before = wanted.version
        resident = _load(wanted, ground, before)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ExpertRefused(said_by(error)) from error
    try:
        after = wanted.version
    except OSError:
        after = ""
    if before != after:
        resident.leave()
        raise ExpertRefused(f"{wanted.place.folder} was changed while it was read; ask again")
    return resident


def _load(wanted: Wanted, ground: Ground, version: str) -> Resident:
    place, inner = wanted.place, wanted.inner
    cards = {own: read_card(folder) for own, folder in place.cards.items()}
    entry = entry_of(wanted.key, place, cards)
    mixture = None
    if place.form == "mixture":
        mixture = load_mixture_onto(place.folder, ground, name=inner)
        runs = mixture.runs
        names = (inner, *(run.name for run in runs.values()))
    else:
        if place.user is None:
            run = load_onto(place.folder, ground, task=wanted.task, name=inner)
        else:
            run = load_user_onto(place.folder, ground, place.user, name=inner)
        runs, names = {run.task.spec.name: run}, (inner,)
    size = bytes_of(ground, names)
    return Resident(wanted.key, version, place, ground, entry, runs, mixture, names, size)


def bytes_of(ground: Ground, names: Iterable[str]) -> int:
    """Of all tensors that experts hold and their base does not."""
    held = ground.model.snapshot
    own: dict[int, int] = {}
    for name in names:
        resident = held.resident(name)
        found = list(_tensors(resident.expert))
        for term in resident.woven.terms.values():
            found += [value for value in vars(term).values() if isinstance(value, Tensor)]
        for value in found:
            storage = value.untyped_storage()
            own[storage.data_ptr()] = storage.nbytes()
    return sum(size for at, size in own.items() if at not in ground.storages)


def _tensors(module: nn.Module) -> Iterable[Tensor]:
    yield from module.parameters()
    yield from module.buffers()

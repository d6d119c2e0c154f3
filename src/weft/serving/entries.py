"""What lies on the shelf, from the names of folders, cards and the headers of tensors alone: nothing is loaded.

NAME/run.yaml  expert/                   one expert; with merge.json, a merged one
NAME/run.yaml  TASK/run.yaml, expert/    several, one for each task: NAME/TASK
NAME/run.yaml  mixture/heads/TASK/       a mixture with the heads of its tasks: NAME, NAME/TASK
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from weft.base.digest import stored_tensors
from weft.model.card import Card
from weft.registry import said_by
from weft.runs import CONFIG
from weft.serving.errors import ExpertRefused
from weft.serving.names import is_name
from weft.serving.settings import Room
from weft.storage.card import CARD, read_card, refuse_files
from weft.storage.mixture import HEADS
from weft.storage.personal.opened import opened
from weft.tasks.kinds import kinds

Form = Literal["expert", "merged", "several", "mixture"]
State = Literal["stored", "resident", "refused"]

MERGED = "merge.json"
"""What `weft merge` leaves in a run folder."""
_RANK = ".lora_A"
"""What the names of tensors hold whose first axis is a rank."""


@dataclass(frozen=True)
class TaskEntry:
    """One task that an expert answers."""

    name: str
    kind: str
    labels: tuple[str, ...]
    columns: tuple[str, ...]
    """What an input must hold."""
    optional: tuple[str, ...]
    """What it may hold beside."""


@dataclass(frozen=True)
class Entry:
    """An expert, merged expert, mixture, or several experts that were trained together."""

    name: str
    kind: Form
    tasks: tuple[TaskEntry, ...]
    base: str
    rank: int | None
    """Largest of its maps, where its recipe has one for all."""
    bytes: int
    """In memory where it is resident, else of its tensors on disk."""
    resident: bool
    version: str | None
    """Of what is resident: first digits of the SHA-256 over its files."""
    state: State
    reason: str = ""
    """Why it was refused."""

    @property
    def task(self) -> str:
        """The only task's kind, or the kinds of all."""
        return ", ".join(dict.fromkeys(task.kind for task in self.tasks))

    @property
    def labels(self) -> tuple[str, ...]:
        """Of all its tasks."""
        return tuple(label for task in self.tasks for label in task.labels)


@dataclass(frozen=True)
class Place:
    """Where an expert lies."""

    folder: Path
    form: Form
    cards: dict[str, Path]
    """Folder of the card by task; of a single expert by ''."""
    user: str | None = None
    """Whose expert of the run; None is the population's."""

    def tensors(self, task: str | None = None) -> list[Path]:
        """Files of tensors, of one of several experts or of all there is; no pickles."""
        if self.form == "mixture":
            return sorted((self.folder / "mixture").rglob("*.safetensors"))
        own = self.cards.values() if task is None else [self.cards[task]]
        return sorted(path for folder in own for path in folder.glob("*.safetensors"))


_NOT_SERVED = "whoever asks a server may name any file of its disk, so none is served: answer with weft predict"


def place_of(folder: Path) -> Place | None:
    """What a folder holds; None if it is no run folder, or a run has not come to its end."""
    if not (folder / CONFIG).is_file():
        return None
    if (folder / "expert" / CARD).is_file():
        form: Form = "merged" if (folder / MERGED).is_file() else "expert"
        return Place(folder, form, {"": folder / "expert"})
    heads = folder / "mixture" / HEADS
    if heads.is_dir():
        found = {path.name: path for path in sorted(heads.iterdir()) if (path / CARD).is_file()}
        return Place(folder, "mixture", found) if found else None
    parts = {
        path.name: path / "expert"
        for path in sorted(folder.iterdir())
        if is_name(path.name) and (path / "expert" / CARD).is_file()
    }
    return Place(folder, "several", parts) if parts else None


def places_in(folder: Path) -> Iterator[tuple[str, Path]]:
    """Run folders below a folder, by name; a link out of it is none."""
    home = folder.resolve()
    for path in sorted(folder.iterdir()):
        own = is_name(path.name) and (path / CONFIG).is_file()
        if own and path.resolve().is_relative_to(home):
            yield path.name, path


def described(name: str, place: Place) -> Entry:
    """The entry of an expert that is not in memory; a damaged one says why it is refused."""
    try:
        cards = {task: read_card(folder) for task, folder in place.cards.items()}
        for card in cards.values():
            refuse_files(card, name, _NOT_SERVED)
        return entry_of(name, place, cards)
    except (OSError, ValueError, KeyError) as error:
        reason = said_by(error).replace(str(place.folder), name)
        return Entry(name, place.form, (), "", None, 0, False, None, "refused", reason)


def entry_of(name: str, place: Place, cards: dict[str, Card]) -> Entry:
    """The entry of an expert that is not in memory."""
    tasks = tuple(_task(card) for card in cards.values())
    first = next(iter(cards.values()))
    rank = first.recipe.get("rank") if place.form != "mixture" else None
    size = sum(path.stat().st_size for path in place.tensors())
    return Entry(name, place.form, tasks, first.base, rank, size, False, None, "stored")


def _task(card: Card) -> TaskEntry:
    kind = str(card.task["kind"])
    known = kinds.load(kind)
    return TaskEntry(str(card.task["name"]), kind, card.labels, known.columns, known.optional)


def stored_bytes(place: Place, task: str | None, room: Room) -> int:
    """Bytes of an expert's tensors, read from the headers alone.

    Raises:
        ExpertRefused: If a file is no safetensors, or holds more than the shelf lets in.
    """
    where = place.folder / (task or "")
    try:
        for card in place.cards.values():
            refuse_files(read_card(card), where, _NOT_SERVED)
        # A user's numbers are stored in single precision.
        total = 0 if place.user is None else 4 * opened(place.folder).users.index.numbers
    except (OSError, ValueError, KeyError) as error:
        raise ExpertRefused(said_by(error)) from None
    files = place.tensors(task)
    if not files:
        raise ExpertRefused(
            f"{where} holds no file of tensors; here experts are read from safetensors alone: save it with weft"
        )
    count = 0
    for path in files:
        try:
            stored = stored_tensors([path])
        except (OSError, ValueError) as error:
            raise ExpertRefused(str(error)) from None
        total += sum(tensor.nbytes for tensor in stored.values())
        count += len(stored)
        for name, tensor in stored.items():
            if _RANK in name and tensor.shape and tensor.shape[0] > room.rank:
                raise ExpertRefused(
                    f"{path}: {name} has rank {tensor.shape[0]}, over the {room.rank} that this server takes; "
                    "export it with a lower rank, or raise the limit"
                )
    for what, own, most in (("bytes", total, room.expert_bytes), ("tensors", count, room.tensors)):
        if own > most:
            raise ExpertRefused(
                f"{where} holds {own:,} {what}, over the {most:,} that this server takes for one expert; raise the "
                "limit, or train a smaller one"
            )
    return total

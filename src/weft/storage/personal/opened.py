"""What all users of a personal run have in common, read once and again when the run is written anew."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from weft.config import Run
from weft.lowrank.product import Pair
from weft.methods.adapters.lora import LoRA
from weft.methods.adapters.lora import Spec as LoRASpec
from weft.model.card import Card
from weft.model.expert import Expert, factors_of
from weft.model.model import Model
from weft.runs import CONFIG, RunFolder
from weft.storage.card import task_of
from weft.storage.experts import load_expert
from weft.storage.mixture import folder_digest
from weft.storage.personal.experts import check_maps, head_of
from weft.storage.personal.users import FOLDER, Users, parted
from weft.tasks.contract import Task

KEPT = 16
"""Runs whose index and file of tensors stay open."""

Stamp = tuple[tuple[str, int, int, int], ...]
"""Name, inode, time and size of every file that was read."""


class Opened:
    """A personal run's users, and what its population was when they were looked at.

    Args:
        stamp: Of its files.
        users: The run's.
        digest: Of the population's folder.
    """

    def __init__(self, stamp: Stamp, users: Users, digest: str) -> None:
        self.stamp, self.users, self.digest = stamp, users, digest
        self._last: tuple[str, Tensor, str] | None = None

    def tensors(self, user: str) -> dict[str, Tensor]:
        """The tensors of a user's expert by name; errors as of `Users.row`."""
        return parted(self._read(user)[0], self.users.index.layout)

    def version(self, user: str) -> str:
        """SHA-256 of a user's expert: the population's digest and the user's numbers; errors as of `Users.row`."""
        return self._read(user)[1]

    def _read(self, user: str) -> tuple[Tensor, str]:
        """A user's numbers and their version; of the last user at hand, for who answers is asked for both."""
        last = self._last
        if last is None or last[0] != user:
            row = self.users.row(user)
            found = hashlib.sha256(self.digest.encode())
            found.update(row.numpy().data)
            last = self._last = user, row, found.hexdigest()
        return last[1], last[2]


_OPENED: OrderedDict[Path, Opened] = OrderedDict()
_LOOKING = threading.Lock()


def opened(run: Path) -> Opened:
    """A run's users: an index of thousands takes as long to read as fifty users.

    Raises:
        ValueError: As of `Users`.
        OSError: If the population is not there.
    """
    stamp = _stamp(run)
    with _LOOKING:
        found = _OPENED.get(run)
        if found is not None and found.stamp == stamp:
            _OPENED.move_to_end(run)
            return found
    found = Opened(stamp, Users(run), folder_digest(run / "expert"))
    with _LOOKING:
        _OPENED[run] = found
        _OPENED.move_to_end(run)
        while len(_OPENED) > KEPT:
            _OPENED.popitem(last=False)
    return found


def _stamp(run: Path) -> Stamp:
    paths = [run / CONFIG, *(run / "expert").iterdir()]
    if (run / FOLDER).is_dir():
        paths += (run / FOLDER).iterdir()
    states = ((str(path), path.stat()) for path in sorted(paths))
    return tuple((name, own.st_ino, own.st_mtime_ns, own.st_size) for name, own in states)


@dataclass(frozen=True)
class Alike:
    """Maps of one shape, whose factors are brought together as one tensor for all of them.

    Attributes:
        maps: Their names.
        A: The population's, (maps, rank, in).
        B: The population's, (maps, out, rank), every scale in it.
    """

    maps: tuple[str, ...]
    A: Tensor
    B: Tensor

    def below(self, tensors: Mapping[str, Tensor], scale: float, *, alone: bool) -> Pair:
        """A user's factors below the population's, or alone: A (maps, rank, in) and B (maps, out, rank)."""
        A, B = (
            torch.stack([tensors[f"{name}/{side}"] for name in self.maps]).to(like)
            for side, like in (("A", self.A), ("B", self.B))
        )
        B *= scale
        return (A, B) if alone else (torch.cat([self.A, A], 1), torch.cat([self.B, B], 2))


@dataclass(frozen=True)
class Population:
    """A run's population on one base, ready for any of its users."""

    stamp: Stamp
    run: Run
    card: Card
    task: Task
    expert: Expert
    alike: tuple[Alike, ...]
    """Its factors by the shape of their map."""

    def with_user(self, known: Opened, user: str, name: str) -> Expert:
        """One expert of a user: the population's factors with the user's below, or the user's alone.

        Args:
            known: The run's users.
            user: Whose.
            name: How routes call it.

        Raises:
            KeyError: If the user has none.
            ValueError: If what is stored is damaged or does not fit the population.
        """
        tensors, index = known.tensors(user), known.users.index
        found: dict[str, LoRA] = {}
        modules = check_maps(tensors, self.expert, known.users.folder)
        for group in self.alike:
            A, B = group.below(tensors, index.alpha / index.rank, alone=not index.shared)
            spec = LoRASpec(rank=A.shape[1], alpha=float(A.shape[1]))
            first = LoRA.of(A[0], B[0], spec)
            pairs = zip(group.maps, A.unbind(), B.unbind(), strict=True)
            found |= {module: first.like(*pair) for module, *pair in pairs}
        adapters = {module: found[module] for module in modules}
        head = head_of(tensors, self.expert)
        copies = self.expert.copies if index.shared else {}
        return Expert(name, adapters, head, copies)


def population_of(
    folder: RunFolder, stamp: Stamp, model: Model, device: torch.device
) -> Population:
    """A run's population read from its folder, for users who answer on a model.

    Raises:
        ValueError: If it is damaged, of another base, or has no exact factors.
    """
    expert, card = load_expert(folder.expert, model.base)
    expert.to(device).requires_grad_(False)
    by_shape: dict[tuple[torch.Size, torch.Size], dict[str, Pair]] = {}
    for module, (A, B) in factors_of(expert, model.trunk).items():
        by_shape.setdefault((A.shape, B.shape), {})[module] = A, B
    alike = tuple(
        Alike(tuple(own), *(torch.stack(side) for side in zip(*own.values(), strict=True)))
        for own in by_shape.values()
    )
    return Population(stamp, folder.run, card, task_of(card), expert, alike)

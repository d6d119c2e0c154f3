"""The experts of a run's users on disk: one file of tensors, and an index of who they are.

    personal/users.safetensors   for each user one row of numbers, `user/NAME`: factors of every map, then the head
    personal/index.json          what a row of numbers means, and of each user what it was trained on

All users' experts have the same shapes, so a layout that is said once says where each tensor of a row lies. A user is
read by its place in the file, whose header is read once: how many others there are costs nothing.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open

from weft import guard
from weft.atomic import atomic_folder, write_tensors, write_text
from weft.registry import unknown

if TYPE_CHECKING:
    from torch import Tensor

FOLDER = "personal"
"""In a run folder, beside the population's `expert/`."""
TENSORS = "users.safetensors"
INDEX = "index.json"
FORMAT = 1
"""Grows when the folder changes its meaning."""
_KEY = "user/"

Layout = list[tuple[str, tuple[int, ...]]]
"""Name and shape of every tensor of a user, in the order of their numbers."""


@dataclass(frozen=True)
class Trained:
    """What one user's expert was trained on."""

    rows: int
    steps: int
    seconds: float
    loss: float
    """Mean over the last pass."""


@dataclass(frozen=True)
class Index:
    """What `index.json` says."""

    rank: int
    alpha: float
    head: str
    """own or shared."""
    shared: bool
    """Whether the population's adapters speak with a user's."""
    layout: Layout
    users: dict[str, Trained] = field(default_factory=dict)
    format: int = FORMAT

    @property
    def numbers(self) -> int:
        """Of each user."""
        return sum(prod(shape) for _, shape in self.layout)


_INDEX = TypeAdapter(Index)


class Users:
    """The users' experts of one run folder, read as they are asked for.

    Args:
        run: The run folder.

    Raises:
        ValueError: If it holds no experts of users, or a file is missing or damaged.
    """

    def __init__(self, run: str | Path) -> None:
        self.run = Path(run)
        self.folder = self.run / FOLDER
        if not (self.folder / INDEX).is_file():
            raise ValueError(
                f"{run} holds no experts of users; train one with `experts: shared+personal`, or leave the user away"
            )
        self.index = _read_index(self.folder / INDEX)

    @property
    def names(self) -> list[str]:
        """Everybody who has an expert, in the order of their names."""
        return list(self.index.users)

    def __contains__(self, user: str) -> bool:
        return user in self.index.users

    def __iter__(self) -> Iterator[str]:
        return iter(self.index.users)

    def __len__(self) -> int:
        return len(self.index.users)

    @cached_property
    def _file(self) -> Any:
        path = self.folder / TENSORS
        guard.check_file(path)
        try:
            return safe_open(path, framework="pt")
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged: {error}") from None

    def trained(self, user: str) -> Trained:
        """What a user's expert was trained on.

        Raises:
            KeyError: If the user has none; names the nearest.
        """
        if user not in self:
            raise KeyError(unknown("user", user, self.index.users))
        return self.index.users[user]

    def row(self, user: str) -> "Tensor":
        """All numbers of a user's expert, in the order of the layout.

        Raises:
            KeyError: If the user has none; names the nearest.
            ValueError: If the file is damaged or does not fit its index.
        """
        # Heavy, and whoever lists users reads no tensors.
        from weft.lowrank.peft.tensors import check_values

        self.trained(user)
        path = self.folder / TENSORS
        try:
            row = self._file.get_tensor(_KEY + user)
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged, or has nothing of {user!r}: {error}") from None
        if row.shape != (self.index.numbers,):
            raise ValueError(
                f"{path}: user {user!r} has {tuple(row.shape)} numbers, {INDEX} says {self.index.numbers:,}; the two "
                "are not of one training: train again"
            )
        check_values({_KEY + user: row}, path)
        return row

    def tensors(self, user: str) -> dict[str, "Tensor"]:
        """The tensors of a user's expert by name; errors as of `row`."""
        return parted(self.row(user), self.index.layout)


def parted(row: "Tensor", layout: Layout) -> dict[str, "Tensor"]:
    """A row of numbers as tensors by name."""
    parts = row.split([prod(shape) for _, shape in layout])
    return {name: part.view(shape) for (name, shape), part in zip(layout, parts, strict=True)}


def joined(tensors: "Mapping[str, Tensor]", layout: Layout) -> "Tensor":
    """Tensors by name as a row of numbers."""
    from torch import cat

    return cat([tensors[name].detach().cpu().flatten() for name, _ in layout])


def write_users(run: Path, index: Index, rows: "Mapping[str, Tensor]") -> None:
    """Write the folder of users' experts into a run folder, whole or not at all."""
    ordered = {user: index.users[user] for user in sorted(index.users)}
    values = {**asdict(index), "users": {user: asdict(own) for user, own in ordered.items()}}
    with atomic_folder(run / FOLDER) as draft:
        write_tensors(draft / TENSORS, {_KEY + user: rows[user] for user in ordered})
        write_text(draft / INDEX, json.dumps(values, ensure_ascii=False) + "\n")


def parted_name(name: str) -> tuple[Path, str]:
    """The run folder and the user of `RUN@USER`.

    Raises:
        ValueError: If it does not say both.
    """
    run, at, user = name.partition("@")
    while at and user and not (Path(run) / "run.yaml").is_file() and "@" in user:
        # Folders may have the sign in their names too.
        more, at, user = user.partition("@")
        run = f"{run}@{more}"
    if not (run and user):
        raise ValueError(
            f"{name!r:.200} names no user of a run; write RUN@USER, e.g. runs/words@anna"
        )
    return Path(run), user


def has_users(run: str | Path) -> bool:
    """Whether a run folder holds experts of users."""
    return (Path(run) / FOLDER / INDEX).is_file()


def _read_index(path: Path) -> Index:
    values = guard.read_json(path, guard.RECORDS)
    if isinstance(values, dict) and values.get("format") != FORMAT:
        raise ValueError(
            f"{path}: format {values.get('format')!r}, this weft reads {FORMAT}; update weft"
        )
    known = {one.name for one in fields(Index)}
    if not isinstance(values, dict) or set(values) != known:
        raise ValueError(f"{path}: expected the keys {', '.join(sorted(known))}; train again")
    try:
        return _INDEX.validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(
            f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}"[:400]
        ) from None

"""Names of experts: what they may be, so that none leaves its folder or hides what it is."""

import re

from weft.serving.errors import NameRefused

AUTO = "auto"
"""In place of a task's name: the one that the mixture takes each input for."""
LONGEST = 128
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_-])?")


def checked(name: str) -> tuple[str, str | None]:
    """An expert's name, and its task where one is named: `NAME`, `NAME/TASK`, or `NAME@USER` for a user's.

    Raises:
        NameRefused: If it holds anything but letters of ASCII, digits, `.`, `_` and `-`, begins or ends with a dot, or
            is too long; a user's name may be whatever is printable, since it is looked up and never a path.
    """
    expert, at, user = name.partition("@")
    if at:
        if "/" in expert or not (0 < len(user) <= LONGEST and user.isprintable()):
            raise NameRefused(
                f"no expert can be called {name[: 2 * LONGEST]!r}: NAME@USER names a user's, with 1 to {LONGEST} "
                "printable characters behind the sign and no task before it"
            )
        checked(expert)
        return name, None
    own, slash, task = name.partition("/")
    for part in (own, task) if slash else (own,):
        if len(part) > LONGEST or not _NAME.fullmatch(part):
            raise NameRefused(
                f"no expert can be called {name[:LONGEST]!r}: a name has 1 to {LONGEST} letters A-Z, a-z, digits, '.', "
                "'_' or '-', beginning with a letter or digit; NAME/TASK names a task of one"
            )
    return own, task or None


def owner(name: str) -> tuple[str, str | None]:
    """The expert whose folder it is, and the user where one is named: `NAME@USER`."""
    own, _, user = name.partition("@")
    return own, user or None


def plain(name: str) -> str:
    """The name of an expert that is to be put on the shelf.

    Raises:
        NameRefused: If it names a task, or cannot be one.
    """
    own, task = checked(name)
    if task is not None or own == AUTO or "@" in own:
        raise NameRefused(
            f"an expert cannot be put on the shelf as {name!r}; choose a name without '/' or '@' that is not {AUTO!r}"
        )
    return own


def whole(name: str) -> str:
    """The name of an expert that is to go with all its tasks.

    Raises:
        NameRefused: If it names a task, or cannot be one.
    """
    own, task = checked(name)
    if "@" in own:
        raise NameRefused(
            f"{name!r} names a user; users' experts go with their run: {owner(own)[0]!r}"
        )
    if task is not None:
        raise NameRefused(
            f"{name!r} names a task; an expert goes with all its tasks, by its name: {own!r}"
        )
    return own


def is_name(name: str) -> bool:
    """Whether a folder's name is one that an expert can have."""
    return len(name) <= LONGEST and _NAME.fullmatch(name) is not None and name != AUTO

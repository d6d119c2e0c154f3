"""Who has an expert in a personal run, as a list and as pages: from its index alone."""

from math import prod
from pathlib import Path
from typing import Any

from weft.storage.personal.users import TENSORS, Users, parted_name

Entry = dict[str, Any]


def listed_users(run: str | Path) -> list[Entry]:
    """Everybody who has an expert in a run folder: name, training rows, steps, seconds and last loss.

    Raises:
        ValueError: If the run has no experts of users.
    """
    users = Users(run).index.users
    return [
        {
            "user": user,
            "rows": own.rows,
            "steps": own.steps,
            "seconds": own.seconds,
            "loss": own.loss,
        }
        for user, own in users.items()
    ]


def described_user(name: str) -> Entry:
    """All about one user's expert.

    Args:
        name: `RUN@USER`: the run folder, and the user.

    Raises:
        KeyError: If the run has no expert of that user; names the nearest.
        ValueError: If the name is no such name, or the run has no experts of users.
    """
    run, user = parted_name(name)
    users = Users(run)
    own = users.trained(user)
    index = users.index
    maps = [key for key, _ in index.layout if key.endswith("/A")]
    head = sum(prod(shape) for key, shape in index.layout if key.startswith("head/"))
    return {
        "user": user,
        "run": str(run),
        "rank": index.rank,
        "alpha": index.alpha,
        "head": index.head,
        "speaks": "with the population" if index.shared else "alone",
        "maps": len(maps),
        "numbers": index.numbers,
        "of them in the head": head,
        "rows": own.rows,
        "steps": own.steps,
        "seconds": own.seconds,
        "loss": own.loss,
        "file": str(users.folder / TENSORS),
    }

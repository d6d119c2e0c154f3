"""What parts of a long question have found, on disk, so that an interrupted call does not begin from the start."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from weft.atomic import make_folder, write_text
from weft.guard import read_json

NOTES = "trainings"
"""The folder of notes."""
_MOST = 2**20


class Notes:
    """JSON values by name, of one state of everything that they depend on.

    Args:
        folder: The analysis' folder; None keeps nothing.
        mark: The fingerprint of what they depend on.
    """

    def __init__(self, folder: Path | None = None, mark: str = "") -> None:
        self.folder = None if folder is None else folder / NOTES
        self.mark = mark

    def once(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What was kept under a name, else what `make` gives, which is then kept.

        Raises:
            ValueError: If a file is damaged.
        """
        if self.folder is None:
            return make()
        path = self.folder / f"{hashlib.sha256(name.encode()).hexdigest()[:16]}.json"
        if path.is_file():
            held = read_json(path, _MOST)
            if not isinstance(held, dict) or not {"name", "fingerprint", "found"} <= held.keys():
                raise ValueError(f"{path} is damaged; remove it, and what it held is made again")
            if (held["name"], held["fingerprint"]) == (name, self.mark):
                return held["found"]
        found = make()
        make_folder(self.folder)
        held = {"name": name, "fingerprint": self.mark, "found": found}
        write_text(path, json.dumps(held, allow_nan=False) + "\n")
        return found

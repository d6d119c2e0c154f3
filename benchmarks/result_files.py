"""The files of `results/`, and what their sets are called."""

import json
from pathlib import Path
from typing import Any

NAMES = {
    "wnut17": "WNUT17, entity F1",
    "squad": "SQuAD subset, F1",
    "swag": "CODAH (in SWAG's form), accuracy",
}


def read(name: str) -> dict[str, Any] | None:
    """A result file, if it was measured."""
    path = Path("results") / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

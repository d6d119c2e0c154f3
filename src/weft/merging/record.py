"""`merge.json` in a merged run: what it was made of, how far it is from that, and what each task lost or gained."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from weft import guard
from weft.atomic import write_text
from weft.tasks.scoring import Score

FILE = "merge.json"


@dataclass(frozen=True)
class Made:
    """One of the experts."""

    run: str
    tasks: tuple[str, ...]
    weight: float
    rank: int
    """The largest of its maps."""
    lost: float = 0.0
    """Share of its change that did not enter, where it has no exact factors."""


@dataclass(frozen=True)
class Compared:
    """The score of one task before the merge and after it, on the same rows."""

    task: str
    run: str
    """Of the expert that it is compared with."""
    metric: str
    higher_is_better: bool
    split: str
    n: int
    before: Score
    after: Score
    difference: Score
    """After minus before."""


@dataclass(frozen=True)
class Record:
    """How an expert was merged."""

    method: str
    settings: Mapping[str, Any]
    experts: tuple[Made, ...]
    rank: int
    """Of the result, the largest of its maps."""
    error: float | None
    """Distance from the exact weighted sum of the changes as a share of it, over all maps; None where that is nothing
    and the result is not."""
    errors: Mapping[str, float | None]
    """The same by role."""
    scores: tuple[Compared, ...] = ()
    notes: tuple[str, ...] = ()
    learned: Mapping[str, Any] = field(default_factory=dict)
    """What weights were found by, and what they are where they differ by map."""


def write_record(record: Record, folder: Path) -> None:
    """Write `merge.json`."""
    text = json.dumps(asdict(record), indent=1, ensure_ascii=False, allow_nan=False)
    write_text(folder / FILE, text + "\n")


def read_record(folder: Path) -> Record | None:
    """What `merge.json` says; None where there is none.

    Raises:
        ValueError: If it is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        return TypeAdapter(Record).validate_python(guard.read_json(path, guard.RECORDS))
    except ValidationError as error:
        raise ValueError(f"{path} is damaged: {error.errors()[0]['msg']}; merge again") from None

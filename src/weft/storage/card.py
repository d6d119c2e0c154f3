"""`weft.json`: what an expert is, beside its tensors."""

import json
import platform
from dataclasses import asdict, fields
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from weft import guard
from weft.atomic import write_text
from weft.config import validate
from weft.data.reading import find_kind
from weft.model.card import Card
from weft.tasks.contract import Task, TaskSpec
from weft.tasks.kinds import kinds

CARD = "weft.json"
FORMAT = 1
"""Grows when `weft.json`, or the files beside it, change meaning."""


_CARDS = TypeAdapter(Card)
"""Made once: making it takes ten times as long as reading a card."""


def write_card(card: Card, folder: Path) -> None:
    """Write `weft.json`."""
    text = json.dumps(
        {"format": FORMAT, **asdict(card)}, indent=2, sort_keys=True, ensure_ascii=False
    )
    write_text(folder / CARD, text + "\n")


def read_card(folder: Path) -> Card:
    """What `weft.json` says.

    Raises:
        ValueError: If it is missing, damaged, or of a newer format.
    """
    path = Path(folder) / CARD
    if not path.exists():
        raise ValueError(
            f"{folder} has no {CARD}, so weft did not write it; bring a PEFT folder in with "
            f"import_expert"
        )
    values: dict[str, Any] = guard.read_json(path)
    if isinstance(values, dict) and values.get("format", FORMAT) != FORMAT:
        raise ValueError(
            f"{path}: format {values['format']}, this weft reads {FORMAT}; update weft"
        )
    known = {field.name for field in fields(Card)} | {"format"}
    if not isinstance(values, dict) or set(values) != known:
        odd = sorted(set(values) ^ known) if isinstance(values, dict) else [type(values).__name__]
        raise ValueError(f"{path}: expected the keys of a card, it differs in {', '.join(odd)}")
    del values["format"]
    try:
        return _CARDS.validate_python(values)
    except ValidationError as error:
        found = [
            f"{item['loc'][0]}: {item['msg']}, got {item['input']!r}" for item in error.errors()
        ]
        raise ValueError(f"{path}: {'; '.join(found)}"[:400]) from None


def task_of(card: Card) -> Task:
    """The task an expert was trained on, from its card alone."""
    spec = validate(TaskSpec, card.task, "the expert's task")
    return find_kind(spec)(spec, card.labels)


def refuse_files(card: Card, where: object, what: str) -> None:
    """Refuse an expert whose rows are recordings or pictures, where only texts are known.

    Args:
        card: The expert's.
        where: What the error calls it.
        what: Why not, and what to do.

    Raises:
        ValueError: If its kind reads files.
    """
    if card.head and kinds.load(card.head).files:
        raise ValueError(f"{where}: a {card.head} reads recordings or pictures; {what}")


def versions() -> dict[str, str]:
    """Versions of what makes an expert's numbers."""
    names = ("weft", "torch", "transformers", "safetensors")
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in names}

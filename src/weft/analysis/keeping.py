"""Answers on disk: a finished question is not asked again while nothing has changed that it depends on."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from weft.analysis.intervals import Number
from weft.analysis.questions.contract import Answer
from weft.analysis.subjects import Found
from weft.atomic import make_folder, write_text
from weft.guard import read_json
from weft.reporting.document import Figure, Table
from weft.tasks.scoring import Score

ANSWERS = "answers"
"""The folder of finished answers."""
PACKAGE = Path(__file__).parents[1]
_FORMAT = 1
_MOST = 2**30


def fingerprint(found: Sequence[Found], data: Path | None, seed: int) -> str:
    """A hash of all that answers depend on: the runs' files, the data's, the seed and the code that measures."""
    hasher = hashlib.sha256(f"{_FORMAT} {seed}".encode())
    for one in found:
        hasher.update(f"{one.name} {one.card.digest}".encode())
        folder = one.folder.mixture if one.mixes else one.folder.expert
        for path in [one.folder.path / "run.yaml", *_files(folder)]:
            hasher.update(path.name.encode())
            hasher.update(hashlib.sha256(path.read_bytes()).digest())
    for path in [] if data is None else _files(data):
        state = path.stat()
        hasher.update(
            f"{path.relative_to(data or '')} {state.st_size} {state.st_mtime_ns}".encode()
        )
    hasher.update(code_of().encode())
    return hasher.hexdigest()


@cache
def code_of(root: Path = PACKAGE) -> str:
    """A hash of all code below a folder: what a question measures with is spread over the package's rooms."""
    hasher = hashlib.sha256()
    for path in _files(root):
        if path.suffix == ".py":
            hasher.update(f"{path.relative_to(root)} ".encode())
            hasher.update(path.read_bytes())
    return hasher.hexdigest()


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def keep(folder: Path, name: str, mark: str, found: Answer) -> None:
    """Write a finished answer."""
    place = folder / ANSWERS
    make_folder(place)
    values = {"fingerprint": mark, **asdict(found)}
    for own in values["numbers"]:
        # JSON has no word for what is no number; `float` reads these.
        own["score"] = {end: str(value) for end, value in own["score"].items()}
    text = json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False)
    write_text(place / f"{name}.json", text + "\n")


def kept(folder: Path, name: str, mark: str) -> Answer | None:
    """A finished answer to the same question of the same things; None where there is none.

    Raises:
        ValueError: If the file is damaged.
    """
    path = folder / ANSWERS / f"{name}.json"
    if not path.is_file():
        return None
    values = read_json(path, _MOST)
    if not isinstance(values, dict) or "fingerprint" not in values:
        raise ValueError(f"{path} is damaged; remove it, and the question is asked again")
    if values["fingerprint"] != mark:
        return None
    try:
        return _answer(values)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is damaged ({error}); remove it, and the question is asked again"
        ) from None


def _answer(values: Mapping[str, Any]) -> Answer:
    return Answer(
        words=tuple(values["words"]),
        numbers=tuple(_number(own) for own in values["numbers"]),
        rows=tuple(values["rows"]),
        figures=tuple(Figure(**own) for own in values["figures"]),
        tables=tuple(_table(own) for own in values["tables"]),
        notes=tuple(values["notes"]),
    )


def _number(values: Mapping[str, Any]) -> Number:
    ends = {end: float(value) for end, value in values["score"].items()}
    return Number(**{**values, "score": Score(**ends)})


def _table(values: Mapping[str, Any]) -> Table:
    lists = {name: tuple(values[name]) for name in ("headers", "notes", "remarks")}
    return Table(**{**values, **lists, "rows": tuple(map(tuple, values["rows"]))})

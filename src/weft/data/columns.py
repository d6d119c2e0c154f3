"""What a column's values become: numbers, text, tags and answers in one form, whatever form sources write them in."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from weft.guard import parse_json
from weft.tasks.contract import TaskSpec

OF_ANY_KIND = ("weight", "user", "state")
"""Columns that rows of every kind may have, where the set's `columns` name them: what a row counts, whose it is, and
what is known of whom it is for."""
CARRIED = ("weight", "state")
"""Those of them that a record takes along, for a loss or a gate."""
ASKED = ("state",)
"""Those of them that whoever asks may give as well."""
LONGEST_USER = 128


def normal(name: str) -> Callable[[Any, TaskSpec, str], Any]:
    """What turns a value of a canonical column into the form that its kind takes."""
    return _NORMALISED.get(name, _as_is)


def remedy(name: str) -> str:
    """What to do about a column that holds nothing, where that is not plain."""
    if name != "user":
        return ""
    return "; say whose row it is, or leave such rows out: nobody's row trains nobody's expert"


def _as_is(value: Any, spec: TaskSpec, where: str) -> Any:
    return value


def _id(value: Any, spec: TaskSpec, where: str) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # a table with a gap keeps whole numbers as 7.0
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise ValueError(f"{where} must hold text or whole numbers, got {value!r:.80}")
    if not str(value).strip():
        raise ValueError(f"{where} holds an empty id")
    return str(value)


def _weight(value: Any, spec: TaskSpec, where: str) -> float:
    try:
        weight = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        weight = math.nan
    if not (math.isfinite(weight) and weight >= 0):
        raise ValueError(f"{where} must be a finite number, 0 or more, got {value!r:.60}")
    return weight


def _user(value: Any, spec: TaskSpec, where: str) -> str:
    if not str(value).strip():
        raise ValueError(f"{where} names nobody{remedy('user')}")
    name = _id(value, spec, where)
    if len(name) > LONGEST_USER or not name.isprintable() or name != name.strip():
        raise ValueError(
            f"{where}: a user's name has 1 to {LONGEST_USER} printable characters and no space at either end, got "
            f"{name!r:.160}"
        )
    return name


def _state(value: Any, spec: TaskSpec, where: str) -> list[float]:
    if isinstance(value, str):
        # A table of text has no lists.
        value = parse_json(value, where, whole=False)
    try:
        numbers = [math.nan if isinstance(own, bool | str) else float(own) for own in value]
    except (TypeError, ValueError):
        numbers = []
    if not numbers or not all(map(math.isfinite, numbers)):
        raise ValueError(f"{where} must hold a list of finite numbers, got {value!r:.80}")
    return numbers


def _tags(value: Any, spec: TaskSpec, where: str) -> Any:
    """Tags by name: numbers are looked up in the set's labels."""
    if not isinstance(value, list | tuple) or not any(isinstance(tag, int) for tag in value):
        return value
    if spec.labels is None:
        raise ValueError(
            f"{where} holds numbers without names (the file has no ClassLabel names); "
            "list the names in class order under the task's `labels:`"
        )
    last = len(spec.labels) - 1
    for tag in value:
        if not isinstance(tag, int) or not 0 <= tag <= last:
            raise ValueError(f"{where}: expected numbers of `labels`, 0 to {last}, got {tag!r}")
    return [spec.labels[tag] for tag in value]


def _answers(value: Any, spec: TaskSpec, where: str) -> Any:
    """Answers as {text, start}, from SQuAD's file form or the hub's dict of lists."""
    published = {"text", "answer_start"}
    if isinstance(value, Mapping) and published <= set(value):
        texts, starts = value["text"], value["answer_start"]
        if len(texts) != len(starts):
            raise ValueError(f"{where} has {len(texts)} texts but {len(starts)} starts")
        return [{"text": text, "start": start} for text, start in zip(texts, starts, strict=True)]
    if not isinstance(value, list):
        return value
    return [
        {"text": answer["text"], "start": answer["answer_start"]}
        if isinstance(answer, Mapping) and published <= set(answer)
        else answer
        for answer in value
    ]


_NORMALISED = {
    "id": _id,
    "user": _user,
    "weight": _weight,
    "state": _state,
    "tags": _tags,
    "answers": _answers,
}
"""What a canonical column's values become, where sources write them in more than one form."""

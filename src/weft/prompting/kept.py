"""Answers on disk, a line each: what was asked before is not asked again."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from weft.atomic import make_folder, write_text
from weft.guard import json_lines
from weft.prompting.asking import Answer

MOST = 2**32
"""Bytes of a file of answers."""


def read_answers(path: Path, asked: Mapping[str, str]) -> dict[str, Answer]:
    """The answers that a file holds already, by the row's id.

    Args:
        path: The file; nothing where it is not there.
        asked: By the row's id, what identifies the question: an answer to another question is none.

    Raises:
        ValueError: If it is damaged, or holds an answer to another question.
    """
    found: dict[str, Answer] = {}
    for line, where in json_lines(path, MOST) if path.is_file() else ():
        try:
            mark = line.pop("asked")
            name, answer = line.pop("id"), Answer(**line)
        except (TypeError, KeyError, AttributeError):
            raise ValueError(
                f"{where}: no answer as `weft prompt` writes them; choose another --out, or remove the file"
            ) from None
        if asked.get(name) != mark:
            raise ValueError(
                f"{where}: row {name!r} was asked otherwise, by other settings or of other rows; choose another --out, "
                "or remove the file"
            )
        found[name] = answer
    return found


def write_answers(
    path: Path, order: Sequence[str], asked: Mapping[str, str], found: Mapping[str, Answer]
) -> None:
    """Write the answers that there are, in order, whole or not at all.

    Args:
        path: The file.
        order: The rows' ids.
        asked: By id, what identifies the question.
        found: By id, the answers.
    """
    lines = [
        json.dumps({"id": name, "asked": asked[name], **asdict(found[name])}, ensure_ascii=False)
        for name in order
        if name in found
    ]
    make_folder(path.parent)
    write_text(path, "".join(f"{line}\n" for line in lines))

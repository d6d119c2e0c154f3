"""What is judged: candidates, their references, another system's answers and questions, matched row by row."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from weft.data.formats import read_rows
from weft.registry import unknown

Texts = str | Path | Sequence[str]
"""A file of rows (CSV, TSV, JSON lines, Parquet), or the texts themselves."""
COLUMN = "text"
"""The column that a file's texts are in, unless another is said."""
ROLES = ("candidates", "against", "references", "questions")


@dataclass(frozen=True)
class Rows:
    """Texts by role; each has one for every row."""

    ids: tuple[str, ...]
    candidates: tuple[str, ...]
    references: tuple[str, ...]
    against: tuple[str, ...] | None = None
    questions: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def question(self, at: int) -> str | None:
        """What was asked in a row, where that is known."""
        return None if self.questions is None else self.questions[at]


def rows_of(given: Mapping[str, Texts | None], columns: Mapping[str, str] | None = None) -> Rows:
    """Rows of several files or lists. Where all of them have ids they are matched by id, otherwise by order.

    Args:
        given: By role; `candidates` and `references` must be there.
        columns: The column that holds the texts of a role's file; by default `text`.

    Raises:
        KeyError: If a role of `columns` is none.
        ValueError: If a file has no such column, none has a row, their rows differ in number or in ids, or a reference
            says nothing.
    """
    columns = dict(columns or {})
    for role in columns:
        if role not in ROLES:
            raise KeyError(unknown("role", role, ROLES))
    found = {
        role: _read(texts, role, columns.get(role, COLUMN))
        for role, texts in given.items()
        if texts is not None
    }
    wanted, known = found["candidates"]
    if not wanted:
        raise ValueError(f"{_called(given['candidates'], 'candidates')}: no rows to judge")
    for role, (texts, _) in found.items():
        if len(texts) != len(wanted):
            raise ValueError(
                f"{len(wanted)} candidates, but {len(texts)} {role} "
                f"({_called(given[role], role)}): give one for each, in the same order or with the same ids"
            )
    # The same ids in the same order need no matching, and may come more than once, as where one file has all columns.
    by_id = all(ids is not None for _, ids in found.values()) and any(
        ids != known for _, ids in found.values()
    )
    matched = {
        role: _by_id(texts, ids, known, _called(given[role], role))
        if by_id and ids is not None and known is not None
        else texts
        for role, (texts, ids) in found.items()
    }
    unique = known is not None and len({*known}) == len(known)
    ids = known if unique and known is not None else [str(at) for at in range(len(wanted))]
    empty = [ids[at] for at, text in enumerate(matched["references"]) if not text.strip()]
    if empty:
        raise ValueError(
            f"{_called(given['references'], 'references')}: the reference of row {empty[0]} says nothing"
            f"{_more(empty)}; leave such rows out of all files"
        )
    return Rows(tuple(ids), **{role: tuple(texts) for role, texts in matched.items()})


def _read(texts: Texts, role: str, column: str) -> tuple[list[str], list[str] | None]:
    """The texts, and their ids where every row has one."""
    if not isinstance(texts, str | Path):
        for at, text in enumerate(texts):
            if not isinstance(text, str):
                raise ValueError(f"{role}[{at}]: expected a text, got {text!r:.60}")
        return list(texts), None
    found: list[str] = []
    ids: list[str] = []
    for row, where in read_rows(Path(texts)):
        if column not in row:
            raise ValueError(
                f"{where}: {unknown('column', column, map(str, row))}; say which holds the {role}: "
                f"--column {role}=NAME"
            )
        if not isinstance(row[column], str):
            raise ValueError(f"{where}: {column}: expected a text, got {row[column]!r:.60}")
        found.append(row[column])
        if row.get("id") is not None:
            ids.append(str(row["id"]))
    return found, ids if len(ids) == len(found) else None


def _by_id(texts: list[str], ids: list[str], wanted: list[str], where: str) -> list[str]:
    """Texts in the order of the candidates' ids."""
    for own, of in ((ids, where), (wanted, "the candidates")):
        twice = (
            [one for one in dict.fromkeys(own) if own.count(one) > 1]
            if len({*own}) < len(own)
            else []
        )
        if twice:
            raise ValueError(f"{of}: id {twice[0]!r} comes more than once{_more(twice)}")
    by_id = dict(zip(ids, texts, strict=True))
    absent = [one for one in wanted if one not in by_id]
    if absent:
        raise ValueError(
            f"{where}: no row has the candidates' id {absent[0]!r}{_more(absent)}; give the same rows, or leave the "
            "column `id` out to match rows by order"
        )
    return [by_id[one] for one in wanted]


def _more(several: Sequence[str]) -> str:
    return f" (and {len(several) - 1} more)" if len(several) > 1 else ""


def _called(texts: Texts | None, role: str) -> str:
    return str(texts) if isinstance(texts, str | Path) else role

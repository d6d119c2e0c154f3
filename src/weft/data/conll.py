"""Sentences with one token a line, as CoNLL's shared tasks and many after them keep them."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from weft.data.layout import Layout, Placed, Row, lines_of
from weft.tasks.contract import Lines


def sentences(text: str, path: Path, layout: Layout) -> Iterator[Placed]:
    """One token a line, first column the token, last its tag; blank lines and `-DOCSTART-` part sentences.

    Columns are parted by tabs if the line has one, else by spaces. The row is `{tokens, tags}`, and the columns that
    `layout` names or asks for by number; its place has a line for each token.

    Raises:
        ValueError: If a line has another number of columns than the others; while iterating.
    """
    lines = lines_of(text)
    width, tabbed = _form(lines, "#" if layout.comments is None else layout.comments)
    width = len(layout.header) if layout.header else width
    rows: list[list[str]] = []
    numbers: list[int] = []
    for number, line in enumerate([*lines, ""], 1):
        fields = _columns(line)
        if not fields or fields[0] == "-DOCSTART-":
            if rows:
                yield _sentence(rows, layout), Lines(str(path), numbers)
            rows, numbers = [], []
            continue
        # A comment parted by spaces is none of the columns of a file parted by tabs.
        other = len(fields) != width or (tabbed and line.startswith("#") and "\t" not in line)
        if _is_comment(line, fields, layout, other=other, inside=bool(rows)):
            continue
        chosen = layout.columns or layout.header
        if len(fields) < 2 or other or not (chosen or (fields[0] and fields[-1])):
            wanted = "a token and its tag" if width < 3 else f"{width} columns as in lines above"
            raise ValueError(f"{path}:{number}: expected {wanted}, got {line!r:.120}")
        rows.append(fields)
        numbers.append(number)


def _columns(line: str) -> list[str]:
    if not line.strip(" \t"):
        return []
    return line.split("\t") if "\t" in line else re.split(" +", line.strip(" "))


def _form(lines: Iterable[str], comment: str) -> tuple[int, bool]:
    """Of the first line that can only be a token: its columns, and whether tabs part them."""
    for line in lines:
        fields = _columns(line)
        if comment and line.startswith(comment):
            continue
        if fields and fields[0] != "-DOCSTART-":
            return len(fields), "\t" in line
    return 2, False


def _is_comment(line: str, fields: list[str], layout: Layout, *, other: bool, inside: bool) -> bool:
    """Whether a line holds no token; `other` if its columns are not those of tokens."""
    if layout.comments is not None:
        return bool(layout.comments) and line.startswith(layout.comments)
    if inside or not line.startswith("#"):
        return False
    if fields[0] == "#":
        # `#` itself is a token, where the line has as many columns as others and all hold something.
        return other or not all(fields)
    return len(fields) > 1 and other  # #begin document (x); part 000


def _sentence(rows: list[list[str]], layout: Layout) -> Row:
    columns = list(zip(*rows, strict=True))
    row: Row = {"tokens": list(columns[0]), "tags": list(columns[-1])}
    for name, column in zip(layout.header or (), columns, strict=False):
        row[name] = list(column)
    for name in layout.columns:
        if -len(columns) <= int(name) < len(columns):
            row[name] = list(columns[int(name)])
    return row

"""Rows of a table: fields parted by commas or tabs, quoted as in CSV or not at all."""

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path

from weft.data.layout import Layout, Placed, lines_of


def separated(text: str, path: Path, delimiter: str, layout: Layout) -> Iterator[Placed]:
    """The rows of a text, each `{column: field}`.

    Args:
        text: What the file holds.
        path: What errors call it.
        delimiter: Between fields.
        layout: Whether the first line is a header, and whether marks around a field belong to the form.

    Raises:
        ValueError: If a line is malformed, or looks quoted where nothing is said of it; while iterating.
    """
    header = None if layout.header is None else list(layout.header)
    quotes = layout.quotes if layout.quotes is not None else delimiter == ","
    if layout.quotes is None and not quotes:
        _refuse_quoted(text, delimiter, path)
    for fields, line in (_quoted if quotes else _raw)(text, delimiter, path):
        where = f"{path}:{line}"
        if header is None:
            header = fields
            if len(set(header)) < len(header):
                raise ValueError(f"{where}: the header names a column twice: {header!r:.200}")
        elif len(fields) != len(header):
            said = "the header has" if layout.header is None else "`header` names"
            hint = (
                f"quote fields that hold {delimiter!r}"
                if quotes
                else "fields that are quoted as in CSV are read with `quotes: true`"
            )
            raise ValueError(
                f"{where}: {len(fields)} fields, but {said} {len(header)}: {header!r:.200}; {hint}"
            )
        else:
            yield dict(zip(header, fields, strict=True)), where


def _quoted(text: str, delimiter: str, path: Path) -> Iterator[tuple[list[str], int]]:
    # strict: a quote in the wrong place is an error, where the default would swallow rows after it.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    line = 1
    try:
        for fields in reader:
            if fields:
                yield fields, line
            line = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(
            f"{path}:{line}: {error}; quote fields that hold quotes, and double the quotes inside; or say "
            "`quotes: false` if the marks belong to the text"
        ) from None


def _raw(text: str, delimiter: str, path: Path) -> Iterator[tuple[list[str], int]]:
    for number, line in enumerate(lines_of(text), 1):
        if line:
            yield line.split(delimiter), number


_NEEDED_QUOTES = re.compile(r'"(?:[^"]|"")*""(?:[^"]|"")*"')


def _refuse_quoted(text: str, delimiter: str, path: Path) -> None:
    """Raise where fields look quoted as in CSV, since reading their marks as text would change it unseen."""
    for number, line in enumerate(lines_of(text), 1):
        fields = [field for field in line.split(delimiter) if field.startswith('"')]
        whole = number == 1 and len(fields) > line.count(delimiter) > 0
        if any(map(_NEEDED_QUOTES.fullmatch, fields)) or (
            whole and all(field.endswith('"') for field in fields)
        ):
            raise ValueError(
                f"{path}:{number}: this line looks quoted as in CSV; say `quotes: true` if it is, or `quotes: false` "
                "if the marks belong to the text"
            )

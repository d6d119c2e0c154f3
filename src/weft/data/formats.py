"""Rows from files: one reader for each format.

A reader yields `(row, where)`: the row in the file's own columns, and the place to look at when it
is wrong (`file:line`, `file: row n`). Readers know nothing of tasks; `weft.data.reading` maps columns to a
task's.
"""

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weft.data.parquet import named, parquet_rows
from weft.guard import parse_json, read_text
from weft.registry import unknown

if TYPE_CHECKING:
    from datasets import Features

Row = dict[str, Any]
Placed = tuple[Row, str]
"""A row and where it stands."""


def _text(path: Path) -> str:
    return read_text(path)


def _separated(path: Path, delimiter: str) -> Iterator[Placed]:
    # strict: a quote in the wrong place is an error, where the default would swallow rows after it.
    reader = csv.reader(io.StringIO(_text(path), newline=""), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    line = 1
    try:
        for fields in reader:
            where = f"{path}:{line}"
            line = reader.line_num + 1
            if not fields:
                continue
            if header is None:
                header = fields
                if len(set(header)) < len(header):
                    raise ValueError(f"{where}: the header names a column twice: {header!s:.200}")
            elif len(fields) != len(header):
                raise ValueError(
                    f"{where}: {len(fields)} fields, but the header has {len(header)}: {header!s:.200}; "
                    f"quote fields that hold {delimiter!r}"
                )
            else:
                yield dict(zip(header, fields, strict=True)), where
    except csv.Error as error:
        raise ValueError(
            f"{path}:{line}: {error}; quote fields that hold quotes, and double the quotes inside"
        ) from None


def _csv(path: Path) -> Iterator[Placed]:
    """Comma-separated, with a header; quoted fields may hold commas and newlines."""
    return _separated(path, ",")


def _tsv(path: Path) -> Iterator[Placed]:
    """Tab-separated, with a header; quotes as in CSV."""
    return _separated(path, "\t")


def _jsonl(path: Path) -> Iterator[Placed]:
    """One JSON object a line."""
    yield from json_lines(_text(path), str(path))


def json_lines(text: str, source: str) -> Iterator[Placed]:
    """The JSON objects of `text`, one a line; blank lines are skipped.

    Args:
        text: Lines ending in a newline; other line separators may stand inside a string.
        source: What errors call it: a file, or `stdin`.

    Raises:
        ValueError: If a line is not a JSON object, with its number.
    """
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{source}:{number}"
        row = parse_json(line, where, whole=False)
        if not isinstance(row, dict):
            raise ValueError(f"{where}: expected a JSON object (one a line), got {line[:60]!r}")
        yield row, where


def _conll(path: Path) -> Iterator[Placed]:
    """One token a line, first column the token, last its tag; blank lines part sentences.

    Columns are parted by tabs if the line has one, else by spaces. `-DOCSTART-` lines are skipped.
    The row is `{tokens, tags}`.
    """
    tokens: list[str] = []
    tags: list[str] = []
    start, width = 0, 0
    for number, line in enumerate([*_text(path).split("\n"), ""], 1):
        content = line.rstrip("\r")
        if not content.strip(" \t"):
            if tokens:
                yield {"tokens": tokens, "tags": tags}, f"{path}:{start}"
            tokens, tags = [], []
            continue
        fields = content.split("\t") if "\t" in content else re.split(" +", content.strip(" "))
        if fields[0] == "-DOCSTART-":
            continue
        width = width or len(fields)
        if len(fields) < 2 or len(fields) != width or not fields[0] or not fields[-1]:
            wanted = "a token and its tag" if width < 3 else f"{width} columns as in lines above"
            raise ValueError(f"{path}:{number}: expected {wanted}, got {content!r:.80}")
        if not tokens:
            start = number
        tokens.append(fields[0])
        tags.append(fields[-1])


def _squad(path: Path) -> Iterator[Placed]:
    """SQuAD's published JSON (data / paragraphs / qas): a row a question, with all its answers."""
    document = parse_json(_text(path), str(path))
    for article, place in _members(document, "data", f"{path}: "):
        for paragraph, inner in _members(article, "paragraphs", f"{place}."):
            context = _member(paragraph, "context", str, inner)
            for question, where in _members(paragraph, "qas", f"{inner}."):
                row = {"id": _member(question, "id", str, where), "context": context}
                row["question"] = _member(question, "question", str, where)
                if "answers" in question:
                    row["answers"] = _member(question, "answers", list, where)
                yield row, where


def _member(value: Any, key: str, kind: type, place: str) -> Any:
    if not isinstance(value, dict) or not isinstance(value.get(key), kind):
        got = sorted(value) if isinstance(value, dict) else f"{value!r:.60}"
        raise ValueError(
            f"{place}: expected SQuAD's form, an object with {key!r} ({kind.__name__}); got {got!s:.200}"
        )
    return value[key]


def _members(value: Any, key: str, place: str) -> Iterator[tuple[Any, str]]:
    for index, item in enumerate(_member(value, key, list, place.rstrip(".: "))):
        yield item, f"{place}{key}[{index}]"


def _parquet(path: Path) -> Iterator[Placed]:
    """Parquet, as the hub keeps it: class numbers become their names where the file has them."""
    for number, row in enumerate(parquet_rows(path)):
        yield row, f"{path}: row {number}"


def with_class_names(
    rows: Iterable[Mapping[str, Any]], features: "Features", source: str
) -> Iterator[Row]:
    """`rows` of the hub with every class number replaced by its name; -1, "no answer", by None.

    Raises:
        ValueError: If a value is no number of a class; starts with `source`.
    """
    from datasets import ClassLabel, LargeList, List

    names: dict[str, list[str]] = {}
    for column, feature in features.items():
        inner = feature.feature if isinstance(feature, List | LargeList) else feature
        if isinstance(inner, ClassLabel) and inner.names:
            names[column] = inner.names
    return named(rows, names, source)


def _plain_text(path: Path) -> Iterator[Placed]:
    """Running text: a row is a paragraph, that is, a block of lines between blank lines."""
    block: list[str] = []
    start = 0
    for number, line in enumerate([*_text(path).split("\n"), ""], 1):
        if line.strip():
            start = start if block else number
            block.append(line.rstrip("\r"))
        elif block:
            yield {"text": "\n".join(block)}, f"{path}:{start}"
            block = []


@dataclass(frozen=True)
class Format:
    """A form of file: how its name ends, and how it is read."""

    endings: tuple[str, ...]
    read: Callable[[Path], Iterator[Placed]]


FORMATS = {
    "csv": Format((".csv",), _csv),
    "tsv": Format((".tsv",), _tsv),
    "jsonl": Format((".jsonl", ".ndjson"), _jsonl),
    "conll": Format((".conll", ".annotated"), _conll),
    "squad": Format((".json",), _squad),
    "parquet": Format((".parquet",), _parquet),
    "text": Format((".txt",), _plain_text),
}


def format_of(path: Path) -> str:
    """The format that a file's ending stands for.

    Raises:
        ValueError: If no format has this ending.
    """
    for name, form in FORMATS.items():
        if path.name.lower().endswith(form.endings):
            return name
    endings = ", ".join(ending for form in FORMATS.values() for ending in form.endings)
    raise ValueError(f"{path}: unknown ending; say `format:`, or use one of {endings}")


def read_rows(path: Path, form: str | None = None) -> Iterator[Placed]:
    """The rows of one file, each with the place it stands at.

    Args:
        path: The file.
        form: A key of `FORMATS`; None reads it off the file's ending.

    Raises:
        KeyError: If there is no such format.
        ValueError: If the file is missing or malformed, naming file and line; while iterating.
    """
    form = form or format_of(path)
    if form not in FORMATS:
        raise KeyError(unknown("format", form, FORMATS))
    return FORMATS[form].read(path)

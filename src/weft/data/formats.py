"""Rows from files: one reader for each format.

A reader yields `(row, where)`: the row in the file's own columns, and the place to look at when it
is wrong (`file:line`, `file: row n`). Readers know nothing of tasks; `weft.data.reading` maps columns to a
task's.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weft.data.annotated import TOOLS, from_tools
from weft.data.conll import sentences
from weft.data.layout import PLAIN, Layout, Placed, Row, lines_of
from weft.data.parquet import named, parquet_rows
from weft.data.separated import separated
from weft.guard import parse_json, read_text
from weft.registry import unknown

if TYPE_CHECKING:
    from datasets import Features


def _text(path: Path) -> str:
    return read_text(path)


def _csv(path: Path, layout: Layout = PLAIN) -> Iterator[Placed]:
    """Comma-separated, with a header or `layout.header`; quoted fields may hold commas and newlines."""
    yield from separated(_text(path), path, ",", layout)


def _tsv(path: Path, layout: Layout = PLAIN) -> Iterator[Placed]:
    """Tab-separated, with a header or `layout.header`; a line is a row, and marks are text unless it is said."""
    yield from separated(_text(path), path, "\t", layout)


def _jsonl(path: Path, layout: Layout = PLAIN, tool: str | None = None) -> Iterator[Placed]:
    """One JSON object a line; rows of annotation tools become text with spans or labels."""
    yield from from_tools(json_lines("\n".join(lines_of(_text(path))), str(path)), tool)


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


def _conll(path: Path, layout: Layout = PLAIN) -> Iterator[Placed]:
    """One token a line, first column the token, last its tag, unless it is said; see `weft.data.conll`."""
    yield from sentences(_text(path), path, layout)


def _json(path: Path, layout: Layout = PLAIN, tool: str | None = None) -> Iterator[Placed]:
    """One JSON list of objects, alone or as the one list of an object; JSON lines and SQuAD's form by this ending."""
    text = _text(path)
    try:
        document = parse_json(text, str(path))
    except ValueError:
        if not _is_lines(text):
            raise
        yield from _jsonl(path, layout, tool)
        return
    if isinstance(document, dict):
        lists = {key: value for key, value in document.items() if isinstance(value, list)}
        articles = lists.get("data") or [None]
        if isinstance(articles[0], dict) and "paragraphs" in articles[0]:
            yield from _squad(path, layout)
            return
        if len(lists) != 1:
            raise ValueError(
                f"{path}: expected a list of objects, got an object with {sorted(document)!r:.120}; write one object a "
                "row (pandas: orient='records')"
            )
        document = next(iter(lists.values()))
    if not isinstance(document, list):
        raise ValueError(f"{path}: expected a list of objects, got {document!r:.60}")
    yield from from_tools(_objects(document, path), tool)


def _is_lines(text: str) -> bool:
    """Whether text holds a JSON object and, behind it, something else: an object a line."""
    if not text.lstrip().startswith("{"):
        return False
    try:
        _, end = json.JSONDecoder().raw_decode(text.lstrip())
    except (ValueError, RecursionError):
        return False
    return bool(text.lstrip()[end:].strip())


def _objects(document: list[Any], path: Path) -> Iterator[Placed]:
    for number, row in enumerate(document):
        if not isinstance(row, dict):
            raise ValueError(f"{path}: [{number}]: expected an object, got {row!r:.60}")
        yield row, f"{path}: [{number}]"


def _of_tool(tool: str) -> Callable[[Path, Layout], Iterator[Placed]]:
    def read(path: Path, layout: Layout = PLAIN) -> Iterator[Placed]:
        lines = path.name.lower().endswith((".jsonl", ".ndjson"))
        return _jsonl(path, layout, tool) if lines else _json(path, layout, tool)

    return read


def _squad(path: Path, layout: Layout = PLAIN) -> Iterator[Placed]:
    """SQuAD's published JSON (data / paragraphs / qas): a row a question, with all its answers.

    In version 2.0 a question may be impossible: then it has none, and its `plausible_answers`, which are wrong, are
    no column of the row.
    """
    document = parse_json(_text(path), str(path))
    for article, place in _members(document, "data", f"{path}: "):
        for paragraph, inner in _members(article, "paragraphs", f"{place}."):
            context = _member(paragraph, "context", str, inner)
            for question, where in _members(paragraph, "qas", f"{inner}."):
                row = {"id": _member(question, "id", str, where), "context": context}
                row["question"] = _member(question, "question", str, where)
                if "answers" in question:
                    row["answers"] = _member(question, "answers", list, where)
                if "is_impossible" in question:
                    impossible = _member(question, "is_impossible", bool, where)
                    if impossible:
                        row.setdefault("answers", [])
                    if "answers" in row and bool(row["answers"]) == impossible:
                        raise ValueError(
                            f"{where}: is_impossible is {str(impossible).lower()}, but the question has "
                            f"{len(row['answers'])} answers; correct one of the two"
                        )
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


def _parquet(path: Path, layout: Layout = PLAIN) -> Iterator[Placed]:
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


def _plain_text(path: Path, layout: Layout = PLAIN) -> Iterator[Placed]:
    """Running text: a row is a paragraph, that is, a block of lines between blank lines."""
    block: list[str] = []
    start = 0
    for number, line in enumerate([*lines_of(_text(path)), ""], 1):
        if line.strip():
            start = start if block else number
            block.append(line)
        elif block:
            yield {"text": "\n".join(block)}, f"{path}:{start}"
            block = []


@dataclass(frozen=True)
class Format:
    """A form of file: how its name ends, and how it is read."""

    endings: tuple[str, ...]
    read: Callable[[Path, Layout], Iterator[Placed]]


FORMATS = {
    "csv": Format((".csv",), _csv),
    "tsv": Format((".tsv",), _tsv),
    "jsonl": Format((".jsonl", ".ndjson"), _jsonl),
    "json": Format((".json",), _json),
    "conll": Format((".conll", ".annotated"), _conll),
    "squad": Format((".json",), _squad),
    "parquet": Format((".parquet",), _parquet),
    "text": Format((".txt",), _plain_text),
    **{tool: Format((".json", ".jsonl", ".ndjson"), _of_tool(tool)) for tool in TOOLS},
}


def format_of(path: Path) -> str:
    """The format that a file's ending stands for.

    Raises:
        ValueError: If no format has this ending.
    """
    for name, form in FORMATS.items():
        if path.name.lower().endswith(form.endings):
            return name
    endings = ", ".join(
        dict.fromkeys(ending for form in FORMATS.values() for ending in form.endings)
    )
    raise ValueError(f"{path}: unknown ending; say `format:`, or use one of {endings}")


def read_rows(path: Path, form: str | None = None, layout: Layout = PLAIN) -> Iterator[Placed]:
    """The rows of one file, each with the place it stands at.

    Args:
        path: The file.
        form: A key of `FORMATS`; None reads it off the file's ending.
        layout: What is said of the file's form.

    Raises:
        KeyError: If there is no such format.
        ValueError: If the file is missing or malformed, naming file and line; while iterating.
    """
    form = form or format_of(path)
    if form not in FORMATS:
        raise KeyError(unknown("format", form, FORMATS))
    return FORMATS[form].read(path, layout)

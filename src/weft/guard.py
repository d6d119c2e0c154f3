"""Reading what others made: every file that weft did not just write itself comes through here.

A file is regular and of a stated size before a byte of it is kept, its text is UTF-8, and what JSON or YAML says is
bounded in depth and in what its aliases unfold to. Whatever is wrong is one ValueError that names the file and, where
there is one, the line.
"""

import json
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import yaml
from pydantic import BaseModel

from weft.registry import unknown
from weft.system import READING

SETTINGS = 4 << 20
"""Most bytes of a file of settings: YAML, a card, a config."""
RECORDS = 1 << 30
"""Most bytes of a file of records that is held as text at once: rows, predictions, logs."""
DEEPEST = 64
"""Most lists and mappings inside each other."""
_MOST_NODES = 100_000
"""Most values of a YAML file once its aliases are unfolded."""
_HEAD = 4096
"""Bytes at the beginning that tell text from what is none."""
_HALF_A_PAIR = re.compile(r"[\ud800-\udfff]")
_ESCAPED_HALF = re.compile(r"\\u[dD][89a-fA-F]")


@contextmanager
def opened(path: str | Path, most: int | None = None) -> Iterator[BinaryIO]:
    """A regular file, open for reading.

    Args:
        path: The file; a link is followed.
        most: Largest size in bytes; None leaves it open, for readers that hold only a part.

    Raises:
        ValueError: If it is absent, no regular file (a folder, device, pipe or socket), not readable or too large.
    """
    try:
        handle = os.open(path, READING)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read: {_reason(error)}") from None
    try:
        found = os.fstat(handle)
        if stat.S_ISDIR(found.st_mode):
            raise ValueError(f"{path}: is a folder, expected a file")
        if not stat.S_ISREG(found.st_mode):
            raise ValueError(
                f"{path}: is a device, pipe or socket; only regular files are read, so write it to one"
            )
        if most is not None and found.st_size > most:
            raise ValueError(
                f"{path}: {found.st_size} bytes, at most {most} are read from such a file"
            )
        with os.fdopen(handle, "rb", closefd=False) as file:
            yield file
    finally:
        os.close(handle)


def check_file(path: str | Path, most: int | None = None) -> int:
    """The size of a file that a library is to read, refused as `opened` refuses."""
    with opened(path, most) as file:
        return os.fstat(file.fileno()).st_size


def read_bytes(path: str | Path, most: int = RECORDS) -> bytes:
    """What is in a regular file of at most `most` bytes.

    Raises:
        ValueError: As `opened`, or if the disk fails.
    """
    with opened(path, most) as file:
        try:
            # The size is asked again by the reading: a file may grow, and one of /proc has none.
            data = file.read(most + 1)
        except OSError as error:
            raise ValueError(f"{path}: cannot be read: {_reason(error)}") from None
    if len(data) > most:
        raise ValueError(f"{path}: more than {most} bytes, too much for such a file")
    return data


def read_text(path: str | Path, most: int = RECORDS) -> str:
    """The text of a UTF-8 file; a byte order mark, which spreadsheets write, is no part of it.

    Raises:
        ValueError: As `read_bytes`, or if it is not UTF-8, with the line.
    """
    data = read_bytes(path, most)
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in data[:_HEAD]:
        raise ValueError(
            f"{path}:1: not UTF-8 but UTF-16 or no text at all; save the file as UTF-8"
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}:{line}: not UTF-8; save the file as UTF-8") from None


def read_json(path: str | Path, most: int = SETTINGS) -> Any:
    """What a JSON file says.

    Raises:
        ValueError: As `read_text` and `parse_json`.
    """
    return parse_json(read_text(path, most), str(path))


def parse_json(text: str, where: str, *, whole: bool = True) -> Any:
    """What JSON text says.

    Args:
        text: One JSON value.
        where: What errors call the source: a file, or where `text` is one line of it, `file:line`.
        whole: Errors count the lines of `text`; False where `where` names its line already.

    Raises:
        ValueError: If it is not JSON, nested deeper than `DEEPEST`, or holds half of a character.
    """
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        place = f"{where}:{error.lineno}" if whole else where
        raise ValueError(f"{place}: not JSON: {error.msg} at column {error.colno}") from None
    except RecursionError:
        raise ValueError(_too_deep(where)) from None
    except ValueError as error:
        # Python refuses integers of more than some thousand digits.
        raise ValueError(f"{where}: not JSON: {error}") from None
    # Text with few brackets cannot be deep: most rows are not walked at all.
    if text.count("[") + text.count("{") > DEEPEST and _is_deeper(value, DEEPEST):
        raise ValueError(_too_deep(where))
    if _ESCAPED_HALF.search(text) and _HALF_A_PAIR.search(json.dumps(value, ensure_ascii=False)):
        raise ValueError(
            f"{where}: a text holds half of a surrogate pair (\\ud83d alone), which is no character"
        )
    return value


def json_lines(path: str | Path, most: int = RECORDS) -> Iterator[tuple[Any, str]]:
    """The values of a file of JSON lines, each with its place `file:line`; blank lines are skipped.

    Raises:
        ValueError: As `read_text` and `parse_json`; while iterating.
    """
    for number, line in enumerate(read_text(path, most).split("\n"), 1):
        if line.strip():
            where = f"{path}:{number}"
            yield parse_json(line, where, whole=False), where


def read_yaml(path: str | Path, most: int = SETTINGS) -> Any:
    """What a YAML file says.

    Raises:
        ValueError: As `read_text` and `parse_yaml`.
    """
    return parse_yaml(read_text(path, most), str(path))


def parse_yaml(text: str, where: str) -> Any:
    """What YAML text says, by the safe loader.

    Args:
        text: One document.
        where: What errors call the source, e.g. its path.

    Raises:
        ValueError: If it is not YAML, nested deeper than `DEEPEST`, unfolds to more than its aliases should, or says
            a key of one mapping twice, of which the loader would silently keep the last.
    """
    # The C parser, where the package has it, is ten times as fast; both are the safe one.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        _refuse_bombs(_once(yaml.parse(text, Loader=loader), where), where)
    except yaml.YAMLError as error:
        raise ValueError(_not_yaml(error, where)) from None
    try:
        return yaml.load(text, Loader=loader)
    except yaml.YAMLError as error:
        raise ValueError(_not_yaml(error, where)) from None
    except _BAD_SCALAR as error:
        said = f"a value is not of its type: {type(error).__name__}: {error}"
        raise ValueError(f"{where}: not YAML: {said}"[:400]) from None


_BAD_SCALAR = (
    AttributeError,
    IndexError,
    KeyError,
    OverflowError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What the safe loader lets through where a scalar is not what its tag or form promises: `!!bool 7`, 2001-99-99."""


def _refuse_bombs(events: Iterator[Any], where: str) -> None:
    """Count what the events of a document unfold to, before anything is built from them."""
    unfolded: dict[str | None, tuple[int, int]] = {}  # by anchor: values, and levels of nesting
    open_: list[tuple[str | None, int]] = []
    heights = [0]
    total = 0
    event: Any  # the package's types know events without their marks
    for event in events:
        place = f"{where}, line {event.start_mark.line + 1}"
        if isinstance(event, yaml.CollectionStartEvent):
            open_.append((event.anchor, total))
            heights.append(0)
            total += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_.pop()
            height = heights.pop() + 1
            heights[-1] = max(heights[-1], height)
            unfolded[anchor] = total - before, height
        elif isinstance(event, yaml.ScalarEvent):
            unfolded[event.anchor] = 1, 0
            total += 1
        elif isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for anchor, _ in open_):
                raise ValueError(f"{place}: *{event.anchor} stands inside itself")
            # An alias without its anchor is the loader's to refuse.
            values, height = unfolded.get(event.anchor, (1, 0))
            heights[-1] = max(heights[-1], height)
            total += values
        if len(open_) + heights[-1] > DEEPEST:
            raise ValueError(_too_deep(place))
        if total > _MOST_NODES:
            raise ValueError(
                f"{place}: more than {_MOST_NODES} values, aliases unfolded; write fewer"
            )


def _once(events: Iterator[Any], where: str) -> Iterator[Any]:
    """The events of a document, while no mapping says a key twice."""
    keys: list[set[str] | None] = []  # of each open collection; None in a list
    halves: list[int] = []  # keys and values of it so far
    event: Any
    for event in events:
        mark: Any = event.start_mark
        if isinstance(event, yaml.CollectionEndEvent):
            keys.pop()
            halves.pop()
        elif isinstance(event, yaml.NodeEvent):
            names = keys[-1] if keys else None
            if names is not None and halves[-1] % 2 == 0 and isinstance(event, yaml.ScalarEvent):
                if event.value in names:
                    raise ValueError(
                        f"{where}, line {mark.line + 1}: {event.value!r:.100} is said twice; remove one of them"
                    )
                names.add(event.value)
            if halves:
                halves[-1] += 1
            if isinstance(event, yaml.CollectionStartEvent):
                keys.append(set() if isinstance(event, yaml.MappingStartEvent) else None)
                halves.append(0)
        yield event


def refuse_links_out(path: Path, folder: Path) -> None:
    """Refuse a file that a link takes out of the folder it was handed over in.

    The snapshots of the hub's own cache link to the `blobs` beside them, which is no way out.

    Raises:
        ValueError: If `path` lies elsewhere.
    """
    home = folder.resolve()
    homes = [home]
    if home.parent.name == "snapshots":
        homes.append(home.parent.parent / "blobs")
    if not any(path.resolve().is_relative_to(place) for place in homes):
        raise ValueError(f"{path}: a link to a file outside {folder}; put the file itself there")


def guarded(path: str | Path, read: Callable[[], Any], *errors: type[Exception]) -> Any:
    """What a library reads from `path`; those of its `errors` that say the file is damaged name the file.

    Raises:
        ValueError: In place of any of `errors`.
    """
    try:
        return read()
    except errors as error:
        raise ValueError(f"{path}: damaged: {type(error).__name__}: {error}"[:400]) from None


def _is_deeper(value: Any, most: int) -> bool:
    level = [value]
    for _ in range(most):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True


def _too_deep(where: str) -> str:
    return f"{where}: lists and mappings nested deeper than {DEEPEST}"


def _reason(error: OSError | ValueError) -> str:
    return getattr(error, "strerror", None) or str(error)


def _not_yaml(error: yaml.YAMLError, where: str) -> str:
    mark = getattr(error, "problem_mark", None)
    line = f", line {mark.line + 1}" if mark else ""
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or error
    return f"{where}{line}: not YAML: {problem}"


def sentence_of(model: type[BaseModel], item: Any, where: str) -> str:
    """One of pydantic's findings as a sentence: where it is, what came, and the nearest known key."""
    path = [str(part) for part in item["loc"] if not str(part).startswith("function-")]
    place = ".".join(path)
    if item["type"] != "extra_forbidden":
        return f"{where}: {place or 'settings'}: {item['msg']}, got {item['input']!r:.200}"
    owner = model_at(model, path[:-1])
    return f"{where}: {place}: {unknown('setting', path[-1], owner.model_fields)}"


def model_at(model: type[BaseModel], path: list[str]) -> type[BaseModel]:
    """The settings that a field inside of settings holds.

    Args:
        model: The outer ones.
        path: Names of fields, and numbers of entries, from there on.
    """
    for name in path:
        if name.isdigit() or name not in model.model_fields:
            continue
        pending: list[Any] = [model.model_fields[name].annotation]
        while pending:
            kind = pending.pop()
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                model = kind
                break
            pending.extend(getattr(kind, "__args__", ()))
    return model


def with_overrides(values: Mapping[str, Any], overrides: list[str]) -> dict[str, Any]:
    """`values` with each `a.b=c` of `overrides` put in its place; `c` is read as YAML.

    A string in the way (`recipe: lora`) becomes the mapping it stands for (`recipe: {name: lora}`).
    """
    result = dict(values)
    for override in overrides:
        path, found, text = override.partition("=")
        if not found or not path.strip():
            raise ValueError(f"--set {override!r}: expected KEY=VALUE, e.g. training.epochs=1")
        *parents, last = path.strip().split(".")
        place = result
        for name in parents:
            inner = place.get(name) or {}
            inner = {"name": inner} if isinstance(inner, str) else inner
            if not isinstance(inner, Mapping):
                raise ValueError(f"--set {override!r}: {name!r} holds {inner!r}, which has no keys")
            place[name] = dict(inner)
            place = place[name]
        value = parse_yaml(text, f"--set {override!r:.200}")
        # YAML 1.1 reads 1e-3 as a string: it wants a dot and a sign.
        place[last] = _number(value) if isinstance(value, str) else value
    return result


def _number(text: str) -> object:
    try:
        return float(text)
    except ValueError:
        return text

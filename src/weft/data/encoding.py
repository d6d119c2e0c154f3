"""Encoding a split once: records kept on disk under the content they were made from.

A file's name is the SHA-256 of all that decides its records, so it is never stale; its last 32
bytes are the SHA-256 of the rest, one Arrow stream, so it is never trusted when damaged.
"""

import gc
import hashlib
import inspect
import itertools
import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedTokenizerFast

from weft.scoped import tell
from weft.tasks.contract import Example, Record, Task

if TYPE_CHECKING:
    import pyarrow as pa

ENCODING_VERSION = 1
"""Part of every key: raise it when shared encoding code changes what records hold."""

_log = logging.getLogger(__name__)

_DIGEST_BYTES = 32
_ABSENT = b"weft.absent"


def cache_folder() -> Path:
    """Where encoded splits are kept: `WEFT_CACHE`, or `~/.cache/weft`."""
    return Path(os.environ.get("WEFT_CACHE") or "~/.cache/weft").expanduser()


def encode_examples(
    task: Task,
    examples: Sequence[Example],
    tokenizer: PreTrainedTokenizerFast,
    *,
    cache: Path | None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Record]:
    """The record of every example, in order: `task.encode` of each, whether read back or made now, and its weight.

    Args:
        task: Encodes.
        examples: Checked examples.
        tokenizer: The base's.
        cache: Folder of encoded splits, usually `cache_folder()`; None keeps nothing.
        progress: Called with (done, total) now and then, and once when all is done.

    Raises:
        ValueError: If an example cannot be encoded.
        TypeError: If a kind's records hold more than lists, dicts, text, numbers and None.
    """
    total = len(examples)
    path = None
    if cache is not None and examples:
        path = cache / f"{fingerprint(task, examples, tokenizer)}.arrow"
        records = _load(path)
        if records is not None:
            if progress:
                progress(total, total)
            return records
    records = []
    for example in examples:
        weight = {"weight": example["weight"]} if "weight" in example else {}
        records.append({**task.encode(example, tokenizer), **weight})
        if len(records) % 100 == 0 or len(records) == total:
            tell(f"encoding rows of {task.spec.name}", len(records), total)
            if progress:
                progress(len(records), total)
    if path is not None:
        stream = _stream(records, task.spec.kind)
        try:
            _save(path, stream)
        except OSError as error:
            _log.warning(
                "%s: encoded data cannot be kept here (%s), so it is made again each time; set WEFT_CACHE to a folder "
                "that can be written",
                cache,
                error.strerror or error,
            )
    return records


def fingerprint(task: Task, examples: Sequence[Example], tokenizer: PreTrainedTokenizerFast) -> str:
    """SHA-256 (hex) of all that decides the records: code, spec, labels, tokenizer, examples."""
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    # What the last call happened to ask for, not what the tokenizer is.
    backend.pop("truncation", None)
    backend.pop("padding", None)
    parts = {
        "version": ENCODING_VERSION,
        "kind": [task.spec.kind, type(task).__qualname__, _source(type(task))],
        "spec": task.spec.model_dump(mode="json"),
        "labels": task.labels,
        "tokenizer": backend,
        "tokens": {key: str(token) for key, token in tokenizer.special_tokens_map.items()},
        "inputs": tokenizer.model_input_names,
    }
    digest = hashlib.sha256(_canonical_json(parts))
    for example in examples:
        digest.update(b"\n" + _canonical_json(example))
    return digest.hexdigest()


def _canonical_json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":")).encode()


def _source(kind: type[Task]) -> str:
    """The text of the file that defines `kind`, so that editing a kind re-makes its records."""
    try:
        return Path(inspect.getfile(kind)).read_text(encoding="utf-8")
    except (OSError, TypeError):  # defined in a session, not a file
        return ""


def _stream(records: list[Record], kind: str) -> memoryview:
    """The records as one Arrow stream."""
    import pyarrow as pa  # heavy, and only caching wants it

    names = list(dict.fromkeys(key for record in records for key in record))
    absent = {
        name: rows
        for name in names
        if (rows := [row for row, record in enumerate(records) if name not in record])
    }
    try:
        table = pa.table({name: [record.get(name) for record in records] for name in names})
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise TypeError(f"records of {kind} cannot be kept: {error}") from error
    table = table.replace_schema_metadata({_ABSENT: json.dumps(absent)})
    if _records(table) != records:
        raise TypeError(
            f"records of {kind} would not read back as they are: use only lists (no tuples), dicts "
            "with the same keys in every row, text, numbers of one type, and None"
        )
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    return memoryview(sink.getvalue())


def _save(path: Path, stream: memoryview) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".new-", delete=False) as file:
        try:
            file.write(stream)
            file.write(hashlib.sha256(stream).digest())
            file.close()
            os.replace(file.name, path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise


def _load(path: Path) -> list[Record] | None:
    """The records of a file; None if it is not there, or damaged."""
    import pyarrow as pa

    try:
        data = memoryview(path.read_bytes())
    except OSError:
        # Absent, or not to be read: nothing but time is lost.
        return None
    stream, digest = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
    if hashlib.sha256(stream).digest() != digest:
        return None
    return _records(pa.ipc.open_stream(pa.py_buffer(stream)).read_all())


@contextmanager
def _collector_paused() -> Iterator[None]:
    # Millions of small lists, none of them garbage: looking for cycles among them takes five times
    # as long as making them.
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _records(table: "pa.Table") -> list[Record]:
    names = table.column_names
    with _collector_paused():
        columns = [
            list(itertools.chain.from_iterable(map(_plain, column.chunks)))
            for column in table.columns
        ]
        records = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
    absent: dict[str, list[int]] = json.loads((table.schema.metadata or {})[_ABSENT])
    for name, rows in absent.items():
        for row in rows:
            del records[row][name]
    return records


def _plain(array: "pa.Array") -> list[Any]:
    """`array.to_pylist()`, an order of magnitude faster on nested lists of numbers."""
    import pyarrow as pa

    if pa.types.is_list(array.type):
        inner = _plain(array.values)
        cuts = array.offsets.to_numpy().tolist()
        lists: Iterator[Any] = (inner[start:end] for start, end in itertools.pairwise(cuts))
        if not array.null_count:
            return list(lists)
        there = array.is_valid().to_pylist()
        return [item if valid else None for item, valid in zip(lists, there, strict=True)]
    if pa.types.is_primitive(array.type) and not array.null_count:
        return array.to_numpy(zero_copy_only=False).tolist()
    return array.to_pylist()

"""Encoding a split once: `datasets.map` under a fingerprint of all that decides the records, and its Arrow file.

A file's name is that fingerprint, so it is never stale; beside it lies its SHA-256, so damage is seen.
"""

import gc
import hashlib
import inspect
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from weft.atomic import write_text
from weft.data.columns import CARRIED, OF_ANY_KIND
from weft.scoped import tell
from weft.tasks.contract import Example, Record, Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

ENCODING_VERSION = 2
"""Part of every key: raise it when shared encoding code changes what records hold."""

_log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Where encoded splits are kept: `WEFT_CACHE`, or `~/.cache/weft`."""
    return Path(os.environ.get("WEFT_CACHE") or "~/.cache/weft").expanduser()


def encode_examples(
    task: Task,
    examples: Sequence[Example],
    tokenizer: "PreTrainedTokenizerFast",
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
        TypeError: If a kind's records do not all have the same keys, or hold what Arrow does not give back as it was.
    """
    total = len(examples)

    def encoded(row: int) -> Record:
        record = task.encode(examples[row], tokenizer)
        if (row + 1) % 100 == 0 or row + 1 == total:
            tell(f"encoding rows of {task.spec.name}", row + 1, total)
            if progress:
                progress(row + 1, total)
        return record

    kept = None
    if cache is not None and examples:
        path = cache / f"{fingerprint(task, examples, tokenizer)}.arrow"
        was_there = _is_whole(path)
        try:
            # What is there is read as it is; who makes it, makes it alone.
            with nullcontext() if was_there else _only(path):
                was_there = was_there or _is_whole(path)
                if not was_there:
                    path.unlink(missing_ok=True)
                kept = _mapped(path, encoded, total, task.spec.kind, keep=not was_there)
        except OSError as error:
            _log.warning(
                "%s: encoded data cannot be kept here (%s), so it is made again each time; set WEFT_CACHE to a folder "
                "that can be written",
                cache,
                error.strerror or error,
            )
        if kept is not None and was_there and progress:
            progress(total, total)
    records = [encoded(row) for row in range(total)] if kept is None else kept
    return [carried(record, example) for record, example in zip(records, examples, strict=True)]


def carried(record: Record, example: Example) -> Record:
    """A record with what a row of any kind may have that says something of it to a loss or a gate."""
    beside = {name: example[name] for name in CARRIED if name in example}
    return {**record, **beside} if beside else record


def fingerprint(
    task: Task, examples: Sequence[Example], tokenizer: "PreTrainedTokenizerFast"
) -> str:
    """The hash by `datasets` of all that decides the records: code, spec, labels, tokenizer, examples.

    What `map` finds by itself would not do: a class is its name to it, whatever its file says, and a tokenizer is
    another one in another folder.
    """
    from datasets.fingerprint import Hasher  # slow to import

    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    # What the last call happened to ask for, not what the tokenizer is.
    backend.pop("truncation", None)
    backend.pop("padding", None)
    hasher = Hasher()
    for part in (
        ENCODING_VERSION,
        [task.spec.kind, type(task).__qualname__, _source(type(task))],
        task.spec.model_dump(mode="json"),
        task.labels,
        backend,
        {key: str(token) for key, token in tokenizer.special_tokens_map.items()},
        tokenizer.model_input_names,
        *([tokenizer.chat_template] if tokenizer.chat_template else []),
        [{key: example[key] for key in example if key not in OF_ANY_KIND} for example in examples],
    ):
        hasher.update(json.dumps(part, sort_keys=True))
    return hasher.hexdigest()


def _source(kind: type[Task]) -> str:
    """The text of the file that defines `kind`, so that editing a kind re-makes its records."""
    try:
        return Path(inspect.getfile(kind)).read_text(encoding="utf-8")
    except (OSError, TypeError):  # defined in a session, not a file
        return ""


def _mapped(
    path: Path, encoded: Callable[[int], Record], total: int, kind: str, *, keep: bool
) -> list[Record]:
    """The records by `datasets.map`, which reads `path` if it is there and writes it if it is not.

    Raises:
        OSError: If it cannot be written.
        TypeError: If what it holds is not what was encoded; it is removed then.
    """
    import pyarrow as pa  # slow to import, as `datasets` is, and only what is kept wants them
    from datasets import Dataset

    made: list[Record] = []

    def of_row(row: int) -> Record:
        made.append(encoded(row))
        if made[-1].keys() != made[0].keys():
            raise _refused(kind, f"row {row} has other keys than the first one")
        return made[-1]

    try:
        with _bars_hidden(), _collector_paused():
            rows = Dataset.from_dict({"row": list(range(total))})
            records: list[Record] = rows.map(
                of_row,
                input_columns="row",
                remove_columns="row",
                cache_file_name=str(path),
                load_from_cache_file=True,
                new_fingerprint=path.stem,
                # Columns get their types from all rows: among the first thousand every list may be empty.
                writer_batch_size=total,
            ).to_list()
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise _refused(kind, str(error)) from error
    if keep:
        if records != made:
            path.unlink()
            raise _refused(kind, "they differ")
        write_text(_digest_of(path), _sha256(path))
    return records


def _refused(kind: str, why: str) -> TypeError:
    return TypeError(
        f"records of {kind} would not read back as they are ({why:.200}): use only lists (no tuples), dicts, text, "
        "numbers of one type, and None, under the same keys in every row"
    )


def _is_whole(path: Path) -> bool:
    """Whether the file is there as it was written."""
    try:
        return _digest_of(path).read_text(encoding="utf-8") == _sha256(path)
    except OSError:
        # Absent, or not to be read: nothing but time is lost.
        return False


@contextmanager
def _only(path: Path) -> Iterator[None]:
    """While other processes that would make the same file wait for it.

    Raises:
        OSError: If there is no place for the lock.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        yield


def _digest_of(path: Path) -> Path:
    return path.with_suffix(".sha256")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _bars_hidden() -> Iterator[None]:
    """Without the progress bars of `datasets`: `progress` is told of it."""
    from datasets.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    were_hidden = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not were_hidden:
            enable_progress_bars()


@contextmanager
def _collector_paused() -> Iterator[None]:
    # Millions of small lists, none of them garbage: looking for cycles among them takes as long as making them.
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()

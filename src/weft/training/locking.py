"""One training, one run folder: two that resume the same run at once would tear each other's checkpoints.

The lock is the system's, so that of a process that dies, however it dies, is free. Beside it lies who holds it.
"""

import json
import logging
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from weft.atomic import write_text, writing
from weft.guard import read_json
from weft.runs import RunFolder

LOCK = ".lock"
HOLDER = ".holder.json"
_log = logging.getLogger(__name__)


@contextmanager
def held(folder: RunFolder, *, is_main: bool) -> Iterator[None]:
    """The run is this process's inside the block.

    Args:
        folder: A run folder that exists.
        is_main: Of the processes of one training only the main one locks, for all.

    Raises:
        ValueError: If another process trains it, with its number, machine and since when.
    """
    if not is_main:
        yield
        return
    lock = FileLock(folder.path / LOCK)
    holder = folder.path / HOLDER
    try:
        with writing(folder.path / LOCK):
            lock.acquire(blocking=False)
    except Timeout:
        raise ValueError(_held_by(folder.path)) from None
    except NotImplementedError:
        # Some network file systems have no locks; training there goes on as it would without this one.
        _log.warning(
            "%s: its file system has no locks; do not resume it twice at once", folder.path
        )
    try:
        who = {"pid": os.getpid(), "host": platform.node(), "since": time.strftime("%F %T")}
        write_text(holder, json.dumps(who) + "\n")
        yield
        if folder.is_complete:
            # Who waits for it finds nothing to resume. That of an incomplete run stays: a file taken away under
            # another's hands is no lock.
            with suppress(OSError):
                (folder.path / LOCK).unlink(missing_ok=True)
    finally:
        with suppress(OSError):
            holder.unlink(missing_ok=True)
        lock.release()


def refuse_held(folder: RunFolder) -> None:
    """Refuse a run that another process trains, before the work that precedes training.

    Raises:
        ValueError: With the holder's number, machine and since when.
    """
    if not (folder.path / LOCK).exists():
        return
    lock = FileLock(folder.path / LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise ValueError(_held_by(folder.path)) from None
    except (OSError, NotImplementedError):
        return
    lock.release()


def _held_by(folder: Path) -> str:
    try:
        who = read_json(folder / HOLDER)
        name = f"process {who['pid']} on {who['host']}, since {who['since']}"
    except (ValueError, KeyError, TypeError):
        # It has just begun, or is about to end.
        name = "another process"
    return f"{folder} is being trained by {name}; wait for it, or stop it (SIGTERM saves its state) and resume"

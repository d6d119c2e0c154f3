"""Writes that are whole or not at all: to a draft beside the place, which then takes the place.

A write that fails (a full disk, an interrupt) leaves what was there before, and no draft, and says what could not be
written and what to do. A folder that stands in the place changes places with its draft in one step; where the system
cannot do that, it is moved aside for the instant between two renames, because none renames over a folder with files.

Why our own: libraries for this write single files; a run folder or an expert is many, and has to be there whole.
"""

import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from weft.system import exchange, sync

if TYPE_CHECKING:
    from torch import Tensor


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """What the system says inside the block is said as what could not be written, and what to do; same type and errno.

    Args:
        path: What is being written, by the name that its user knows.

    Raises:
        OSError: In place of one that says `[Errno 28]` and no more.
    """
    try:
        yield
    except OSError as error:
        # One without a number has been said in words already, further inside.
        if error.errno is None or error.strerror is None:
            raise
        raise _told(type(error), error.errno, error.strerror, path) from error


_WHAT_TO_DO = {
    errno.ENOSPC: "free some space, or choose a place on another disk",
    errno.EDQUOT: "your quota is used up: remove something of yours, or choose a place on another disk",
    errno.EROFS: "choose a place that can be written",
    errno.EACCES: "choose another place, or get the right to write there",
    errno.EPERM: "choose another place, or get the right to write there",
    errno.EFBIG: "files may not grow as large here: raise the limit (ulimit -f), or choose another disk",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOTDIR: "a file stands where a folder is needed: choose another place",
    errno.EEXIST: "something stands where a folder is needed: choose another place",
    errno.EMFILE: "too many files are open: raise the limit (ulimit -n)",
    errno.EIO: "the disk fails: choose another",
}


def _told(kind: type[OSError], number: int, said: str, path: Path) -> OSError:
    advice = _WHAT_TO_DO.get(number, "choose another place")
    told = kind(f"{path} could not be written: {said}; {advice}")
    told.errno = number
    return told


def make_folder(path: Path) -> None:
    """Make a folder and its parents, where they are not there.

    Raises:
        OSError: If the disk refuses, as a sentence.
    """
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A draft folder that takes the place of `path` when the block ends well.

    Args:
        path: The folder to write; missing parents are made.

    Raises:
        ValueError: If `path` is a file.
        OSError: If the disk refuses; `path` is then as it was.
    """
    path = Path(path)
    with writing(path):
        stands = path.exists() and not path.is_dir()
    if stands:
        raise ValueError(f"{path} is a file; give a folder to write to")
    make_folder(path.parent)
    draft = _beside(path)
    with writing(path):
        draft.mkdir()
    try:
        with _inside(draft, path):
            yield draft
        with writing(path):
            for part in draft.rglob("*"):
                sync(part)
            sync(draft)
            _take_place(draft, path)
    finally:
        # Gone already where all went well; must not hide the error where it did not.
        shutil.rmtree(draft, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 `text` to `path`, whole or not at all.

    Raises:
        OSError: If the disk refuses; `path` is then as it was.
    """
    with _draft_file(Path(path)) as draft:
        draft.write_text(text, encoding="utf-8", newline="\n")


def write_tensors(
    path: Path, tensors: "Mapping[str, Tensor]", metadata: Mapping[str, str] | None = None
) -> None:
    """Write `tensors` to `path` as safetensors, whole or not at all.

    Args:
        path: The file.
        tensors: Tensors by name, on any device; no two may share memory.
        metadata: Strings for the header; None says `{"format": "pt"}`. More than one entry is
            stored in no fixed
            order, so the same content would not always be the same bytes.

    Raises:
        OSError: If the disk refuses; `path` is then as it was.
    """
    # Heavy, and whoever only lists what there is writes no tensors.
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with _draft_file(Path(path)) as draft:
        # The library makes files that only their owner may read.
        draft.touch()
        mode = draft.stat().st_mode
        try:
            save_file(
                ready, draft, metadata={"format": "pt"} if metadata is None else dict(metadata)
            )
        except SafetensorError as error:
            # The library says a system's error in words alone: "... (os error 28)".
            number = re.search(r"\(os error (\d+)\)", str(error))
            if number is None:
                raise OSError(f"{path} could not be written: {error}") from error
            code = int(number[1])
            raise OSError(code, os.strerror(code)) from error
        draft.chmod(mode)


@contextmanager
def _draft_file(path: Path) -> Iterator[Path]:
    draft = _beside(path)
    try:
        with writing(path):
            yield draft
            sync(draft)
            draft.replace(path)
            sync(path.parent)
    finally:
        # A folder that could not be entered has no draft in it.
        with suppress(OSError):
            draft.unlink(missing_ok=True)


@contextmanager
def _inside(draft: Path, path: Path) -> Iterator[None]:
    """Errors of writing into `draft` are told of `path`; those of reading something else are left as they are."""
    try:
        yield
    except shutil.Error as error:
        # Copying a folder collects what failed: (from, to, why).
        failed = error.args[0] if error.args and isinstance(error.args[0], list) else []
        why = str(failed[0][2]) if failed and len(failed[0]) == 3 else str(error)
        number = re.search(r"\[Errno (\d+)\]", why)
        code = int(number[1]) if number else errno.EIO
        raise _told(OSError, code, os.strerror(code), path) from error
    except OSError as error:
        own = error.filename is None or str(error.filename).startswith(str(draft))
        own = own or str(error.filename2 or "").startswith(str(draft))
        if error.errno is None or error.strerror is None or not own:
            if str(draft) in str(error) and error.errno is not None:
                # Told of a file of the draft, which nobody knows by that name.
                said = str(error).replace(str(draft), str(path))
                told = type(error)(said)
                told.errno = error.errno
                raise told from error
            raise
        raise _told(type(error), error.errno, error.strerror, path) from error


def _take_place(draft: Path, path: Path) -> None:
    if not path.exists():
        draft.rename(path)
    elif not exchange(draft, path):
        old = _beside(path)
        path.rename(old)
        try:
            draft.rename(path)
        except OSError:
            old.rename(path)
            raise
        shutil.rmtree(old, ignore_errors=True)
    sync(path.parent)


def _beside(path: Path) -> Path:
    """A free name in the folder of `path`: the same file system, so a rename does not copy."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}")

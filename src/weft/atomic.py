"""Writes that are whole or not at all: to a draft beside the place, which then takes the place.

A write that fails (a full disk, an interrupt) leaves what was there before, and no draft. A folder
that stands in the place is moved aside for the instant between two renames, because no file system
renames over a folder with files.
"""

import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor


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
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is a file; give a folder to write to")
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = _beside(path)
    draft.mkdir()
    try:
        yield draft
        for part in draft.rglob("*"):
            _sync(part)
        _sync(draft)
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
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
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
            raise OSError(f"{path} could not be written: {error}") from error
        draft.chmod(mode)


@contextmanager
def _draft_file(path: Path) -> Iterator[Path]:
    draft = _beside(path)
    try:
        yield draft
        _sync(draft)
        draft.replace(path)
        _sync(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def _take_place(draft: Path, path: Path) -> None:
    if not path.exists():
        draft.rename(path)
    else:
        old = _beside(path)
        path.rename(old)
        try:
            draft.rename(path)
        except OSError:
            old.rename(path)
            raise
        shutil.rmtree(old, ignore_errors=True)
    _sync(path.parent)


def _beside(path: Path) -> Path:
    """A free name in the folder of `path`: the same file system, so a rename does not copy."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}")


def _sync(path: Path) -> None:
    """Wait until the disk has what was written to a file, or the names in a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

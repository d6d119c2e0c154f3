"""The digest of a base: which tensors it has, and every byte of them.

Two checkpoints have one digest exactly when they hold the same tensors by name, type, shape and
bytes; the order in the file, its metadata and how it is cut into shards do not count. It is a
SHA-256 tree: chunks of 16 MiB are hashed in threads, and the sorted list of (name, type, shape,
chunk hashes) is hashed at the end, so neither the number of threads nor their order can show.
Digests of files are kept beside the identity of the files, so a base is read once.

Why our own: a hash of the files, as the hub and safetensors' own have it, changes with shards, metadata and order.
"""

import hashlib
import json
import logging
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from safetensors import safe_open
from torch import Tensor

from weft import guard
from weft.base.pickled import pickled_tensors

CHUNK_BYTES = 16 * 2**20
"""Part of the digest's definition: another size gives other digests."""

_TYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""Safetensors' names, so that tensors in memory and in a file have the same digest."""
_SIZES = {name: dtype.itemsize for dtype, name in _TYPE_NAMES.items()}

_LONGEST_HEADER = 100_000_000
"""Bytes; what the safetensors library reads at most."""

_SETTLED_NS = 2 * 10**9
"""Age at which a file's times surely differ from those of a later write (FAT counts in 2 s)."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a checkpoint's file: its type, shape, and place in a safetensors file in bytes."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    start: int = 0
    stop: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes that it takes, 8 a number where the type is none of those that are known."""
        return math.prod(self.shape) * _SIZES.get(self.dtype, 8)


@dataclass(frozen=True)
class _Leaf:
    name: str
    dtype: str
    shape: tuple[int, ...]
    num_bytes: int
    read: Callable[[int, int], memoryview]


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """Digest of tensors in memory, 64 hexadecimal digits; equal to that of a file holding them."""
    return _digest([_leaf_of(name, tensor) for name, tensor in tensors.items()])


def checkpoint_digest(files: Sequence[Path]) -> str:
    """Digest of every tensor in the files of one checkpoint (all shards), cached.

    It is the same whether safetensors or `.bin` files hold them.

    Raises:
        ValueError: If a file is cut short or damaged, or two files hold one tensor.
    """
    return _cached("tensors", files, lambda: _digest(_leaves_of(files)))


def file_sha256(path: Path) -> str:
    """SHA-256 of a whole file, as `sha256sum` prints it, cached."""

    def compute() -> str:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    return _cached("sha256", [path], compute)


def stored_tensors(files: Sequence[Path]) -> dict[str, StoredTensor]:
    """The tensors of a checkpoint by name, from the headers of its files alone.

    Raises:
        ValueError: If a file is cut short or damaged, or two files hold one tensor.
    """
    found: dict[str, StoredTensor] = {}
    for path in files:
        for name, tensor in (_listed(path) if _is_pickled(path) else _header(path)).items():
            if name in found:
                raise ValueError(f"{found[name].path} and {path} both hold the tensor {name!r}")
            found[name] = tensor
    return found


def read_tensors(tensors: Mapping[str, StoredTensor]) -> dict[str, Tensor]:
    """Those tensors of a checkpoint, named as it names them, in host memory; each file is opened once."""
    found: dict[str, Tensor] = {}
    for path in dict.fromkeys(tensor.path for tensor in tensors.values()):
        names = [name for name, tensor in tensors.items() if tensor.path == path]
        if _is_pickled(path):
            stored = pickled_tensors(path)
            found |= {name: stored[name].clone() for name in names}
        else:
            with safe_open(path, "pt") as file:
                found |= {name: file.get_tensor(name) for name in names}
    return found


def cache_file() -> Path:
    """Where digests are kept: `digests.json` in folder `WEFT_CACHE`, else in `~/.cache/weft`."""
    return Path(os.environ.get("WEFT_CACHE") or Path.home() / ".cache" / "weft") / "digests.json"


def _is_pickled(path: Path) -> bool:
    return path.suffix == ".bin"


def _listed(path: Path) -> dict[str, StoredTensor]:
    return {
        name: StoredTensor(path, _type_name(name, tensor), tuple(tensor.shape))
        for name, tensor in pickled_tensors(path).items()
    }


def _header(path: Path) -> dict[str, StoredTensor]:
    with guard.opened(path) as file:
        size = path.stat().st_size
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or 8 + length > size:
            raise ValueError(f"{path} is cut short or no safetensors file: it has {size} bytes")
        if length > _LONGEST_HEADER:
            raise ValueError(f"{path} is damaged: its header is {length} bytes long")
        text = file.read(length)
    header = guard.parse_json(text.decode("utf-8", "replace"), f"{path}: its header")
    if not isinstance(header, dict):
        raise ValueError(f"{path} is not a safetensors file: its header is not a JSON mapping")
    header.pop("__metadata__", None)
    first = 8 + length
    stored = {name: _entry(path, name, entry, first) for name, entry in header.items()}
    expected = max((tensor.stop for tensor in stored.values()), default=first)
    if size != expected:
        raise ValueError(
            f"{path} is damaged: its header describes {expected} bytes, the file has {size}; "
            "copy or download it again"
        )
    return stored


def _entry(path: Path, name: str, entry: Any, first: int) -> StoredTensor:
    """What a header says of one tensor; `first` is where its file's tensors begin."""
    match entry:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [int(begin), int(stop)]} if (
            all(type(size) is int and size >= 0 for size in shape) and 0 <= begin <= stop
        ):
            return StoredTensor(path, dtype, tuple(shape), first + begin, first + stop)
    raise ValueError(f"{path} is damaged: its header says of {name!r} {entry!r:.100}")


def _type_name(name: str, tensor: Tensor) -> str:
    if tensor.dtype not in _TYPE_NAMES:
        known = ", ".join(_TYPE_NAMES.values())
        raise ValueError(f"tensor {name!r} has type {tensor.dtype}; a digest knows {known}")
    return _TYPE_NAMES[tensor.dtype]


def _leaf_of(name: str, tensor: Tensor) -> _Leaf:
    kind = _type_name(name, tensor)
    flat = tensor.detach().reshape(-1).view(torch.uint8)
    return _Leaf(
        name,
        kind,
        tuple(tensor.shape),
        flat.numel(),
        # Moved to host memory chunk by chunk, so a base on an accelerator is never copied whole.
        lambda start, stop: flat[start:stop].cpu().numpy().data,
    )


def _leaves_of(files: Sequence[Path]) -> list[_Leaf]:
    stored = stored_tensors(files)
    maps = {
        path: np.memmap(path, dtype=np.uint8, mode="r") for path in files if not _is_pickled(path)
    }
    pickled = {path: pickled_tensors(path) for path in files if _is_pickled(path)}

    def leaf(name: str, tensor: StoredTensor) -> _Leaf:
        if tensor.path in pickled:
            return _leaf_of(name, pickled[tensor.path][name])
        data = maps[tensor.path][tensor.start : tensor.stop]
        return _Leaf(name, tensor.dtype, tensor.shape, len(data), lambda a, b: data[a:b].data)

    return [leaf(name, tensor) for name, tensor in stored.items()]


def _digest(leaves: Sequence[_Leaf]) -> str:
    def chunk_hash(job: tuple[_Leaf, int]) -> str:
        leaf, index = job
        chunk = leaf.read(index * CHUNK_BYTES, min((index + 1) * CHUNK_BYTES, leaf.num_bytes))
        return hashlib.sha256(chunk).hexdigest()

    jobs = [
        (leaf, index) for leaf in leaves for index in range(math.ceil(leaf.num_bytes / CHUNK_BYTES))
    ]
    # hashlib lets other threads run while it hashes; map keeps the order of the jobs.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        hashes = list(pool.map(chunk_hash, jobs))
    by_name: dict[str, list[str]] = {leaf.name: [] for leaf in leaves}
    for (leaf, _), digest in zip(jobs, hashes, strict=True):
        by_name[leaf.name].append(digest)
    listing = sorted([leaf.name, leaf.dtype, leaf.shape, by_name[leaf.name]] for leaf in leaves)
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest()


def _cached(kind: str, files: Sequence[Path], compute: Callable[[], str]) -> str:
    """What `compute` returns for `files`, or what it returned when they were last the same."""
    before = _identity(files)
    started = time.time_ns()
    key = json.dumps([kind, *(path for path, *_ in before)])
    entry = _read_cache().get(key)
    if entry and entry["files"] == before:
        return entry["digest"]
    digest = compute()
    if _identity(files) != before:
        raise ValueError(f"{before[0][0]} changed while it was read; try again when it is complete")
    if all(max(times) < started - _SETTLED_NS for _, _, _, *times in before):
        _store(key, {"files": before, "digest": digest})
    return digest


def _identity(files: Sequence[Path]) -> list[list[Any]]:
    """By file: path, size, inode, and the times of the last change of content and of anything."""
    resolved = sorted(path.resolve() for path in files)
    stats = [path.stat() for path in resolved]
    return [
        [str(path), stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns]
        for path, stat in zip(resolved, stats, strict=True)
    ]


def _read_cache() -> dict[str, Any]:
    try:
        entries = guard.read_json(cache_file(), guard.RECORDS)
    except ValueError:
        # Absent or damaged: nothing but time is lost.
        return {}
    return entries if isinstance(entries, dict) else {}


def _store(key: str, entry: dict[str, Any]) -> None:
    file = cache_file()
    draft = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{file}.lock"):
            draft.write_text(json.dumps({**_read_cache(), key: entry}, indent=1), encoding="utf-8")
            draft.replace(file)
    except OSError as error:
        _log.warning("digests cannot be kept in %s (%s); they are computed each time", file, error)

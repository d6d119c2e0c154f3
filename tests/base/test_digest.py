"""The digest covers every byte, and nothing but the tensors."""

import hashlib
import json
import os
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from weft.base.digest import (
    CHUNK_BYTES,
    cache_file,
    checkpoint_digest,
    file_sha256,
    stored_tensors,
    tensors_digest,
)


@pytest.fixture
def tensors() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "big": torch.randn(5, 2**20 + 3, generator=generator),
        "b": torch.randn(4, 6, generator=generator).bfloat16(),
        "half": torch.randn(3, generator=generator).half(),
        "a": torch.arange(6).reshape(2, 3),
        "empty": torch.zeros(0, 7),
        "scalar": torch.tensor(True),
    }


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEFT_CACHE", str(tmp_path / "cache"))


def saved(tensors: dict[str, Tensor], path: Path, age_s: float = 10) -> Path:
    """`tensors` in a file that was last written `age_s` ago."""
    save_file(tensors, path, metadata={"written": path.name})
    written = time.time() - age_s
    os.utime(path, (written, written))
    return path


def by_hand(tensors: dict[str, Tensor], names: dict[torch.dtype, str]) -> str:
    """The definition in plain words: one chunk after the other, then the sorted list."""
    rows = []
    for name in sorted(tensors):
        data = bytes(tensors[name].reshape(-1).view(torch.uint8).numpy())
        chunks = [data[at : at + CHUNK_BYTES] for at in range(0, len(data), CHUNK_BYTES)]
        hashes = [hashlib.sha256(chunk).hexdigest() for chunk in chunks]
        rows.append([name, names[tensors[name].dtype], list(tensors[name].shape), hashes])
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def test_digest_is_the_definition(tensors: dict[str, Tensor]) -> None:
    names = {
        torch.float32: "F32",
        torch.bfloat16: "BF16",
        torch.float16: "F16",
        torch.int64: "I64",
        torch.bool: "BOOL",
    }
    assert tensors_digest(tensors) == by_hand(tensors, names)


def test_file_and_memory_have_one_digest(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    file = saved(tensors, tmp_path / "model.safetensors")
    assert checkpoint_digest([file]) == tensors_digest(tensors)


def test_shards_order_metadata_and_strides_do_not_count(
    tensors: dict[str, Tensor], tmp_path: Path
) -> None:
    first = saved({name: tensors[name] for name in ("b", "empty", "scalar")}, tmp_path / "1")
    second = saved({name: tensors[name] for name in ("big", "a", "half")}, tmp_path / "2")
    strided = {name: tensors[name] for name in reversed(tensors)}
    strided["b"] = tensors["b"].T.contiguous().T
    assert not strided["b"].is_contiguous()
    expected = tensors_digest(tensors)
    assert checkpoint_digest([first, second]) == expected
    assert checkpoint_digest([second, first]) == expected
    assert tensors_digest(strided) == expected


@given(st.integers(0, 2**23 - 1), st.integers(0, 7))
def test_every_bit_counts(at: int, bit: int) -> None:
    data = torch.zeros(2**23, dtype=torch.uint8)
    plain = tensors_digest({"w": data})
    data[at] = 1 << bit
    assert tensors_digest({"w": data}) != plain


def test_last_byte_of_a_large_tensor_counts(tensors: dict[str, Tensor]) -> None:
    plain = tensors_digest(tensors)
    tensors["big"].view(torch.uint8)[-1, -1] ^= 1
    assert tensors_digest(tensors) != plain


def test_name_type_and_shape_count() -> None:
    zeros = torch.zeros(2, 6)
    variants = [
        {"w": zeros},
        {"v": zeros},
        {"w": zeros.reshape(3, 4)},
        {"w": zeros.int()},
        {"w": zeros, "v": torch.zeros(0)},
        {"w": zeros[:1], "v": zeros[1:]},
    ]
    assert len({tensors_digest(variant) for variant in variants[:3] + variants[4:]}) == 5
    with pytest.raises(ValueError, match=r"'w' has type torch.complex64"):
        tensors_digest({"w": zeros.to(torch.complex64)})
    assert tensors_digest(variants[3]) != tensors_digest(variants[0])


def test_second_reading_comes_from_the_cache(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    file = saved(tensors, tmp_path / "model.safetensors")
    link = tmp_path / "link"
    link.symlink_to(file)
    # The change time cannot be set back, so the file has to age.
    time.sleep(2.1)
    digest = checkpoint_digest([file])
    entries = json.loads(cache_file().read_text())
    assert [entry["digest"] for entry in entries.values()] == [digest]
    (entry,) = entries.values()
    entry["digest"] = "from the cache"
    cache_file().write_text(json.dumps(entries))
    assert checkpoint_digest([link]) == "from the cache"
    # The same inode, size and modification time: only the content differs.
    before = file.stat()
    tensors["a"][0, 0] += 1
    file.write_bytes(saved(tensors, tmp_path / "model.safetensorz").read_bytes())
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = file.stat()
    assert (after.st_ino, after.st_size, after.st_mtime_ns) == (
        before.st_ino,
        before.st_size,
        before.st_mtime_ns,
    )
    assert checkpoint_digest([file]) == tensors_digest(tensors)


def test_a_file_just_written_is_not_cached(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    file = saved(tensors, tmp_path / "model.safetensors", age_s=0)
    checkpoint_digest([file])
    assert not cache_file().exists()


def test_a_damaged_cache_is_written_anew(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    file = saved(tensors, tmp_path / "model.safetensors")
    cache_file().parent.mkdir()
    cache_file().write_text('{"cut of')
    time.sleep(2.1)
    assert file_sha256(file) == hashlib.sha256(file.read_bytes()).hexdigest()
    assert len(json.loads(cache_file().read_text())) == 1


def test_a_cache_that_cannot_be_written_costs_only_time(
    tensors: dict[str, Tensor], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = saved(tensors, tmp_path / "model.safetensors")
    (tmp_path / "cache").write_text("a file where the folder should be")
    time.sleep(2.1)
    assert checkpoint_digest([file]) == tensors_digest(tensors)
    assert "cannot be kept" in caplog.text


def test_processes_share_the_cache_without_losses(tmp_path: Path) -> None:
    files = [
        saved({"w": torch.full((number + 1,), 1.0)}, tmp_path / f"{number}.safetensors")
        for number in range(24)
    ]
    time.sleep(2.1)
    with ProcessPoolExecutor(3, mp_context=get_context("spawn")) as pool:
        digests = list(pool.map(file_sha256, files))
    entries = json.loads(cache_file().read_text())
    assert sorted(entry["digest"] for entry in entries.values()) == sorted(digests)
    assert [path.name for path in cache_file().parent.glob("digests.json.*")] == [
        "digests.json.lock"
    ]


def test_a_file_cut_short_is_refused(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    file = saved(tensors, tmp_path / "model.safetensors")
    whole = file.read_bytes()
    for kept in (0, 5, 100, len(whole) - 1):
        file.write_bytes(whole[:kept])
        with pytest.raises(ValueError, match=r"model.safetensors is (cut short|damaged)"):
            stored_tensors([file])
    file.write_bytes((4).to_bytes(8, "little") + b"null")
    with pytest.raises(ValueError, match="not a safetensors file"):
        stored_tensors([file])


@pytest.mark.parametrize(
    "header",
    [
        "[" * 50_000 + "]" * 50_000,
        '{"a": {"shape": [1], "data_offsets": [0, 4]}}',
        '{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}',
        '{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}',
        '{"a": {"dtype": "F32", "shape": 1, "data_offsets": [0, 4]}}',
        '{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0]}}',
        '{"a": 3}',
        '{"a"',
    ],
)
def test_a_header_that_says_nonsense_is_refused(header: str, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header.encode() + bytes(4))
    with pytest.raises(ValueError, match=r"model\.safetensors") as told:
        stored_tensors([file])
    assert len(str(told.value)) < 500


def test_a_base_that_is_a_device_is_refused() -> None:
    with pytest.raises(ValueError, match="/dev/zero: is a device"):
        stored_tensors([Path("/dev/zero")])


def test_two_shards_with_one_tensor_are_refused(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    files = [saved({"a": tensors["a"]}, tmp_path / name) for name in ("1", "2")]
    with pytest.raises(ValueError, match="both hold the tensor 'a'"):
        checkpoint_digest(files)

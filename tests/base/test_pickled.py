"""Weights that exist only as `.bin` are read as tensors, and as nothing else."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from weft.base.loading import Base, checkpoint_tensors, load_base
from weft.base.locate import checkpoint_files
from weft.base.pickled import pickled_tensors

Folder = Callable[[str], Path]


@pytest.fixture
def whole(tiny_folder: Folder) -> Base:
    return load_base(str(tiny_folder("bert")))


@pytest.fixture
def stored(whole: Base) -> dict[str, torch.Tensor]:
    return load_file(whole.files[0])


@pytest.fixture
def bare(tiny_folder: Folder, tmp_path: Path) -> Path:
    """The checkpoint without its weights."""
    folder = Path(shutil.copytree(tiny_folder("bert"), tmp_path / "bert"))
    (folder / "model.safetensors").unlink()
    return folder


def check_same(base: Base, whole: Base) -> None:
    assert base.digest == whole.digest
    assert base.missing == whole.missing
    assert_close(base.trunk.state_dict(), whole.trunk.state_dict(), rtol=0, atol=0)
    assert base.pooler is not None
    assert whole.pooler is not None
    assert_close(base.pooler.state_dict(), whole.pooler.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("archive", [True, False])
def test_a_bin_file_is_the_base_that_safetensors_are(
    archive: bool, bare: Path, stored: dict[str, torch.Tensor], whole: Base
) -> None:
    # False writes as torch did before 1.6, as many old repositories still have it.
    torch.save(stored, bare / "pytorch_model.bin", _use_new_zipfile_serialization=archive)
    base = load_base(str(bare))
    check_same(base, whole)
    name = "cls.predictions.transform.dense.weight"
    assert_close(checkpoint_tensors(base, [name])[name], stored[name], rtol=0, atol=0)


def test_shards_with_an_index_are_one_checkpoint(
    bare: Path, stored: dict[str, torch.Tensor], whole: Base
) -> None:
    names = sorted(stored)
    shards = {f"pytorch_model-0000{at + 1}-of-00002.bin": names[at::2] for at in range(2)}
    for shard, own in shards.items():
        torch.save({name: stored[name].clone() for name in own}, bare / shard)
    places = {name: shard for shard, own in shards.items() for name in own}
    index = bare / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    check_same(load_base(str(bare)), whole)
    (bare / next(iter(shards))).rename(bare / "elsewhere")
    with pytest.raises(
        ValueError, match=r"lacks pytorch_model-00001-of-00002\.bin, which its index"
    ):
        load_base(str(bare))
    index.write_text(json.dumps({"weight_map": {names[0]: "../elsewhere"}}))
    with pytest.raises(ValueError, match="names files outside its folder"):
        load_base(str(bare))
    for damaged in ("{", "[]", '{"weight_map": 3}', '{"weight_map": {"a": []}}'):
        index.write_text(damaged)
        with pytest.raises(ValueError, match=r"index\.json is damaged|names files outside"):
            load_base(str(bare))


def test_safetensors_come_first(bare: Path, whole: Base, stored: dict[str, torch.Tensor]) -> None:
    torch.save({name: value + 1 for name, value in stored.items()}, bare / "pytorch_model.bin")
    shutil.copy(whole.files[0], bare / "model.safetensors")
    assert checkpoint_files(bare) == (bare / "model.safetensors",)
    check_same(load_base(str(bare)), whole)


class Harm:
    """A pickle that writes a file when it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("plain", [True, False])
def test_a_pickle_of_more_is_refused_before_it_does_anything(
    plain: bool, bare: Path, stored: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    done = tmp_path / "done"
    values = {**stored, "harm": Harm(done)}
    file = bare / "pytorch_model.bin"
    if plain:
        file.write_bytes(pickle.dumps(values, protocol=2))
    else:
        torch.save(values, file)
    with pytest.raises(ValueError, match=r"pytorch_model\.bin is (a pickle of more|damaged)"):
        load_base(str(bare))
    assert not done.exists()


def test_other_things_than_tensors_by_name_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "pytorch_model.bin"
    for values in ([torch.ones(2)], {"state": {"a": torch.ones(2)}}, {3: torch.ones(2)}):
        torch.save(values, file)
        with pytest.raises(ValueError, match="holds more than tensors by name"):
            pickled_tensors(file)


@pytest.mark.parametrize("left", [0, 1, 3, 100, 0.5, 0.99])
def test_a_file_cut_short_is_refused(
    left: float, bare: Path, stored: dict[str, torch.Tensor]
) -> None:
    file = bare / "pytorch_model.bin"
    torch.save(stored, file)
    data = file.read_bytes()
    file.write_bytes(data[: int(left * len(data)) if isinstance(left, float) else left])
    with pytest.raises(ValueError, match=r"pytorch_model\.bin is (empty|damaged|a pickle of more)"):
        load_base(str(bare))


def test_a_repository_without_safetensors_loads_from_the_cache_of_the_hub(
    bare: Path, stored: dict[str, torch.Tensor], tmp_path: Path, whole: Base
) -> None:
    torch.save(stored, bare / "pytorch_model.bin")
    commit = "0123456789abcdef0123456789abcdef01234567"
    repo = tmp_path / "hub" / "models--weft-tests--old"
    shutil.copytree(bare, repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    code = "from weft.base.loading import load_base; print(load_base('weft-tests/old').digest)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == whole.digest, done.stderr

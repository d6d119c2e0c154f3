"""Commands on a disk that is full: a sentence, nothing in the way of the next try."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from weft.runs import RunFolder

Say = Callable[..., Any]


@pytest.fixture
def resized(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A disk whose size the test chooses, and may change."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(disk)]
    if (
        shutil.which("mount") is None
        or subprocess.run(mount, check=False, capture_output=True).returncode
    ):
        pytest.skip("a small disk can be mounted by root alone, where the system lets it")

    def resize(size: str) -> Path:
        subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True)
        return disk

    yield resize
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("size", ["4k", "16k"])
def test_a_training_or_mix_that_finds_no_room_leaves_room_for_the_next_try(
    say: Say, config: Path, trained: RunFolder, resized: Callable[[str], Path], size: str
) -> None:
    out = resized(size) / "run"
    mixed = ["mix", trained.path, "--mixture", "xlora", "--set", "training.max_steps=2"]
    for command in (["train", config], [*mixed, "--set", "device=cpu"]):
        said = say(*command, "--out", out, "--quiet")
        assert said.code == 2
        assert said.err.startswith(f"weft: {out}")
        assert "could not be written: No space left on device; free some space" in said.err
        assert not out.exists()
        resized("64m")
        said = say(*command, "--out", out, "--quiet")
        assert (said.code, said.err) == (0, "")
        assert RunFolder.open(out).is_complete
        shutil.rmtree(out)
        resized(size)


def test_a_report_that_finds_no_room_is_written_by_the_next_try(
    say: Say, trained: RunFolder, resized: Callable[[str], Path]
) -> None:
    out = resized("16k") / "report"
    said = say("report", trained.path, "--out", out)
    assert said.code == 2
    assert "report.html could not be written: No space left on device; free some space" in said.err
    resized("64m")
    said = say("report", trained.path, "--out", out)
    assert said.code == 0, said.err
    assert {"report.html", "report.md"} <= {path.name for path in out.iterdir()}
    assert not list(out.rglob(".*"))


@pytest.mark.parametrize("size", ["4k", "16k"])
def test_a_merge_that_finds_no_room_leaves_nothing_and_is_made_by_the_next_try(
    say: Say, trained: RunFolder, resized: Callable[[str], Path], size: str
) -> None:
    out = resized(size) / "both"
    merged = ["merge", trained.path, "--weights", "0.5", "--no-scores", "--out", out]
    said = say(*merged)
    assert said.code == 2
    assert "could not be written: No space left on device; free some space" in said.err
    assert not list(out.parent.iterdir())
    resized("64m")
    said = say(*merged)
    assert (said.code, said.err) == (0, "")
    assert RunFolder.open(out).expert.is_dir()

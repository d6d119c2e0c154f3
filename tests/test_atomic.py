"""Writes that are whole or not at all."""

import errno
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from weft.atomic import atomic_folder, write_tensors, write_text


def tree(folder: Path) -> dict[str, bytes]:
    """Content by relative path of every file below, hidden ones too."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_a_folder_appears_with_everything_in_it(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "a" / "b") as draft:
        assert draft.parent == tmp_path / "a"
        assert not (tmp_path / "a" / "b").exists()
        (draft / "inner").mkdir()
        (draft / "inner" / "x").write_text("1")
        (draft / "y").write_text("2")
    assert tree(tmp_path) == {"a/b/inner/x": b"1", "a/b/y": b"2"}


def test_a_folder_takes_the_place_of_an_older_one_whole(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "old").write_text("1")
    with atomic_folder(tmp_path / "a") as draft:
        (draft / "new").write_text("2")
        assert tree(tmp_path / "a") == {"old": b"1"}
    assert tree(tmp_path) == {"a/new": b"2"}
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failed_folder_leaves_the_older_one_and_no_draft(
    tmp_path: Path, error: type[BaseException]
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "old").write_text("1")

    def fail() -> None:
        with atomic_folder(tmp_path / "a") as draft:
            (draft / "new").write_text("2")
            raise error("in the middle")

    with pytest.raises(error, match="in the middle"):
        fail()
    assert tree(tmp_path) == {"a/old": b"1"}
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_file_in_the_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    with (
        pytest.raises(ValueError, match=r"a is a file; give a folder"),
        atomic_folder(tmp_path / "a"),
    ):
        pass
    assert tree(tmp_path) == {"a": b"1"}


def test_text_is_utf8_with_its_line_ends(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "old")
    write_text(tmp_path / "a", "é\nb\n")
    assert tree(tmp_path) == {"a": "é\nb\n".encode()}


def test_tensors_come_back_and_equal_tensors_are_equal_bytes(tmp_path: Path) -> None:
    tensors = {"b": torch.arange(6.0).view(2, 3).T, "a": torch.ones(2, dtype=torch.bfloat16)}
    write_tensors(tmp_path / "1", tensors)
    write_tensors(tmp_path / "2", dict(reversed(tensors.items())))
    found = load_file(tmp_path / "1")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_tensors_may_be_read_by_whom_any_new_file_may(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    write_tensors(tmp_path / "a", {"a": torch.ones(2)})
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "a")}
    assert len(modes) == 1


FULL_DISK = """
import resource, sys, torch
from pathlib import Path
from weft.atomic import atomic_folder, write_tensors, write_text
folder = Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
big = torch.ones(10_000)
writes = {
    "folder": lambda: write_tensors(draft / "big", {"big": big}),
    "tensors": lambda: write_tensors(folder / "file", {"big": big}),
    "text": lambda: write_text(folder / "file", "x" * 10_000),
}
try:
    if sys.argv[2] == "folder":
        with atomic_folder(folder / "sub") as draft:
            write_text(draft / "small", "fits")
            writes["folder"]()
    else:
        writes[sys.argv[2]]()
except OSError as error:
    sys.exit(f"OSError: {error}")
"""


@pytest.mark.parametrize("what", ["folder", "tensors", "text"])
def test_a_disk_that_refuses_in_the_middle_changes_nothing(tmp_path: Path, what: str) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "old").write_text("1")
    (tmp_path / "file").write_text("old")
    before = tree(tmp_path)
    # Python ignores SIGXFSZ, so a write beyond the limit is an error like that of a full disk.
    result = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path), what],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ,
    )
    assert result.returncode == 1
    assert result.stderr.startswith("OSError: ")
    assert "File too large" in result.stderr
    assert tree(tmp_path) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "sub"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if (
        shutil.which("mount") is None
        or subprocess.run(mount, check=False, capture_output=True).returncode
    ):
        pytest.skip("a small disk can be mounted by root alone, where the system lets it")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


BIG = torch.ones(100_000)


@pytest.mark.parametrize(
    ("what", "write"),
    [
        ("file", lambda path: write_text(path, "x" * 400_000)),
        ("file", lambda path: write_tensors(path, {"big": BIG})),
        (
            "folder",
            lambda path: _folder(path, lambda draft: write_tensors(draft / "a", {"b": BIG})),
        ),
        ("folder", lambda path: _folder(path, lambda draft: _grow(draft / "raw"))),
        ("folder", lambda path: _folder(path, _copied)),
    ],
    ids=["text", "tensors", "tensors in a folder", "a file in a folder", "a copied folder"],
)
def test_a_full_disk_is_told_by_what_was_written_and_what_to_do(
    small_disk: Path, what: str, write: Callable[[Path], None]
) -> None:
    path = small_disk / what
    with pytest.raises(OSError, match=r"could not be written") as caught:
        write(path)
    said = str(caught.value)
    assert said.startswith(str(path))
    assert said.endswith(
        "No space left on device; free some space, or choose a place on another disk"
    )
    assert caught.value.errno == errno.ENOSPC
    assert list(small_disk.iterdir()) == []
    write_text(path, "fits")


def _folder(path: Path, fill: Callable[[Path], object]) -> None:
    with atomic_folder(path) as draft:
        fill(draft)


def _grow(path: Path) -> None:
    with path.open("wb") as file:
        file.write(b"x" * 400_000)


def _copied(draft: Path) -> None:
    with tempfile.TemporaryDirectory() as source:
        _grow(Path(source) / "a")
        shutil.copytree(source, draft / "copy")


def test_a_disk_that_may_only_be_read_is_told(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    said = f"^{small_disk / 'a'}.* could not be written: Read-only file system; choose a place that can be written$"
    with pytest.raises(OSError, match=said):
        write_text(small_disk / "a", "x")
    with pytest.raises(OSError, match=said):
        _folder(small_disk / "a", lambda draft: None)
    with pytest.raises(OSError, match=said):
        _folder(small_disk / "a" / "below", lambda draft: None)


def test_a_folder_that_may_not_be_entered_is_told(tmp_path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; from weft.atomic import atomic_folder, write_text\n"
        "os.setuid(65534)\n"
        "for write in (write_text, lambda path, _: atomic_folder(path).__enter__()):\n"
        "    try: write(Path(sys.argv[1]), 'x')\n"
        "    except PermissionError as error: print(error)\n"
    )
    if os.getuid() != 0:
        pytest.skip("only root can become somebody who has no rights")
    tmp_path.chmod(0o755)
    place = Path(tempfile.mkdtemp()) / "a"
    result = subprocess.run(
        [sys.executable, "-c", script, str(place)], capture_output=True, text=True, check=True
    )
    place.parent.rmdir()
    advice = "Permission denied; choose another place, or get the right to write there"
    assert result.stdout.splitlines() == [f"{place} could not be written: {advice}"] * 2


def test_what_fails_while_something_else_is_read_is_not_told_as_writing(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"^\[Errno 2\] No such file or directory: '/nowhere'"
    ):
        _folder(tmp_path / "a", lambda draft: Path("/nowhere").read_text())


def test_a_folder_changes_places_with_its_draft_in_one_step(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path; from weft.atomic import atomic_folder\n"
        "path = Path(sys.argv[1])\n"
        "def kill(event, given):\n"
        "    if event == 'shutil.rmtree' or (event == 'os.rename' and str(path) in map(str, given)):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "with atomic_folder(path) as draft:\n"
        "    (draft / 'new').write_text('2')\n"
        "    sys.addaudithook(kill)\n"
    )
    if sys.platform != "linux":
        pytest.skip("other systems have no such step")
    path = tmp_path / "a"
    path.mkdir()
    (path / "old").write_text("1")
    result = subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    assert result.returncode == -signal.SIGKILL
    assert tree(path) == {"new": b"2"}

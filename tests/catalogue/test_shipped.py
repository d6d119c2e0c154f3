"""Configs and examples are laid out whole, and nothing of the user's is written over."""

from pathlib import Path

import pytest

from weft.catalogue.shipped import PARTS, lay_out, shipped

ROOT = Path(__file__).parents[2]


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for part in PARTS
        for path in (folder / part).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_what_is_laid_out_is_the_checkouts(tmp_path: Path) -> None:
    assert lay_out(tmp_path / "new") == [tmp_path / "new" / part for part in PARTS]
    assert files_of(tmp_path / "new") == files_of(ROOT)
    assert shipped() == ROOT


def test_a_folder_that_is_there_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "examples").mkdir()
    with pytest.raises(ValueError, match="examples is there already; give another folder"):
        lay_out(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["examples"]

"""Small tasks, experts of them, and a generator that has seen all but the last."""

from collections.abc import Callable
from pathlib import Path

import pytest

import weft
from tests.generating.runs import SETTINGS, WORDS, runs_of, write_tasks
from tests.merging.runs import Made


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the tasks."""
    return write_tasks(tmp_path_factory.mktemp("words"))


@pytest.fixture(scope="module")
def made(
    tiny_folder: Callable[[str], Path], words: Path, tmp_path_factory: pytest.TempPathFactory
) -> Made:
    """Makes runs on the tiny BERT."""
    return Made(tmp_path_factory.mktemp("runs"), tiny_folder("bert"), words)


@pytest.fixture(scope="module")
def runs(made: Made) -> list[Path]:
    """A run of each task."""
    return runs_of(made, WORDS)


@pytest.fixture(scope="module")
def generator(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of all tasks but the last."""
    return weft.learn(runs[:-1], tmp_path_factory.mktemp("made") / "g", settings=SETTINGS)

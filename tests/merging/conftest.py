"""Run folders to merge."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.merging.runs import Made, made_on


@pytest.fixture
def made(tiny_folder: Callable[[str], Path], tasks_folder: Path, tmp_path: Path) -> Made:
    """Makes runs on the tiny BERT."""
    return made_on(tiny_folder, tasks_folder, tmp_path)

"""Tiny bases, pruned."""

from collections.abc import Callable
from pathlib import Path

import pytest

from weft.pruning.prune import prune

Folder = Callable[[str], Path]


@pytest.fixture(scope="session")
def half(tiny_folder: Folder, tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """From a model type to its tiny base, pruned to half by a draw; never to be changed."""
    made: dict[str, Path] = {}

    def folder(model_type: str) -> Path:
        if model_type not in made:
            out = tmp_path_factory.mktemp("half") / model_type
            base = str(tiny_folder(model_type))
            made[model_type] = prune(
                base, out, kind="structured", ratio=0.5, importance="random", seed=7
            )
        return made[model_type]

    return folder

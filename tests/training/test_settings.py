"""A run is completed once: defaults written out, paths absolute, and completing it again changes nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from weft.config import load_run
from weft.methods.recipes import recipe_file
from weft.training.settings import completed

Settings = Callable[..., dict[str, Any]]


def test_a_complete_run_says_what_was_left_open(run_of: Settings) -> None:
    run = run_of("topic", training={"learning_rate": None}, recipe="pissa")
    found = completed(load_run(run)).run
    assert found.training.learning_rate == recipe_file("pissa").training["learning_rate"]
    assert found.recipe.model_dump()["rank"] == 8
    assert completed(found).run == found


def test_paths_are_those_of_the_folder_that_the_run_was_said_in(
    run_of: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own").mkdir()
    monkeypatch.chdir(tmp_path)
    run = run_of("topic") | {"base": "own", "init_from": "own", "data": "rows"}
    found = completed(load_run(run)).run
    assert (found.base, found.init_from) == (str(tmp_path / "own"), str(tmp_path / "own"))
    assert found.task is not None
    assert (found.task.data, found.data) == (str(tmp_path / "rows"), None)


def test_an_alias_is_no_folder_of_its_name(
    run_of: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "minilm").mkdir()
    monkeypatch.chdir(tmp_path)
    assert completed(load_run(run_of("topic") | {"base": "minilm"})).run.base == "minilm"

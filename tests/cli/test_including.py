"""A folder of the user's own gives names to its recipes, sets and grids, for as long as it is included."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import weft
from weft.catalogue.including import grid_file, including
from weft.catalogue.pages import listed
from weft.comparison.grid import load_grid
from weft.config import load_run
from weft.methods.recipes import recipes, resolve
from weft.tasks.sets import sets
from weft.training.settings import completed

RECIPE = {"adapter": "lora", "targets": ["query"], "training": {"learning_rate": 3e-3}}


@pytest.fixture
def own(tmp_path: Path, tasks_folder: Path) -> Path:
    folder = tmp_path / "own"
    shutil.copytree(tasks_folder / "topic", folder / "tasks")
    for name in ("recipes", "grids"):
        (folder / name).mkdir()
    (folder / "recipes" / "mine.yaml").write_text(yaml.safe_dump(RECIPE), encoding="utf-8")
    grid = {
        "tasks": {"topic": {"task": {"name": "topic"}}},
        "recipes": {"mine": {"recipe": {"name": "mine"}, "learning_rates": [1e-3]}},
    }
    (folder / "grids" / "small.yaml").write_text(yaml.safe_dump(grid), encoding="utf-8")
    return folder


def test_names_are_there_inside_and_gone_after(own: Path) -> None:
    before = recipes.names(), sets.names()
    with including(own):
        assert {"mine"} == set(recipes.names()) - set(before[0])
        assert {"topic"} == set(sets.names()) - set(before[1])
        assert grid_file("small") == own / "grids" / "small.yaml"
        assert [entry["name"] for entry in listed("grids")] == ["small"]
        assert "mine" in [entry["name"] for entry in listed("recipes")]
    assert (recipes.names(), sets.names()) == before
    with pytest.raises(ValueError, match=r"no grid named 'small'.*give a grid's YAML file"):
        grid_file("small")


def test_a_run_that_was_completed_inside_needs_the_folder_no_more_for_its_recipe(
    own: Path, run_of: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    run = run_of("topic", training={"max_steps": 2}) | {"task": "topic", "recipe": "mine"}
    with including(own):
        assert completed(load_run(run)).recipe.learning_rate == 3e-3
        folder = weft.train(run, out=tmp_path / "run")
    assert folder.run.task is not None
    assert folder.run.task.name == str(own / "tasks" / "topic.yaml")
    assert weft.evaluate(folder.path)
    shutil.rmtree(own)
    assert weft.predict(folder.path, ["a good film"])


def test_a_grid_loaded_inside_is_whole_outside(own: Path) -> None:
    with including(own):
        grid = load_grid(grid_file("small"))
    assert resolve(grid.recipes["mine"].recipe).settings.targets == ["query"]
    assert grid.tasks["topic"].task.name == str(own / "tasks" / "topic.yaml")


def test_what_cannot_be_included_is_refused_and_leaves_nothing(own: Path, tmp_path: Path) -> None:
    before = recipes.names()
    with pytest.raises(ValueError, match="no such folder"), including(tmp_path / "none"):
        pass
    with (
        pytest.raises(ValueError, match="none of the folders grids, recipes, tasks"),
        including(tmp_path),
    ):
        pass
    (own / "recipes" / "lora.yaml").write_text("x: 1", encoding="utf-8")
    with (
        pytest.raises(ValueError, match=r"lora\.yaml: recipe 'lora' is registered already"),
        including(own),
    ):
        pass
    assert recipes.names() == before


def test_the_command_line_includes_it(own: Path, say: Callable[..., Any]) -> None:
    assert "mine" in say("list", "recipes", "--include", own).out
    page = say("show", "recipe", "mine", "--include", own, "--json").json
    assert (page["recipe"], page["targets"]) == ("mine", ["query"])
    assert say("show", "recipe", own / "recipes" / "mine.yaml", "--json").json == page
    refused = say("show", "recipe", "mine")
    assert (refused.code, refused.out) == (2, "")
    assert "no recipe named 'mine'" in refused.err

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from weft.comparison.grid import Grid, load_grid
from weft.comparison.jobs import planned

Say = Callable[..., Any]


@pytest.fixture
def grid(settings: dict[str, Any], tmp_path: Path) -> Path:
    """LoRA at two rates and the head alone, one seed: four runs."""
    values = {
        "base": settings["base"],
        "tasks": {"moods": {"task": {"name": settings["task"]}}},
        "recipes": {
            "lora": {"recipe": {"name": "lora", "rank": 2}, "learning_rates": [1e-3, 1e-2]},
            "head": {"recipe": {"name": "head"}, "learning_rates": [1e-2]},
        },
        "seeds": [0],
        "training": {"max_steps": 3, "batch_size": 4},
        "device": "cpu",
    }
    path = tmp_path / "moods-grid.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.mark.slow
def test_a_grid_becomes_a_leaderboard_and_runs_only_once(
    grid: Path, say: Say, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    call = ("compare", grid, "--out", out, "--baseline", "head", "--workers", 2)
    said = say(*call, "--json")
    assert said.code == 0, said.err
    assert f"{out}: 4 runs, 0 done, 4 to run" in said.err
    board = said.json
    assert board == json.loads((out / "leaderboard.json").read_text())
    assert {row["recipe"] for row in board["rows"]} == {"lora", "head"}
    assert Grid.model_validate(board["grid"]) == load_grid(grid)
    assert (out / board["figure"]["svg"]).is_file()
    again = say(*call)
    assert again.code == 0, again.err
    assert f"{out}: 4 runs, 4 done, 0 to run" in again.err
    assert json.loads((out / "leaderboard.json").read_text()) == board
    for words in ("moods on", "minus head", "sd over seeds", "peak MiB", "rates tried"):
        assert words in again.out.replace("\n", " "), words
    # One more rate: another grid, whose runs are mostly there.
    more = ("--set", "recipes.head.learning_rates=[0.01, 0.02]")
    refused = say(*call, *more)
    assert (refused.code, refused.out) == (2, "")
    assert "--extend" in refused.err
    plans = planned(load_grid(grid, [more[1]]), out)
    assert {plan.cell.recipe: plan.done for plan in plans} == {"lora": 3, "head": 0}


@pytest.mark.slow
def test_failed_runs_are_shown_and_the_rest_is_done(grid: Path, say: Say, tmp_path: Path) -> None:
    out = tmp_path / "out"
    bad = ("--set", "recipes.lora.recipe.targets=[no_such_module]")
    said = say("compare", grid, "--out", out, *bad, "--workers", 2, "--quiet", "--json")
    assert (said.code, said.err) == (1, "")
    assert [row["recipe"] for row in said.json["rows"]] == ["head"]
    assert [line["run"] for line in said.json["failed"]] == [
        f"search/moods/lora/{rate}" for rate in ("0.001", "0.01")
    ]
    assert all("no_such_module" in line["error"] for line in said.json["failed"])
    again = say("compare", grid, "--out", out, *bad, "--workers", 2)
    assert again.code == 1
    assert "4 runs, 1 done, 3 to run, 2 of them failed before" in again.err
    assert "failed: search/moods/lora/0.001: " in again.out


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("--set", "seed=1"), "Did you mean 'seeds'?"),
        (("--set", "recipes.lora.recipe.name=lorra"), "Did you mean 'lora'?"),
        (("--set", "recipes.lora.recipe.rnak=4"), "Did you mean 'rank'?"),
        (("--set", "training.epoch=4"), "Did you mean 'epochs'?"),
        (("--set", "tasks.moods.task.name=mods"), "mods"),
        (("--baseline", "lorra"), "Did you mean 'lora'?"),
    ],
)
def test_what_is_wrong_is_refused_before_any_run(
    change: tuple[str, str], sentence: str, grid: Path, say: Say, tmp_path: Path
) -> None:
    said = say("compare", grid, "--out", tmp_path / "out", *change)
    assert (said.code, said.out) == (2, "")
    assert sentence in said.err
    assert not (tmp_path / "out").exists()

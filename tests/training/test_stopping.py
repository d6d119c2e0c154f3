"""A training whose numbers are none any more stops, whatever its task, and loses nobody else's."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from weft.comparison.comparing import Grid, Unfinished, compare
from weft.comparison.jobs import FAILED, Diverged, planned
from weft.comparison.leaderboard import leaderboard
from weft.runs import RunFolder
from weft.training.loop import train
from weft.training.search import searching
from weft.training.stopping import refuse_divergence

Settings = Callable[..., dict[str, Any]]


@pytest.mark.parametrize(
    "tasks",
    [("topic", "tags"), ("endings",), ("fill",), ("go_on",), ("where",), ("alike",)],
    ids=", ".join,
)
def test_a_training_that_diverges_stops_and_says_what_to_do(
    run_of: Settings, tmp_path: Path, tasks: tuple[str, ...]
) -> None:
    base = "gpt2" if tasks == ("go_on",) else "bert"
    training = {"max_steps": 60, "learning_rate": 1e30, "batch_size": 2}
    with pytest.raises(
        Diverged, match=r"by step [1-5]0 .* lower training.learning_rate than 1e\+30"
    ):
        train(run_of(*tasks, base=base, training=training), out=tmp_path / "lost")
    folder = RunFolder.open(tmp_path / "lost")
    assert not folder.is_complete
    last = json.loads(folder.log.read_text().splitlines()[-1])
    assert last["step"] < 60


def test_a_loss_that_is_no_number_for_once_may_pass(run_of: Settings, tmp_path: Path) -> None:
    class Trained:
        parameters = {"w": torch.ones(2)}

    run = train(run_of("topic"), out=tmp_path / "run").run
    refuse_divergence({"topic": float("inf")}, [Trained()], run, 10)  # type: ignore[list-item]
    Trained.parameters["w"][1] = float("nan")
    refuse_divergence({"topic": 0.5}, [Trained()], run, 10)  # type: ignore[list-item]
    with pytest.raises(Diverged, match="topic"):
        refuse_divergence({"topic": float("inf")}, [Trained()], run, 10)  # type: ignore[list-item]


def grid_of(run: dict[str, Any], rates: dict[str, list[float]]) -> dict[str, Any]:
    return {
        "base": run["base"],
        "tasks": {"topic": {"task": run["task"]}},
        "recipes": {
            name: {"recipe": {"name": name}, "learning_rates": own} for name, own in rates.items()
        },
        "seeds": [0],
        "device": "cpu",
        "training": {"max_steps": 20, "batch_size": 4, "base_dropout": 0.0},
    }


def test_a_rate_that_diverges_loses_the_search_and_no_more(
    run_of: Settings, tmp_path: Path
) -> None:
    grid = grid_of(run_of("topic"), {"lora": [1e-3, 1e30]})
    (row,) = compare(grid, tmp_path / "grid")
    assert row.learning_rate == 1e-3
    assert list(row.searched) == ["0.001"]
    assert compare(grid, tmp_path / "grid") == [row]
    whole = Grid.model_validate(grid)
    board = leaderboard(whole, tmp_path / "grid", [row])
    assert [point["learning_rate"] for point in board["rows"][0]["search"]] == [1e-3]
    assert any("training diverged at 1e+30" in remark for remark in board["remarks"])
    [plan] = planned(whole, tmp_path / "grid")
    assert (plan.runs, plan.done, plan.failed) == (3, 3, 0)


def test_a_search_that_diverges_at_every_rate_is_named_and_tried_again(
    run_of: Settings, tmp_path: Path
) -> None:
    grid = grid_of(run_of("topic"), {"lora": [1e29, 1e30]})
    said: list[int] = []
    for _ in range(2):
        with pytest.raises(Unfinished, match="the same call tries them again") as caught:
            compare(grid, tmp_path / "grid")
        assert [job.is_lost for job in caught.value.failed] == [True, True]
        [plan] = planned(Grid.model_validate(grid), tmp_path / "grid")
        assert (plan.runs, plan.done, plan.failed) == (3, 0, 2)
        said.append(min((job.folder / FAILED).stat().st_mtime_ns for job in caught.value.failed))
    assert said[0] < said[1]


def test_a_recipe_that_diverges_stops_no_other_and_is_named(
    run_of: Settings, tmp_path: Path
) -> None:
    grid = grid_of(run_of("topic"), {"full": [1e30], "lora": [1e-3]})
    with pytest.raises(Unfinished, match=r"full.*Diverged: training has diverged") as caught:
        compare(grid, tmp_path / "grid")
    assert [row.recipe for row in caught.value.rows] == ["lora"]


def test_a_search_whose_rates_diverge_ends_and_keeps_what_it_tried(
    run_of: Settings, tmp_path: Path
) -> None:
    recipe = tmp_path / "wild.yaml"
    recipe.write_text(
        "summary: Far too fast.\npaper: none\ncitation: none\nadapter: lora\n"
        "settings: {rank: 2}\ntargets: [query]\ntraining: {learning_rate: 1.0e+29}\n"
    )
    training = {"max_steps": 60, "learning_rate": "search"}
    run = run_of("topic", training=training, recipe={"name": str(recipe)})
    with pytest.raises(Diverged):
        train(run, out=tmp_path / "run")
    tried = json.loads((tmp_path / "run" / searching.FILE).read_text())["tried"]
    assert tried
    assert {row["score"] for row in tried} == {None}

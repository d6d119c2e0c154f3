"""Recipes compared: rates searched on held-out rows, seeds at the best, nothing run twice."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.comparison.grids import bare
from weft.comparison.comparing import Grid, Job, compare
from weft.comparison.differences import paired_with
from weft.runs import RunFolder
from weft.training.loop import Event, Interrupted, Report

Settings = Callable[..., dict[str, Any]]


def grid_of(run: dict[str, Any]) -> dict[str, Any]:
    return {
        "base": run["base"],
        "tasks": {"topic": {"task": run["task"]}},
        "recipes": {
            "lora": {"recipe": {"name": "lora", "rank": 2}, "learning_rates": [1e-8, 1e-2]},
            "head": {"recipe": {"name": "head"}, "learning_rates": [1e-3]},
        },
        "seeds": [0, 1],
        "training": {"max_steps": 6, "batch_size": 4},
    }


def test_a_comparison_searches_on_held_out_rows_and_repeats_nothing(
    run_of: Settings, tmp_path: Path
) -> None:
    grid = grid_of(run_of("topic"))
    told: list[Path] = []
    rows = compare(grid, tmp_path / "out", told=lambda job, number, total: told.append(job.folder))
    # Two rates searched for lora, one given for head; two seeds for each.
    assert len(told) == len(set(told)) == 2 + 2 + 2
    searched = [folder for folder in told if "search" in folder.parts]
    assert {row["split"] for folder in searched for row in RunFolder(folder).metrics} == {"holdout"}
    lora, head = rows
    best = max(lora.searched, key=lambda rate: lora.searched[rate])
    assert lora.learning_rate == float(best)
    assert lora.on_edge
    assert head.searched == {}
    for row in rows:
        value = row.scores[row.metric]
        assert value.value == pytest.approx(sum(row.by_seed) / 2, abs=1e-12)
        assert value.low <= value.value <= value.high
        assert row.n == 10
    assert compare(grid, tmp_path / "out", told=lambda job, *_: told.append(job.folder)) == rows
    assert len(told) == 6


def test_recipes_are_held_against_one_of_them(run_of: Settings, tmp_path: Path) -> None:
    grid = grid_of(run_of("topic"))
    rows = compare(grid, tmp_path / "out")
    found = paired_with(Grid.model_validate(grid), tmp_path / "out", rows, "head")
    lora, head = (row.scores[row.metric].value for row in rows)
    assert set(found) == {("topic", "lora")}
    contrast = found["topic", "lora"]
    assert contrast.value == pytest.approx(lora - head, abs=1e-12)
    assert contrast.low <= contrast.value <= contrast.high
    assert contrast.p_corrected == contrast.p
    with pytest.raises(KeyError, match=r"no recipe of this comparison named 'haed'\. Did you mean"):
        paired_with(Grid.model_validate(grid), tmp_path / "out", rows, "haed")


def test_an_interrupted_comparison_goes_on_where_it_stopped(
    run_of: Settings, tmp_path: Path
) -> None:
    grid = grid_of(run_of("topic"))
    whole = compare(grid, tmp_path / "whole")

    def stop(job: Job, number: int, total: int) -> Report | None:
        def report(event: Event) -> None:
            if number == 2 and event.step == 3:
                os.kill(os.getpid(), signal.SIGINT)

        return report

    with pytest.raises(Interrupted):
        compare(grid, tmp_path / "broken", told=stop)
    told: list[str] = []
    rows = compare(grid, tmp_path / "broken", told=lambda job, *_: told.append(str(job.folder)))
    assert len(told) == 4
    assert bare(rows) == bare(whole)


def test_a_folder_of_another_grid_is_refused(run_of: Settings, tmp_path: Path) -> None:
    grid = grid_of(run_of("topic"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "grid.yaml").write_text("base: other\n")
    with pytest.raises(ValueError, match="another grid"):
        compare(grid, tmp_path / "out")


def test_settings_that_a_grid_does_not_name_make_no_other_grid(
    run_of: Settings, tmp_path: Path
) -> None:
    grid = Grid.model_validate(grid_of(run_of("topic")))
    rows = compare(grid, tmp_path / "out", recipes=["head"])
    # As it was written when there was one base.
    old = grid.model_dump(mode="json", exclude={"bases"})
    (tmp_path / "out" / "grid.yaml").write_text(yaml.safe_dump(old))
    assert compare(grid, tmp_path / "out", recipes=["head"]) == rows


def test_several_bases_have_folders_of_their_own(run_of: Settings, tmp_path: Path) -> None:
    run = run_of("topic")
    one = grid_of(run)
    alone = compare(one, tmp_path / "out", recipes=["lora"])
    folder = tmp_path / "out"
    best = f"{alone[0].learning_rate:g}"
    assert {str(path.relative_to(folder)) for path in folder.glob("*/topic/lora/[!.]*")} == {
        *("search/topic/lora/0.01", "search/topic/lora/1e-08"),
        *(f"final/topic/lora/{best}-seed{seed}" for seed in (0, 1)),
    }
    both = {key: value for key, value in one.items() if key != "base"}
    both["bases"] = [run["base"], run_of("topic", base="roberta")["base"]]
    grid = Grid.model_validate(both)
    assert Grid.model_validate(grid.model_dump()) == grid
    # Moved into a folder of the base's name, the runs of one base are found again.
    moved = tmp_path / "both" / Path(run["base"]).name
    moved.mkdir(parents=True)
    for name in ("search", "final"):
        (folder / name).rename(moved / name)
    told: list[Path] = []
    rows = compare(
        grid, tmp_path / "both", recipes=["lora"], told=lambda job, *_: told.append(job.folder)
    )
    assert len(told) == 4
    assert {path.relative_to(tmp_path / "both").parts[0] for path in told} == {
        Path(both["bases"][1]).name
    }
    assert [row.base for row in rows] == both["bases"]
    assert rows[0] == alone[0]


@pytest.mark.parametrize(
    ("bases", "sentence"),
    [(["a/one", "b/one"], "two share one"), (["one", "two"], "not 'minilm' beside")],
)
def test_bases_that_cannot_be_told_apart_are_refused(
    bases: list[str], sentence: str, run_of: Settings, tmp_path: Path
) -> None:
    grid = grid_of(run_of("topic")) | {"bases": bases, "base": "minilm"}
    with pytest.raises(ValueError, match=sentence):
        compare(grid, tmp_path / "out")


def test_the_score_is_that_of_the_rows_the_run_was_for(run_of: Settings, tmp_path: Path) -> None:
    grid = grid_of(run_of("topic"))
    rows = compare(grid, tmp_path / "out", recipes=["head"])
    folder = RunFolder(tmp_path / "out" / "final" / "topic" / "head" / "0.001-seed0")
    # Someone evaluates the run on other rows, too, and they come first.
    others = [row | {"split": "test", "value": -1.0} for row in folder.metrics]
    (folder.path / "metrics.json").write_text(json.dumps([*others, *folder.metrics]))
    assert compare(grid, tmp_path / "out", recipes=["head"]) == rows

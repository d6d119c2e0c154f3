import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

import weft
from weft.cli.evaluate import command
from weft.config import Run, Split, TrainingSettings
from weft.runs import RunFolder

Say = Callable[..., Any]


def test_command_and_verb_give_the_same_scores(say: Say, trained: RunFolder) -> None:
    said = say("evaluate", trained.path, "--json")
    found = weft.evaluate(trained.path, save=False)
    assert not isinstance(found, list)
    assert said.json == found.as_json()
    assert said.json["split"] == "validation"
    assert said.json["n"] == 4
    assert set(said.json["scores"]["accuracy"]) == {"value", "low", "high"}


def test_options_reach_the_verb(
    say: Say, trained: RunFolder, own_task: Path, tmp_path: Path
) -> None:
    # Scores of another split stay in the folder that they were asked of.
    run = shutil.copytree(trained.path, tmp_path / "run")
    options = ["--split", "train", "--max-examples", 3, "--precision", "fp64", "--device", "cpu"]
    said = say("evaluate", run, *options, "--data", own_task.parent, "--json")
    assert (said.json["split"], said.json["n"]) == ("train", 3)
    assert {row["split"] for row in RunFolder(run).metrics} == {"train", "validation"}


def test_people_get_percent_with_intervals(say: Say, trained: RunFolder) -> None:
    said = say("evaluate", trained.path)
    score = next(row for row in trained.metrics if row["name"] == "accuracy")
    low, value, high = (f"{100 * score[key]:.1f}" for key in ("low", "value", "high"))
    assert f"{value} ({low} to {high})" in said.out
    assert "4/4 rows" in said.err


def test_people_get_scores_class_by_class(say: Say, trained: RunFolder) -> None:
    details = weft.evaluate(trained.path, save=False).details
    lines = [line.split() for line in say("evaluate", trained.path).out.splitlines()]
    for own in details.classes:
        scores = [f"{100 * value:.1f}" for value in (own.precision, own.recall, own.f1)]
        row = [own.label, *scores, *map(str, (own.support, own.predicted, own.correct))]
        assert any([cell for cell in line if cell != "│"] == row for line in lines)


def test_choices_are_the_settings_own() -> None:
    """The command repeats them, so that its help imports no settings."""
    hints = get_type_hints(command)
    assert get_args(hints["split"]) == get_args(Split)
    assert get_args(hints["device"]) == get_args(Run.model_fields["device"].annotation)
    precision = get_args(hints["precision"])[0]
    assert get_args(precision) == get_args(TrainingSettings.model_fields["precision"].annotation)


@pytest.mark.parametrize("what", ["folder", "split"])
def test_what_is_not_there_is_refused(
    what: str, say: Say, trained: RunFolder, tmp_path: Path
) -> None:
    options = [tmp_path] if what == "folder" else [trained.path, "--split", "test"]
    said = say("evaluate", *options, "--json")
    assert (said.code, said.out) == (2, "")
    assert ("is no run folder" if what == "folder" else "test split") in said.err

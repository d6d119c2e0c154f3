from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForSequenceClassification

import weft
from weft.runs import RunFolder

Say = Callable[..., Any]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("to", ["peft", "merged"])
def test_command_and_verb_write_the_same_files(
    to: Any, say: Say, trained: RunFolder, tmp_path: Path
) -> None:
    said = say("export", trained.path, tmp_path / "a", "--to", to)
    assert (said.code, said.out) == (0, f"{tmp_path / 'a'}\n")
    weft.export(trained.path, tmp_path / "b", to)
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_a_merged_export_opens_in_transformers(
    say: Say, trained: RunFolder, tmp_path: Path
) -> None:
    assert say("export", trained.path, tmp_path / "a", "--to", "merged").code == 0
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "a")
    assert model.config.num_labels == 2


def test_an_export_comes_back_with_the_same_answers(
    say: Say, trained: RunFolder, settings: dict[str, Any], own_task: Path, tmp_path: Path
) -> None:
    say("export", trained.path, tmp_path / "peft", "--to", "peft")
    options = ["--base", settings["base"], "--task", own_task, "--data", own_task.parent]
    said = say("import", tmp_path / "peft", tmp_path / "run", *options)
    assert said.code == 0, said.err
    before = say("evaluate", trained.path, "--json")
    assert say("evaluate", tmp_path / "run", "--json").json["scores"] == before.json["scores"]


def test_what_is_there_is_not_overwritten(say: Say, trained: RunFolder, tmp_path: Path) -> None:
    said = say("export", trained.path, tmp_path)
    assert said.code == 2
    assert "exists" in said.err

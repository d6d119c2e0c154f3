"""Rows given in Python train and score as the same rows in files do."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

import weft
from weft.answering.prediction import predict
from weft.data.formats import read_rows
from weft.runs import RunFolder
from weft.training.loop import Event, Interrupted, train

Settings = Callable[..., dict[str, Any]]


def _rows(folder: Path, name: str, ending: str) -> dict[str, list[dict[str, Any]]]:
    splits = ("train", "validation")
    return {
        split: [row for row, _ in read_rows(folder / name / f"{split}.{ending}")]
        for split in splits
    }


def _assert_same(found: Path, expected: Path) -> None:
    name = Path("expert") / "adapter_model.safetensors"
    state, other = load_file(found / name), load_file(expected / name)
    assert state.keys() == other.keys()
    for key, value in state.items():
        torch.testing.assert_close(value, other[key], rtol=0, atol=0)


def test_frames_and_lists_train_to_the_bits_of_their_files(
    run_of: Settings, tasks_folder: Path, tmp_path: Path
) -> None:
    run = run_of("topic")
    train(run, out=tmp_path / "files")
    rows = _rows(tasks_folder, "topic", "csv")
    data = {"train": pd.DataFrame(rows["train"]), "validation": rows["validation"]}
    spec = {"kind": "sequence_classification", "labels": ["animal", "thing"], "max_length": 48}
    folder = train(
        {**run, "task": {"name": "topic", "spec": spec}}, out=tmp_path / "rows", data=data
    )
    _assert_same(folder.path, tmp_path / "files")
    assert folder.metrics == RunFolder(tmp_path / "files").metrics
    task = folder.run.task
    assert task is not None
    assert (task.data, set(task.in_memory or ())) == (None, {"train", "validation"})
    text = (folder.path / "run.yaml").read_text()
    assert rows["train"][0]["text"] not in text
    # Scored again only with rows.
    with pytest.raises(ValueError, match="were given in Python and are kept nowhere"):
        weft.evaluate(folder.path, device="cpu", save=False)
    found = weft.evaluate(folder.path, data=data, device="cpu", save=False)
    by_file = weft.evaluate(folder.path, data=str(tasks_folder / "topic"), device="cpu", save=False)
    assert not isinstance(found, list)
    assert not isinstance(by_file, list)
    assert found.scores == by_file.scores
    assert predict(folder.path, [{"text": "good cat"}])[0]["label"] in ("animal", "thing")


def test_a_folder_is_given_beside_the_settings(
    run_of: Settings, tasks_folder: Path, tmp_path: Path
) -> None:
    run = run_of("topic")
    train(run, out=tmp_path / "files")
    spec = {"kind": "sequence_classification", "labels": ["animal", "thing"], "max_length": 48}
    own = {**run, "task": {"name": "topic", "spec": spec}}
    for form in (str, Path):
        folder = train(own, out=tmp_path / form.__name__, data=form(tasks_folder / "topic"))
        _assert_same(folder.path, tmp_path / "files")
        found = weft.evaluate(
            folder.path, data=form(tasks_folder / "topic"), device="cpu", save=False
        )
        assert not isinstance(found, list)
        assert found.scores == weft.evaluate(folder.path, device="cpu", save=False).scores  # type: ignore[union-attr]
    with pytest.raises(ValueError, match=r"the config says it as well .*; choose one"):
        train({**own, "data": "elsewhere"}, out=tmp_path / "other", data=tasks_folder)
    with pytest.raises(ValueError, match="a resumed run keeps its settings, its folder and that"):
        train(resume=tmp_path / "files", data=tasks_folder)
    with pytest.raises(TypeError, match=r"expected {'train': rows, .* or a folder, got list"):
        train(own, out=tmp_path / "other", data=[{"text": "x"}])  # type: ignore[arg-type]


def test_rows_alone_are_of_the_split_that_is_scored(
    run_of: Settings, tasks_folder: Path, tmp_path: Path
) -> None:
    folder = train(run_of("topic"), out=tmp_path / "run")
    expected = weft.evaluate(folder.path, device="cpu", save=False)
    assert not isinstance(expected, list)
    rows = _rows(tasks_folder, "topic", "csv")["validation"]
    for data in (rows, pd.DataFrame(rows), datasets.Dataset.from_list(rows)):
        found = weft.evaluate(folder.path, data=data, device="cpu", save=False)
        assert not isinstance(found, list)
        assert found.scores == expected.scores
    several = train(run_of("topic", "tags"), out=tmp_path / "several")
    with pytest.raises(ValueError, match="several tasks; give rows for each"):
        weft.evaluate(several.path, data=rows, device="cpu", save=False)


def test_several_tasks_take_rows_by_name(
    run_of: Settings, tasks_folder: Path, tmp_path: Path
) -> None:
    run = run_of("topic", "tags")
    train(run, out=tmp_path / "files")
    tags = _rows(tasks_folder, "tags", "conll")
    data = {
        "topic": _rows(tasks_folder, "topic", "csv"),
        "tags": datasets.DatasetDict(
            {split: datasets.Dataset.from_list(rows) for split, rows in tags.items()}
        ),
    }
    folder = train(run, out=tmp_path / "rows", data=data)
    for name in ("topic", "tags"):
        _assert_same(folder.path / name, tmp_path / "files" / name)
    found = weft.evaluate(folder.path, data=data, device="cpu", save=False)
    assert isinstance(found, list)
    assert [one.task for one in found] == ["topic", "tags"]
    with pytest.raises(ValueError, match="several tasks; give rows for each"):
        train(run, out=tmp_path / "other", data=data["topic"])


def test_a_run_is_resumed_with_its_own_rows_only(
    run_of: Settings, tasks_folder: Path, tmp_path: Path
) -> None:
    data = _rows(tasks_folder, "topic", "csv")
    run = run_of("topic")

    def interrupt(event: Event) -> None:
        if event.step == 4:
            os.kill(os.getpid(), signal.SIGINT)

    train(run, out=tmp_path / "whole", data=data)
    with pytest.raises(Interrupted, match="--resume"):
        train(run, out=tmp_path / "broken", data=data, report=interrupt)
    with pytest.raises(ValueError, match="were given in Python"):
        train(resume=tmp_path / "broken")
    other = {**data, "train": data["train"][1:]}
    with pytest.raises(ValueError, match="are not those that the run began with; give the same"):
        train(resume=tmp_path / "broken", data=other)
    _assert_same(train(resume=tmp_path / "broken", data=data).path, tmp_path / "whole")


def test_what_the_rows_told_stands_in_the_experts_card(run_of: Settings, tmp_path: Path) -> None:
    rows = [{"tokens": ["a", "cat", "."], "tags": ["O", "S-x", "O"]}] * 6
    run = run_of("tags")
    task = {"name": "mine", "spec": {"kind": "token_classification"}}
    folder = train(
        {**run, "task": task}, out=tmp_path / "run", data={"train": rows, "validation": rows}
    )
    card = weft.load(folder.path, device="cpu").card
    assert card.task["options"] == {"scheme": "bioes", "words": "web"}
    assert card.labels == ("O", "B-x", "I-x")

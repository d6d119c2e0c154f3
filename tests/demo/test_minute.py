"""The demo of a minute, on a tiny base: what it leaves, what it shows, and that the commands it names work."""

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.reporting.reading import Page
from weft.answering.evaluation import read_predictions
from weft.cli import app
from weft.data.generated import SIZES
from weft.demo.minute import EXPERTS, MIXTURE, TEXTS, Minute, minute
from weft.demo.minute_display import commands, document, first_line
from weft.reporting.writers import to_html
from weft.runs import RunFolder
from weft.training.loop import Event


@pytest.fixture(scope="module")
def shown(
    tiny_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Minute, list[Event]]:
    events: list[Event] = []
    found = minute(
        tmp_path_factory.mktemp("demo") / "out",
        base=str(tiny_folder("bert")),
        rows=dict.fromkeys(SIZES, (12, 6)),
        training={"max_steps": 2},
        report=events.append,
    )
    return found, events


def test_one_training_makes_an_expert_for_every_set(shown: tuple[Minute, list[Event]]) -> None:
    found, events = shown
    assert [event.step for event in events] == [1, 2]
    assert set(events[-1].loss) == {f"demo_{name}" for name in SIZES}
    folder = RunFolder.open(Path(found.out) / EXPERTS)
    assert folder.is_complete
    for result, part in zip(found.results, folder.parts(), strict=True):
        score = next(row for row in part.metrics if row["name"] == result.metric)
        assert asdict(result.expert) == {key: score[key] for key in ("value", "low", "high")}
        assert result.rows == score["n"] == 6
        assert part.training is not None
        assert result.trained_parameters == part.training["trainable_parameters"]
    assert RunFolder.open(Path(found.out) / MIXTURE).is_complete


def test_texts_are_shown_with_what_their_experts_said(shown: tuple[Minute, list[Event]]) -> None:
    found, _ = shown
    assert [own.task for own in found.shown] == [name for name in SIZES for _ in range(TEXTS)]
    folders = {
        part.path.name: part.path for part in RunFolder.open(Path(found.out) / EXPERTS).parts()
    }
    for own in found.shown:
        said = read_predictions(folders[f"demo_{own.task}"])[own.case.id]
        if own.task == "choices":
            assert own.case.said == said["choice"]
            assert [option.probability for option in own.case.options] == said["probabilities"]
        elif own.task == "spans":
            assert own.case.said == said["text"]
        else:
            assert [
                own.case.text[mark.start : mark.end]
                for mark in own.case.marks
                if mark.verdict != "missed"
            ] == [entity["text"] for entity in said["entities"]]
        assert own.taken_for in SIZES
        assert own.as_expert == (own.taken_for == own.task)


def test_the_page_marks_what_was_found(shown: tuple[Minute, list[Event]]) -> None:
    found, _ = shown
    said = document(found)
    page = to_html(said)
    assert [row[0] for row in Page(page).tables[0][1:]] == [own.task for own in found.shown]
    assert page.count("<mark ") == sum(len(own.case.marks) for own in found.shown)
    assert said.values == found.as_json()
    json.dumps(said.values)


def test_what_it_names_next_works(
    shown: tuple[Minute, list[Event]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, _ = shown
    monkeypatch.chdir(Path(__file__).parents[2])
    lines = [line.split("    (")[0] for line in commands(found.out)]
    assert all(line.startswith("weft ") for line in lines)
    *own, last = map(shlex.split, lines)
    for line in own:
        arguments = [
            "training.max_steps=1" if part.startswith("training.max_steps=") else part
            for part in line[1:]
        ]
        said = CliRunner().invoke(app, arguments)
        assert said.exit_code == 0, (line, said.output)
        assert said.stdout
    assert last[:2] == ["weft", "train"]
    assert Path(last[2]).is_file()


def test_where_there_are_no_configs_it_says_how_to_get_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert commands("out")[-1].startswith("weft init && weft train configs/own_task.yaml ")


def test_a_folder_that_is_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="exists; choose another --out"):
        minute(tmp_path)


def test_the_first_line_comes_at_once_and_says_how_long(tmp_path: Path) -> None:
    began = time.monotonic()
    # Refused after its first line: nothing but that is asked of it here.
    with subprocess.Popen(
        [sys.executable, "-m", "weft", "demo", "--out", str(tmp_path)],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ,
    ) as process:
        assert process.stderr is not None
        first = process.stderr.readline()
        took = time.monotonic() - began
        process.communicate()
    assert first.rstrip("\n") == first_line(tmp_path)
    assert " s on two quiet cores" in first
    assert took < 10
    assert process.returncode == 2

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from weft.runs import RunFolder

Say = Callable[..., Any]


def same_expert(a: RunFolder, b: RunFolder) -> bool:
    name = "adapter_model.safetensors"
    return (a.expert / name).read_bytes() == (b.expert / name).read_bytes()


def test_command_and_verb_train_the_same_expert(
    say: Say, config: Path, trained: RunFolder, tmp_path: Path
) -> None:
    said = say("train", config, "--out", tmp_path / "run", "--json")
    assert said.code == 0, said.err
    assert same_expert(RunFolder(tmp_path / "run"), trained)
    assert said.json["metrics"] == trained.metrics
    assert said.json["run"] == str(tmp_path / "run")
    assert said.json["task"] == "moods"
    assert said.json["training"]["steps"] == 3


def test_set_overrides_and_progress_goes_to_stderr(say: Say, config: Path, tmp_path: Path) -> None:
    changed = ["--set", "training.max_steps=2", "--set", "recipe.rank=1"]
    said = say("train", config, *changed, "--out", tmp_path / "run")
    run = RunFolder(tmp_path / "run").run
    assert (said.code, run.training.max_steps) == (0, 2)
    assert run.recipe.model_dump()["rank"] == 1
    assert "step 2/2" in said.err
    assert "step" not in said.out.replace("2 steps", "")
    assert "accuracy %" in said.out


def test_quiet_shows_no_progress(say: Say, config: Path, tmp_path: Path) -> None:
    said = say("train", config, "--out", tmp_path / "run", "--quiet")
    assert (said.code, said.err) == (0, "")


def test_several_tasks_print_a_list(
    say: Say, settings: dict[str, Any], own_task: Path, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.yaml").write_text(own_task.read_text())
        (tmp_path / name).mkdir()
        for split in ("train", "validation"):
            rows = (own_task.parent / f"{split}.csv").read_text()
            (tmp_path / name / f"{split}.csv").write_text(rows)
    tasks = [
        {"name": str(tmp_path / f"{n}.yaml"), "data": str(tmp_path / n)} for n in ("one", "two")
    ]
    both = {key: value for key, value in settings.items() if key != "task"} | {"tasks": tasks}
    (tmp_path / "both.yaml").write_text(yaml.safe_dump(both))
    said = say("train", tmp_path / "both.yaml", "--out", tmp_path / "run", "--json")
    assert said.code == 0, said.err
    assert [part["task"] for part in said.json] == ["one", "two"]
    found = say("evaluate", tmp_path / "run", "--json")
    assert [part["task"] for part in found.json] == ["one", "two"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("training.epoch=1", "Did you mean 'epochs'?"),
        ("recipe.name=lorra", "Did you mean 'lora'?"),
        ("base=/no/such/folder", "no such folder"),
        ("training.epochs", "expected KEY=VALUE"),
    ],
)
def test_what_is_wrong_is_refused_before_a_folder_is_made(
    change: str, sentence: str, say: Say, config: Path, tmp_path: Path
) -> None:
    said = say("train", config, "--set", change, "--out", tmp_path / "run")
    assert (said.code, said.out) == (2, "")
    assert sentence in said.err
    assert "Traceback" not in said.err
    assert not (tmp_path / "run").exists()


def test_config_or_resume_is_needed(say: Say) -> None:
    said = say("train")
    assert said.code == 2
    assert "either a config to train or a run folder to resume" in said.err


def test_an_interrupted_run_says_how_to_go_on_and_does(
    say: Say, config: Path, tmp_path: Path
) -> None:
    steps = ["--set", "training.max_steps=400"]
    out = tmp_path / "run"

    def interrupt() -> None:
        until = time.monotonic() + 60
        while time.monotonic() < until and not (
            (out / "log.jsonl").is_file() and (out / "log.jsonl").read_text()
        ):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    said = say("train", config, *steps, "--out", out, "--quiet")
    thread.join()
    assert said.code == 130, said.err
    assert f"--resume {out}" in said.err
    assert not RunFolder.open(out).is_complete
    resumed = say("train", "--resume", out, "--json")
    whole = say("train", config, *steps, "--out", tmp_path / "whole", "--quiet")
    assert (resumed.code, whole.code) == (0, 0)
    assert resumed.json["training"]["steps"] == 400
    assert same_expert(RunFolder(out), RunFolder(tmp_path / "whole"))

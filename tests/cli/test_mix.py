import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import weft
from weft.runs import RunFolder
from weft.training.loop import train
from weft.training.settings import mix_config

Say = Callable[..., Any]
GATE = Path("mixture") / "gate.safetensors"


@pytest.fixture(scope="module")
def other(
    settings: dict[str, Any], own_task: Path, tmp_path_factory: pytest.TempPathFactory
) -> RunFolder:
    """A second expert, of a task by another name."""
    folder = shutil.copytree(own_task.parent, tmp_path_factory.mktemp("tasks") / "own")
    task = (folder / own_task.name).rename(folder / "tones.yaml")
    return weft.train(
        settings | {"task": str(task), "seed": 5}, out=tmp_path_factory.mktemp("runs") / "other"
    )


def test_command_and_verb_mix_the_same(
    say: Say, trained: RunFolder, other: RunFolder, tmp_path: Path
) -> None:
    out = tmp_path / "mixed"
    said = say(
        "mix", trained.path, other.path, "--mixture", "uniform", "--out", out, "--json", "--quiet"
    )
    assert said.code == 0, said.err
    assert [part["task"] for part in said.json] == ["moods", "tones"]
    assert [part["run"] for part in said.json] == [str(out / "moods"), str(out / "tones")]
    verb = train(mix_config([trained.path, other.path], "uniform"), out=tmp_path / "verb")
    assert [part["metrics"] for part in said.json] == [part.metrics for part in verb.parts()]
    assert {row["name"] for row in said.json[0]["metrics"]} >= {"accuracy", "recognition"}
    assert said.json[0]["training"]["trainable_parameters"] == 0
    found = say("evaluate", out, "--json")
    assert [part["task"] for part in found.json] == ["moods", "tones"]


def test_gates_train_with_progress_and_settings(
    say: Say, trained: RunFolder, other: RunFolder, tmp_path: Path
) -> None:
    changed = ["training.max_steps=2", "mixture.depth=2", "mixture.width=4"]
    changes = [part for one in changed for part in ("--set", one)]
    said = say("mix", trained.path, other.path, *changes, "--out", tmp_path / "mixed")
    assert said.code == 0, said.err
    assert "step 2/2" in said.err
    assert "accuracy %" in said.out
    settings = RunFolder(tmp_path / "mixed").run.mixture
    assert settings is not None
    assert settings.name == "xlora"
    assert (settings.model_dump()["depth"], settings.model_dump()["width"]) == (2, 4)
    assert settings.runs == [str(trained.path.resolve()), str(other.path.resolve())]


def test_without_a_folder_it_is_named_after_tasks_and_mixture(
    say: Say,
    trained: RunFolder,
    other: RunFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    said = say("mix", trained.path, other.path, "--mixture", "uniform", "--quiet")
    assert said.code == 0, said.err
    [made] = (tmp_path / "runs").iterdir()
    assert made.name == "moods+tones-uniform-seed0"


def test_seed_and_precision_are_the_experts_own(settings: dict[str, Any], tmp_path: Path) -> None:
    again = {**settings, "seed": 7, "training": {"max_steps": 1, "precision": "fp64"}}
    one = weft.train(again, out=tmp_path / "one")
    run = mix_config([one.path], "uniform")
    assert (run.seed, run.training.precision) == (7, "fp64")
    assert run.base == settings["base"]


def test_what_is_wrong_is_refused_before_a_folder_is_made(
    say: Say, trained: RunFolder, other: RunFolder, tmp_path: Path
) -> None:
    out, both = tmp_path / "mixed", [trained.path, other.path]
    for arguments, sentence in (
        ([], "give the run folders of at least one expert"),
        ([tmp_path / "nowhere"], "is no run folder"),
        ([trained.path, trained.path], "two experts are named 'moods'"),
        ([*both, "--mixture", "xloar"], "Did you mean 'xlora'?"),
        ([*both, "--set", "mixture.top_k=3"], "top_k 3 is more than the 2 experts"),
        ([*both, "--set", "mixture.widht=3"], "Did you mean 'width'?"),
        ([*both, "--set", "mixture.width"], "expected KEY=VALUE"),
    ):
        said = say("mix", *arguments, "--out", out)
        assert (said.code, said.out) == (2, ""), arguments
        assert sentence in " ".join(said.err.split())
        assert "Traceback" not in said.err
        assert not out.exists()


def test_an_interrupted_mix_goes_on_to_the_same_bits(
    say: Say, trained: RunFolder, other: RunFolder, tmp_path: Path
) -> None:
    changed = ["--set", "training.max_steps=150", "--set", "mixture.dropout=0.1"]
    both, out = [trained.path, other.path], tmp_path / "broken"

    def interrupt() -> None:
        until = time.monotonic() + 60
        while time.monotonic() < until and not (
            (out / "log.jsonl").is_file() and (out / "log.jsonl").read_text()
        ):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    said = say("mix", *both, *changed, "--out", out, "--quiet")
    thread.join()
    assert said.code == 130, said.err
    assert f"--resume {out}" in said.err
    resumed = say("mix", "--resume", out, "--json", "--quiet")
    whole = say("mix", *both, *changed, "--out", tmp_path / "whole", "--quiet")
    assert (resumed.code, whole.code) == (0, 0), resumed.err
    assert (out / GATE).read_bytes() == (tmp_path / "whole" / GATE).read_bytes()

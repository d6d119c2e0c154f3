"""A user's functions are called as training goes, can end it, and hide nothing that goes wrong in them."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import weft
from weft.runs import RunFolder
from weft.training.callbacks import Event

Settings = Callable[..., dict[str, Any]]
EXPERT = Path("expert") / "adapter_model.safetensors"


def test_each_event_has_its_calls_and_what_stands_then(run_of: Settings, tmp_path: Path) -> None:
    found: dict[str, list[Event]] = {"step": [], "evaluation": [], "checkpoint": [], "end": []}
    there: list[bool] = []

    def saved(event: Event) -> None:
        assert event.checkpoint is not None
        there.append((event.checkpoint / "state.safetensors").is_file())
        found["checkpoint"].append(event)

    on = {name: own.append for name, own in found.items()} | {"checkpoint": saved}
    training = {"eval_every": 4, "checkpoint_every": 3}
    folder = weft.train(run_of("topic", training=training), out=tmp_path / "run", on=on)
    assert {name: [event.step for event in own] for name, own in found.items()} == {
        "step": [1, 2, 3, 4, 5, 6, 7, 8],
        "evaluation": [4, 8],
        "checkpoint": [3, 6],
        "end": [8],
    }
    assert there == [True, True]
    lines = [json.loads(line) for line in folder.log.read_text().splitlines()]
    scored = [line["score"] for line in lines if "score" in line]
    assert [event.score for event in found["evaluation"]] == scored
    (end,) = found["end"]
    final = {row["name"]: row["value"] for row in folder.metrics}
    assert end.score == {"topic": final["accuracy"]}
    assert (end.folder, end.total, end.checkpoint, end.seconds_left) == (folder.path, 8, None, 0)
    # Looking on changes nothing.
    other = weft.train(run_of("topic", training=training), out=tmp_path / "other")
    expected = load_file(other.path / EXPERT)
    assert all(torch.equal(v, expected[k]) for k, v in load_file(folder.path / EXPERT).items())


@pytest.mark.parametrize("event", ["step", "evaluation"])
def test_a_training_that_is_stopped_is_the_shorter_one(
    run_of: Settings, tmp_path: Path, event: str
) -> None:
    def training(steps: int) -> dict[str, Any]:
        return {"schedule": "constant", "warmup": 0, "eval_every": 4, "max_steps": steps}

    ended: list[int] = []
    on = {
        event: lambda now: weft.STOP if now.step == 4 else None,
        "end": lambda e: ended.append(e.step),
    }
    folder = weft.train(run_of("topic", training=training(12)), out=tmp_path / "run", on=on)
    short = weft.train(run_of("topic", training=training(4)), out=tmp_path / "short")
    assert folder.is_complete
    assert folder.training is not None
    assert (folder.training["steps"], ended) == (4, [4])
    expected = load_file(short.path / EXPERT)
    assert all(torch.equal(v, expected[k]) for k, v in load_file(folder.path / EXPERT).items())
    assert folder.metrics == short.metrics
    assert not folder.checkpoints.exists()


def test_only_the_word_itself_stops(run_of: Settings, tmp_path: Path) -> None:
    answers = [torch.ones(3), True, "go on", 0, {"stop": 1}, None, [], "STOP"]
    on = {"step": lambda event: answers[event.step - 1]}
    folder = weft.train(run_of("topic"), out=tmp_path / "run", on=on)
    assert folder.training is not None
    assert folder.training["steps"] == 8


def test_what_a_callback_raises_comes_out_and_the_run_goes_on_from_its_checkpoint(
    run_of: Settings, tmp_path: Path
) -> None:
    run = run_of("topic", training={"checkpoint_every": 3})
    whole = weft.train(run, out=tmp_path / "whole")

    def broken(event: Event) -> None:
        if event.step == 5:
            raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine") as raised:
        weft.train(run, out=tmp_path / "run", on={"step": broken})
    assert raised.value.__notes__ == ["raised by the callback of training for 'step'"]
    assert not RunFolder(tmp_path / "run").is_complete
    folder = weft.train(resume=tmp_path / "run")
    expected = load_file(whole.path / EXPERT)
    assert all(torch.equal(v, expected[k]) for k, v in load_file(folder.path / EXPERT).items())


def test_what_is_no_callback_is_refused_before_anything(run_of: Settings, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"on: no event of training named 'stpe'\. Did you mean 'step'"
    ):
        weft.train(run_of("topic"), out=tmp_path / "run", on={"stpe": print})
    with pytest.raises(TypeError, match=r"on\['step'\]: expected a function of an event, got int"):
        weft.train(run_of("topic"), out=tmp_path / "run", on={"step": 3})  # type: ignore[dict-item]
    assert not (tmp_path / "run").exists()


PROGRAM = """
import json, os, sys
from pathlib import Path
import torch, weft

torch.set_num_threads(1)
calls = []

def step(event):
    calls.append(event.step)
    return weft.STOP if event.step == 3 else None

run = json.loads(Path(sys.argv[1]).read_text())
weft.train(run, out=sys.argv[2], on={"step": step})
Path(sys.argv[2], f"calls-{os.environ['RANK']}.json").write_text(json.dumps(calls))
"""


@pytest.mark.slow
def test_the_first_of_several_processes_calls_and_all_stop(
    run_of: Settings, tmp_path: Path
) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "run.json").write_text(json.dumps({**run_of("topic"), "device": "cpu"}))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    arguments = [str(tmp_path / name) for name in ("program.py", "run.json", "run")]
    done = subprocess.run(
        [*launch, *arguments],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    calls = [json.loads((tmp_path / "run" / f"calls-{rank}.json").read_text()) for rank in (0, 1)]
    assert calls == [[1, 2, 3], []]
    training = RunFolder(tmp_path / "run").training
    assert training is not None
    assert (training["steps"], training["processes"]) == (3, 2)

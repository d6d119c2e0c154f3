"""Every recipe trains every kind of task, and what it leaves can be gone on with."""

import json
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from weft.answering.evaluation import evaluate
from weft.base.loading import load_base
from weft.methods.recipes import recipe_file, recipes
from weft.runs import RunFolder
from weft.storage.experts import load_expert
from weft.training.loop import Event, Interrupted, train

Settings = Callable[..., dict[str, Any]]
WOVEN = [name for name in recipes.names() if recipe_file(name).trains == "adapters"]
ENCODER_TASKS = ("topic", "tags", "endings", "where", "fill")


def losses(folder: RunFolder) -> list[float]:
    """The mean losses that were logged."""
    rows = [json.loads(line) for line in folder.log.read_text().splitlines()]
    return [sum(row["loss"].values()) for row in rows if "loss" in row]


@pytest.mark.parametrize("name", WOVEN)
def test_it_trains_every_kind_of_task_and_leaves_the_base_alone(
    name: str, run_of: Settings, tmp_path: Path
) -> None:
    for base, tasks in (("bert", ENCODER_TASKS), ("gpt2", ("go_on",))):
        run = run_of(
            *tasks,
            base=base,
            recipe={"name": name, "rank": 4},
            training={"max_steps": 3, "precision": "bf16"},
        )
        before = load_base(run["base"]).digest
        folder = train(run, out=tmp_path / base)
        assert load_base(run["base"]).digest == before
        for part in folder.parts() if len(tasks) > 1 else [folder]:
            assert part.metrics
            assert all(math.isfinite(row["value"]) for row in part.metrics)
            loaded, _ = load_expert(part.expert, load_base(run["base"]))
            assert loaded.adapters


@pytest.mark.parametrize("name", WOVEN)
def test_its_adapters_learn(name: str, run_of: Settings, tmp_path: Path) -> None:
    training = {
        "max_steps": 30,
        "learning_rate": recipe_file(name).training["learning_rate"] * 3,
        "head_learning_rate": 1e-9,
        "schedule": "constant",
        "weight_decay": 0.0,
    }
    run = run_of("tags", recipe={"name": name, "rank": 4}, training=training)
    found = losses(train(run, out=tmp_path / "run"))
    # The head stands still, so this is the adapters' own doing.
    assert found[-1] < found[0]


@pytest.mark.parametrize("name", WOVEN)
def test_it_resumes_to_the_same_bits_and_starts_another_run(
    name: str, run_of: Settings, tmp_path: Path
) -> None:
    run = run_of("tags", recipe={"name": name, "rank": 4, "dropout": 0.1})
    whole = train(run, out=tmp_path / "whole")

    def interrupt(event: Event) -> None:
        if event.step == 5:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        train(run, out=tmp_path / "broken", report=interrupt)
    resumed = train(resume=tmp_path / "broken")
    for file in sorted(whole.expert.glob("*.safetensors")):
        expected, found = load_file(file), load_file(resumed.expert / file.name)
        assert expected.keys() == found.keys()
        assert [n for n, value in expected.items() if not torch.equal(value, found[n])] == []
    scores = {name: score.value for name, score in evaluate(whole.path).scores.items()}
    assert scores == {row["name"]: row["value"] for row in whole.metrics}
    training = run["training"] | {"max_steps": 1, "learning_rate": 1e-12}
    further = train(
        run | {"init_from": str(whole.path), "seed": 8, "training": training}, out=tmp_path / "more"
    )
    base = load_base(run["base"], dtype=torch.float64)
    before, _ = load_expert(whole.expert, base)
    after, _ = load_expert(further.expert, base)
    for module, adapter in before.adapters.items():
        weight = base.trunk.get_submodule(module).get_parameter("weight")
        torch.testing.assert_close(
            after.adapters[module].delta(weight), adapter.delta(weight), rtol=0, atol=1e-8
        )

"""The law of several processes: what they train together equals what one trains alone."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.training.mixed_runs import Runs, runs_of
from weft.methods.mixtures import mixtures
from weft.methods.recipes import recipe_file, recipes
from weft.runs import RunFolder
from weft.training.loop import train
from weft.training.settings import mix_config

Settings = dict[str, Any]
SCRIPT = Path(__file__).with_name("two_processes.py")
TOLERANCE = 1e-8
"""Of trained tensors in double precision: sums over two halves of a batch are rounded otherwise than one."""
MIXED = ("early_pass", "loramoe")
"""Tallies of what was seen and a loss over rows; a loss over the batch, experts from nothing."""
RECIPES = ("kasa", "lamda", "lora_sb", "full", "head")
"""A penalty, a controller, gradients before the start, the base, no adapters; all others are in the slow test."""


@pytest.fixture(scope="module")
def runs(
    tiny_folder: Callable[[str], Path], tasks_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Runs:
    return runs_of(tiny_folder, tasks_folder, tmp_path_factory)


def in_two_processes(listed: Mapping[str, Settings], folder: Path) -> None:
    """Train every run of `listed` into `folder` by two processes of one machine."""
    file = folder / "runs.json"
    file.write_text(json.dumps(listed), encoding="utf-8")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*launch, str(SCRIPT), str(file), str(folder)],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]


def saved(folder: Path) -> dict[str, Tensor]:
    """Every tensor that a run left, by file and name."""
    return {
        f"{path.relative_to(folder)}/{name}": value
        for path in sorted(folder.rglob("*.safetensors"))
        for name, value in load_file(path).items()
    }


def assert_equal_runs(listed: Mapping[str, Settings], folder: Path) -> None:
    """One process and two leave the same, and two took part."""
    one, two = folder / "one", folder / "two"
    two.mkdir(parents=True)
    in_two_processes(listed, two)
    for name, run in listed.items():
        train(run, out=one / name)
        expected, found = saved(one / name), saved(two / name)
        assert found.keys() == expected.keys(), name
        assert found, name
        for key, value in expected.items():
            torch.testing.assert_close(
                found[key], value, rtol=0, atol=TOLERANCE, msg=f"{name}: {key}"
            )
        for part, own in zip(
            RunFolder(two / name).parts(), RunFolder(one / name).parts(), strict=True
        ):
            assert part.metrics == own.metrics, name
            assert (part.training or {})["processes"] == 2, name
            assert (own.training or {})["processes"] == 1, name


def recipe_runs(runs: Runs, names: tuple[str, ...]) -> dict[str, Settings]:
    """A short training of each recipe that has a base to stand on as it is."""
    # Statistics of rows together are taken over one piece of a step by itself, the first of the first process.
    off = {"ba_lora": {"consistency": 0, "diversity": 0, "spectral": 0}}
    return {
        name: runs.settings("bert", "tags", recipe={"name": name, **off.get(name, {})})
        for name in names
        if name != "loram"
    }


def mixture_runs(runs: Runs, names: tuple[str, ...], *more: str) -> dict[str, Settings]:
    """A short training of each mixture over experts that one process trained; `more` overrides settings."""
    parts = [part.path for part in runs.experts("bert").parts()]
    training = [f"training.{key}={value}" for key, value in FEW.items()]

    def settings(name: str) -> Settings:
        # Balance is a product of means, taken over each piece of a step by itself, as everywhere; every process drops
        # other features.
        known = mixtures.load(name).settings_type.model_fields
        off = [key for key in ("balance_weight", "dropout", "head_dropout") if key in known]
        overrides = [*training, *(f"mixture.{key}=0" for key in off), *more]
        run = mix_config(parts, name, overrides)
        return run.model_dump(mode="json", exclude_defaults=True)

    return {name: settings(name) for name in names}


FEW = {
    "max_steps": 3,
    "batch_size": 4,
    "learning_rate": 5e-3,
    "base_dropout": 0.0,
    "precision": "fp64",
}


def test_two_processes_equal_one(runs: Runs, tmp_path: Path) -> None:
    several = ("topic", "endings", "where")
    together = {"accumulation": 2, "eval_every": 2}
    listed = {
        "several": runs.settings("bert", *several, training=together),
        "shared": runs.settings("bert", "topic", "tags", experts="shared"),
        "both": runs.settings("bert", "topic", "tags", experts="both"),
        "sampled": runs.settings(
            "bert", "topic", "tags", experts="shared", training={"sampling": 0.5}
        ),
        # Rows that learn from each other.
        "joint": runs.settings("bert", "beside", "tags", training=together),
        "decoder": runs.settings("gpt2", "go_on"),
        "stopped": runs.settings("bert", "tags", training={"early_stopping": 1, "eval_every": 1}),
    }
    listed |= recipe_runs(runs, RECIPES)
    # What a task counts follows its loss over all processes.
    listed |= mixture_runs(runs, ("xlora",), "mixture.balance=uncertainty")
    assert_equal_runs(listed | mixture_runs(runs, MIXED), tmp_path)


@pytest.mark.slow  # Trains every recipe and every mixture twice.
def test_two_processes_equal_one_for_every_recipe_and_mixture(runs: Runs, tmp_path: Path) -> None:
    others = tuple(name for name in recipes.names() if name not in RECIPES)
    assert {recipe_file(name).trains for name in RECIPES} >= {"adapters", "base", "head"}
    listed = recipe_runs(runs, others)
    rest = tuple(name for name in mixtures.names() if name not in MIXED)
    assert_equal_runs(listed | mixture_runs(runs, rest), tmp_path)

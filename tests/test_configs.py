"""The files under `configs/` and `examples/own_task/` say what their first lines claim, and run."""

from collections.abc import Callable
from pathlib import Path

import pytest

import weft
from weft.config import load_run
from weft.data.reading import find_kind, find_spec, load_task
from weft.methods.recipes import resolve

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
STUDY = {"squad": 3, "swag": 5, "wnut17": 10}
"""Epochs by set in table 1 of the study."""


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT / "configs")))
def test_a_config_is_complete_and_explains_itself(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    run = load_run(path)
    assert resolve(run.recipe).learning_rate > 0
    for task in [run.task] if run.task else run.tasks:
        assert task is not None
        find_kind(find_spec(task.name))
    assert path.read_text("utf-8").startswith("# ")


@pytest.mark.parametrize("task", STUDY)
def test_the_study_s_settings_are_in_force(task: str) -> None:
    run = load_run(ROOT / "configs" / "paper" / f"{task}.yaml")
    recipe = resolve(run.recipe)
    assert run.task is not None
    assert (run.base, run.task.name, recipe.name) == ("bert-base", task, "lora")
    training = run.training
    assert (training.learning_rate, training.batch_size, training.epochs) == (5e-5, 16, STUDY[task])
    assert recipe.spec is not None
    assert (recipe.spec.rank, recipe.settings.targets) == (8, ["query", "value"])
    assert (training.select_on, training.evaluate_on) == ("validation", "validation")
    assert training.early_stopping == (5 if task == "wnut17" else None)


def test_the_example_of_an_own_task_trains(
    tiny_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    changed = [f"base={tiny_folder('bert')}", "training.max_steps=2", "device=cpu"]
    folder = weft.train(ROOT / "configs" / "own_task.yaml", overrides=changed, out=tmp_path / "run")
    assert {row["n"] for row in folder.metrics} == {4}
    # Not run.task.data: the files were found beside the YAML.
    run = folder.run
    assert run.task is not None
    loaded = load_task(run.task, splits=["train", "validation"], seed=0)
    texts = [row["text"] for rows in loaded.splits.values() for row in rows]
    assert len(set(texts)) == 12

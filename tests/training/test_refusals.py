"""What training refuses, in a sentence, before any work and without leaving a folder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from weft.answering.evaluation import evaluate
from weft.training.loop import train

Settings = Callable[..., dict[str, Any]]

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": ({"trainig": {}}, r"trainig.*Did you mean 'training'"),
    "unknown inner key": ({"training": {"epoch": 1}}, r"training\.epoch.*Did you mean 'epochs'"),
    "unknown recipe": ({"recipe": "lroa"}, r"'lroa'.*Did you mean 'lora'"),
    "unknown recipe setting": (
        {"recipe": {"name": "lora", "rnak": 4}},
        r"'rnak'.*Did you mean 'rank'",
    ),
    "unknown base": ({"base": "minilmm"}, r"'minilmm'.*Did you mean 'minilm'"),
    "unknown task": ({"task": "wnut71"}, r"'wnut71'.*Did you mean 'wnut17'"),
    "unknown target": ({"recipe": {"name": "lora", "targets": ["qeury"]}}, r"qeury.*query"),
    "rank larger than the layer": (
        {"recipe": {"name": "lora", "rank": 64}},
        r"rank 64 is larger than the layer: .*32 x 32",
    ),
    "layer that is not there": ({"recipe": {"name": "lora", "layers": [7]}}, r"7"),
    "setting that full has not": ({"recipe": {"name": "full", "rank": 4}}, r"no setting rank"),
    "sharing between one task": ({"experts": "shared"}, r"several tasks"),
    "a module trained whole and adapted": (
        {"recipe": {"name": "lora", "train_also": ["query"]}},
        r"train_also: \S+query is a target as well",
    ),
    "a value out of range": ({"training": {"learning_rate": -1}}, r"learning_rate.*-1"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_setting_is_named(run_of: Settings, tmp_path: Path, case: str) -> None:
    values, sentence = WRONG[case]
    run = run_of("topic")
    training = run["training"] | values.get("training", {})
    with pytest.raises((ValueError, KeyError), match=sentence):
        train(run | values | {"training": training}, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_length_beyond_the_base_s_positions_is_refused(run_of: Settings, tmp_path: Path) -> None:
    run = run_of("topic")
    with pytest.raises(ValueError, match="max_length 400 exceeds the 128 positions"):
        train(run | {"task": run["task"] | {"max_length": 400}}, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_full_cannot_be_shared_by_tasks(run_of: Settings, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="train them apart"):
        train(run_of("topic", "tags", recipe="full"), out=tmp_path / "run")


def test_experts_without_factors_are_not_added_up(run_of: Settings, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="recipe dora has no exact factors"):
        train(run_of("topic", "tags", recipe="dora", experts="both"), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_yaml_of_a_set_is_no_config(tmp_path: Path) -> None:
    (tmp_path / "reviews.yaml").write_text("{name: reviews, kind: sequence_classification}")
    with pytest.raises(ValueError, match=r"describes a set of rows, no run; .*`task: .*reviews"):
        train(tmp_path / "reviews.yaml", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_kind_that_the_base_cannot_serve_names_those_that_fit(
    run_of: Settings, tmp_path: Path
) -> None:
    with pytest.raises(
        ValueError, match=r"cannot serve multiple_choice; kinds that fit: .*causal_lm"
    ):
        train(run_of("endings", base="gpt2"), out=tmp_path / "run")


def test_labels_of_other_data_are_refused(
    run_of: Settings, tasks_folder: Path, tmp_path: Path
) -> None:
    folder = train(run_of("topic", training={"max_steps": 1}), out=tmp_path / "run")
    other = tmp_path / "other"
    other.mkdir()
    (other / "validation.csv").write_text("text,label\ngood film,plant\n")
    with pytest.raises(ValueError, match=r"validation\.csv.*plant"):
        evaluate(folder.path, data=str(other))


@pytest.mark.parametrize(("name", "value"), [("device", "gpu"), ("precision", "bf61")])
def test_evaluation_refuses_what_it_does_not_know(
    run_of: Settings, tmp_path: Path, name: str, value: str
) -> None:
    folder = train(run_of("topic", training={"max_steps": 1}), out=tmp_path / "run")
    with pytest.raises(ValueError, match=f"{name}.*{value}"):
        evaluate(folder.path, **{name: value})


def test_a_recipe_that_finds_nothing_to_train_is_refused(run_of: Settings, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"recipe head has nothing to train on fill: .*adapters"):
        train(run_of("fill", recipe="head"), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()

"""Trackers get what makes two runs comparable: names, settings, losses, every score, and what it ended with."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from weft.runs import RunFolder
from weft.training.loop import train

Settings = Callable[..., dict[str, Any]]
TRAINING = {"max_steps": 20, "eval_every": 10}


def logged(folder: RunFolder) -> dict[str, dict[int, float]]:
    """The numbers of `log.jsonl` by name and step, and at the end the final scores."""
    found: dict[str, dict[int, float]] = {}
    for line in folder.log.read_text().splitlines():
        row = json.loads(line)
        for what in ("loss", "score"):
            for task, value in row.get(what, {}).items():
                found.setdefault(f"{what}.{task}", {})[row["step"]] = value
    for part in folder.parts():
        task = part.run.task
        assert task is not None
        for score in part.metrics:
            found[f"final.{task.label}.{score['name']}"] = {20: score["value"]}
    return found


def assert_tracked(found: dict[str, dict[int, float]], folder: RunFolder) -> None:
    expected = logged(folder)
    assert {name.split(".")[0] for name in expected} == {"loss", "score", "final"}
    for name, values in expected.items():
        assert found[name] == pytest.approx(values, rel=1e-6), name


def test_tensorboard_shows_every_score_by_run(run_of: Settings, tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = run_of("topic", "tags", training=TRAINING | {"tracker": "tensorboard"})
    folder = train(run, out=tmp_path / "run")
    events = accumulator.EventAccumulator(str(folder.path / "weft"), size_guidance={"scalars": 0})
    events.Reload()
    found = {
        name: {event.step: event.value for event in events.Scalars(name)}
        for name in events.Tags()["scalars"]
    }
    assert_tracked(found, folder)
    (settings,) = folder.path.rglob("hparams.yml")
    assert "training.learning_rate: 0.005" in settings.read_text()


@pytest.mark.filterwarnings("default")  # MLflow's own, of its database
def test_mlflow_shows_every_score_by_run(
    run_of: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    run = run_of("topic", training=TRAINING | {"tracker": "mlflow"})
    folder = train(run, out=tmp_path / "topic-lora")
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("weft")
    (entry,) = client.search_runs([experiment.experiment_id])
    assert entry.info.run_name == "topic-lora"
    assert entry.data.params["recipe.name"] == "lora"
    found = {
        name: {m.step: m.value for m in client.get_metric_history(entry.info.run_id, name)}
        for name in entry.data.metrics
    }
    assert_tracked(found, folder)


def test_wandb_offline_has_the_runs_name_and_its_final_scores(
    run_of: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    shown: dict[str, Any] = {}

    def look(_: object) -> None:
        shown["name"], shown["config"] = wandb.run.name, dict(wandb.run.config)

    run = run_of("topic", training=TRAINING | {"tracker": "wandb"})
    folder = train(run, out=tmp_path / "topic-lora", report=look)
    assert shown["name"] == "topic-lora"
    assert shown["config"]["recipe.name"] == "lora"
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    written = file.read_bytes()
    assert all(name.encode() in written for name in logged(folder))


def test_an_unknown_tracker_is_refused_before_any_work(run_of: Settings, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="tensorboard"):
        train(run_of("topic", training={"tracker": "tensorbord"}), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()

"""A folder of small runs: seeds of one recipe, other recipes, a run of two tasks, a mixture, and unfinished ones."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_tasks import write_tasks
from weft.answering.evaluation import evaluate
from weft.config import load_run
from weft.reporting.document import Document, Figure
from weft.reporting.run_report import Report, document, gather
from weft.runs import RunFolder
from weft.training.loop import train
from weft.training.settings import mix_config


@pytest.fixture(scope="session")
def runs_folder(
    tiny_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The run folders, below one; never to be changed."""
    tasks = write_tasks(tmp_path_factory.mktemp("tasks"))
    root = tmp_path_factory.mktemp("runs")

    def settings(
        *names: str, training: dict[str, Any] | None = None, **values: Any
    ) -> dict[str, Any]:
        named = [{"name": str(tasks / name / f"{name}.yaml")} for name in names]
        what = {"task": named[0]} if len(named) == 1 else {"tasks": named}
        common = {"max_steps": 4, "batch_size": 4, "learning_rate": 5e-3, "base_dropout": 0.0}
        recipe = {"name": "lora", "rank": 2, "targets": ["query", "value"]}
        run = {"base": str(tiny_folder("bert")), "recipe": recipe, "seed": 1, "device": "cpu"}
        return run | what | values | {"training": common | (training or {})}

    stopping = {"early_stopping": 3, "eval_every": 2}
    for seed in (1, 2):
        train(settings("topic", seed=seed, training=stopping), out=root / "lora" / f"seed{seed}")
    train(
        settings(
            "topic",
            recipe={"name": "lora", "rank": 3, "targets": ["query", "value"]},
            training=stopping,
        ),
        out=root / "rank3",
    )
    train(settings("topic", recipe="full"), out=root / "full")
    train(settings("topic", recipe="head"), out=root / "head")
    train(settings("topic", training={"evaluate_on": "holdout"}), out=root / "searched")
    pair = train(settings("topic", "tags"), out=root / "pair")
    parts = [part.path for part in pair.parts()]
    mix = mix_config(
        parts, "xlora", ["training.max_steps=2", "mixture.width=4", "mixture.layerwise=true"]
    )
    evaluate(train(mix, out=root / "mix").path, gates=True)
    RunFolder.create(root / "begun", load_run(settings("topic", seed=7)))
    RunFolder.create(root / "begun-pair", load_run(settings("topic", "tags", seed=7)))
    return root


@pytest.fixture(scope="session")
def report(runs_folder: Path) -> Report:
    return gather([runs_folder])


@pytest.fixture(scope="session")
def said(report: Report) -> Document:
    """The report as a document."""
    return document(report)


@pytest.fixture(scope="session")
def figures(said: Document) -> dict[str, list[Figure]]:
    """Of each section, by its key."""
    return {section.key: list(section.figures) for section in said.sections if section.figures}

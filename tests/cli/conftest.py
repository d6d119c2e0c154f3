"""The command line in this process, a task of the user's own, and a run that was trained on it."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

import weft
from weft.cli import app
from weft.runs import RunFolder

ROWS = {
    "train": ["good film", "bad film", "good book", "bad book", "a good day", "a bad day"],
    "validation": ["the good dog", "the bad dog", "good city", "bad city"],
}


@dataclass(frozen=True)
class Said:
    """What a command left."""

    code: int
    out: str
    err: str
    error: BaseException | None

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture(scope="session")
def say() -> Callable[..., Said]:
    """Run `weft` with arguments, input and environment."""

    def run(*arguments: object, text: str | None = None, **environment: str) -> Said:
        found = CliRunner().invoke(app, [str(one) for one in arguments], text, environment)
        return Said(found.exit_code, found.stdout, found.stderr, found.exception)

    return run


@pytest.fixture(scope="session")
def own_task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The YAML of a task with ten rows, its files beside it."""
    folder = tmp_path_factory.mktemp("task")
    for split, texts in ROWS.items():
        rows = [f"{text},{'good' if 'good' in text else 'bad'}" for text in texts]
        (folder / f"{split}.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    spec = {
        "kind": "sequence_classification",
        "format": "csv",
        "labels": ["bad", "good"],
        "max_length": 16,
    }
    (folder / "moods.yaml").write_text(yaml.safe_dump(spec))
    return folder / "moods.yaml"


@pytest.fixture(scope="session")
def settings(tiny_folder: Callable[[str], Path], own_task: Path) -> dict[str, Any]:
    """A run of three steps."""
    return {
        "base": str(tiny_folder("bert")),
        "task": str(own_task),
        "recipe": {"name": "lora", "rank": 2},
        "training": {"max_steps": 3, "batch_size": 4},
        "device": "cpu",
    }


@pytest.fixture(scope="session")
def config(settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a file."""
    path = tmp_path_factory.mktemp("config") / "run.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


@pytest.fixture(scope="session")
def trained(settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The run folder that the Python verb leaves."""
    return weft.train(settings, out=tmp_path_factory.mktemp("runs") / "trained")

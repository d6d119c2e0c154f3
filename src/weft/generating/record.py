"""A generator on disk: what it is, what it knows of its tasks, and its weights.

    generator.json           base, shapes, tasks, settings
    tasks.safetensors        the tasks' vectors, and what parameters and vectors are normalised by
    generator.safetensors    the autoencoder; there when training is over
    log.jsonl                loss by epoch
    states.safetensors       while training: the vectors that are learned from
    checkpoint.safetensors   while training: weights, moments, losses so far

The folder is there, whole, before the first epoch; what is of training alone goes when it is over.
"""

import json
from pathlib import Path
from typing import Any, Literal

from weft.atomic import write_text
from weft.config import Settings, validate
from weft.generating.layout import Layout
from weft.generating.settings import GeneratorSettings
from weft.guard import RECORDS, read_json

FILE = "generator.json"
TASKS = "tasks.safetensors"
WEIGHTS = "generator.safetensors"
STATES = "states.safetensors"
CHECKPOINT = "checkpoint.safetensors"
LOG = "log.jsonl"


class Learned(Settings):
    """A task that a generator learned from."""

    name: str
    run: str
    """Its run folder."""
    states: int
    """How many states of its expert were seen."""
    rows: int
    """How many its vector is the mean of."""


class Record(Settings):
    """What `generator.json` says."""

    format: Literal[1] = 1
    """Grows when the files change meaning."""
    settings: GeneratorSettings
    base: str
    source: str
    revision: str | None = None
    digest: str
    """Identity of the base: vectors and experts of another mean nothing here."""
    precision: str
    """Of the runs."""
    kind: str
    """Of the tasks."""
    classes: int
    how: Literal["labelled", "pooled"]
    """Of their vectors."""
    condition: int
    """Length of a task's vector."""
    names: tuple[str, ...]
    """The tensors of an expert, in the order of its vector."""
    shapes: tuple[tuple[int, ...], ...]
    tasks: tuple[Learned, ...]
    form: dict[str, Any]
    """How rows are written, for examples that come without a task: columns, lengths, options of the first run's."""

    @property
    def layout(self) -> Layout:
        """Of the experts."""
        return Layout(self.names, self.shapes)

    @property
    def length(self) -> int:
        """Of a vector with its padding."""
        pad = self.settings.pad
        return -(-self.layout.length // pad) * pad


def read_record(folder: Path) -> Record:
    """What `generator.json` in `folder` says.

    Raises:
        ValueError: If it is missing or damaged.
    """
    path = folder / FILE
    if not path.is_file():
        raise ValueError(
            f"{folder} has no {FILE}, so it is no generator; give the folder that `weft learn` wrote"
        )
    return validate(Record, read_json(path, RECORDS), str(path))


def write_record(record: Record, folder: Path) -> None:
    """Write `generator.json`."""
    values = record.model_dump(mode="json")
    write_text(folder / FILE, json.dumps(values, indent=1) + "\n")

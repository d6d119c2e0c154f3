"""The demo of a minute: experts for three kinds of task, trained in the same batches over one base, and asked.

write_demo_data ─> three sets ─ train, together ─> experts ─ switch ─> a mixture that recognises a text's task
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from weft.answering.automatic import predict_auto
from weft.answering.evaluation import read_predictions
from weft.answering.recognition import RECOGNITION
from weft.config import Run, TaskSettings, load_run
from weft.data.generated import SIZES, write_demo_data
from weft.data.reading import LoadedTask, load_task
from weft.demo.demonstration import guess_score
from weft.runs import RunFolder
from weft.scoped import tell
from weft.storage.loading import load_mixture_model
from weft.tasks.cases import Case
from weft.tasks.scoring import Score
from weft.training.loop import Report, train

EXPERTS, MIXTURE = "experts", "mixture"
"""The run folders in `out`."""
ROWS: Mapping[str, tuple[int, int]] = {name: (train, 120) for name, (train, _) in SIZES.items()}
"""Train and validation rows by set."""
RECIPE: Mapping[str, Any] = {"name": "lora", "rank": 8, "alpha": 16, "targets": "all-linear"}
TRAINING: Mapping[str, Any] = {
    "max_steps": 100,
    "batch_size": 4,
    "learning_rate": 2e-3,
    "base_dropout": 0.0,
}
"""What got furthest in about as much time, of batches of 4, 8 and 16 at rates from 2e-3 to 4e-3: many small steps, and
none of the base's own dropout, which at 4e-3 and batches of 16 left the scores 14 to 28 points lower."""
RECOGNISING: Mapping[str, Any] = {"name": "switch", "baselines": False}
"""Nothing is trained, so it costs no time, and every row that is recognised gets its own expert's answer. Gates that
learn (early_pass, 12 steps) recognised as many, and lost 8 points of one expert's score."""
TELLING = 60
"""Train rows of each set that the recogniser is fitted to."""
TEXTS = 2
"""Rows of each set whose answers are shown."""


@dataclass(frozen=True)
class Shown:
    """A text, and what was made of it."""

    task: str
    case: Case
    taken_for: str
    """The task that the mixture took the text for, when nobody named one."""
    confidence: float
    """0 to 1."""
    as_expert: bool
    """Whether the mixture's answer is that of the task's own expert."""


@dataclass(frozen=True)
class Result:
    """One task: what its expert scores, what a guess does, what a mixture that must find the task out does."""

    task: str
    kind: str
    metric: str
    expert: Score
    guess: Score
    recognised: Score
    """The share of rows whose task the mixture named."""
    rows: int
    trained_parameters: int


@dataclass(frozen=True)
class Minute:
    """All of the demo."""

    out: str
    results: list[Result]
    shown: list[Shown]
    base_parameters: int
    training_seconds: float
    seconds: float
    """From the call to its end."""
    threads: int

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def minute(
    out: str | Path,
    *,
    base: str = "minilm",
    rows: Mapping[str, tuple[int, int]] = ROWS,
    training: Mapping[str, Any] | None = None,
    report: Report | None = None,
) -> Minute:
    """Make the sets, train an expert for each in the same batches, and ask them; a mixture finds out whose a text is.

    Args:
        out: A new folder: `data/`, and the run folders `experts/` (one for each set in it) and `mixture/`.
        base: What the experts stand on.
        rows: Train and validation rows by set.
        training: Training settings over the demo's own.
        report: Told after every step how far training is.

    Raises:
        ValueError: If `out` exists.
        Interrupted: If it was asked to stop.
    """
    began = time.perf_counter()
    out = Path(out)
    if out.exists():
        raise ValueError(f"{out} exists; choose another --out or remove it")
    tell("making three small sets")
    write_demo_data(out / "data", sizes=rows)
    tasks = {name: _task(out / "data", name) for name in rows}
    run = _run(base, tasks.values(), recipe=dict(RECIPE), training={**TRAINING, **(training or {})})
    experts = train(run, out=out / EXPERTS, report=report)
    few = [task.model_copy(update={"max_examples": {"train": TELLING}}) for task in tasks.values()]
    mixture = train(
        _run(base, few, mixture={**RECOGNISING, "runs": [str(experts.path)]}), out=out / MIXTURE
    )
    loaded = {
        name: load_task(task, splits=["train", "validation"], seed=run.seed)
        for name, task in tasks.items()
    }
    folders = {name: _part(experts, task) for name, task in tasks.items()}
    shown = _asked(mixture, loaded, folders)
    tell("what a guess scores")
    costs = [folder.training or {} for folder in folders.values()]
    return Minute(
        str(out),
        [_result(name, loaded[name], folders[name], _part(mixture, tasks[name])) for name in rows],
        shown,
        costs[0]["base_parameters"],
        costs[0]["seconds"],
        time.perf_counter() - began,
        torch.get_num_threads(),
    )


def _task(data: Path, name: str) -> TaskSettings:
    return TaskSettings(name=str(data / f"demo_{name}.yaml"), data=str(data / name))


def _run(base: str, tasks: Any, **values: Any) -> Run:
    return load_run({"base": base, "tasks": [task.model_dump() for task in tasks], **values})


def _part(folder: RunFolder, task: TaskSettings) -> RunFolder:
    return RunFolder.open(folder.path / task.label)


def _asked(
    mixture: RunFolder, loaded: Mapping[str, LoadedTask], folders: Mapping[str, RunFolder]
) -> list[Shown]:
    """The first validation rows of every set: what the expert has said of them, and what the mixture takes them for."""
    said = {name: read_predictions(folder.path) for name, folder in folders.items()}
    asked = [
        (name, row) for name, own in loaded.items() for row in own.splits["validation"][:TEXTS]
    ]
    tell("asking the mixture")
    model = load_mixture_model(mixture.path)
    shown = []
    for (name, row), answer in zip(asked, predict_auto(model, _inputs(asked)), strict=True):
        task = loaded[name].task
        own = said[name][row["id"]]
        case = task.case(own, row)
        assert case is not None
        label = str(answer["task"]).removeprefix("demo_")
        same = all(
            answer[key] == own[key]
            for key in ("label", "text", "tags")
            if key in own and key in answer
        )
        shown.append(Shown(name, case, label, answer["confidence"], label == name and same))
    return shown


def _inputs(asked: Sequence[tuple[str, Mapping[str, Any]]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "answers"} for _, row in asked]


def _result(name: str, loaded: LoadedTask, own: RunFolder, mixed: RunFolder) -> Result:
    metric = loaded.task.metric
    return Result(
        task=name,
        kind=loaded.task.spec.kind,
        metric=metric,
        expert=_score(own, metric),
        guess=guess_score(loaded),
        recognised=_score(mixed, RECOGNITION),
        rows=len(loaded.splits["validation"]),
        trained_parameters=(own.training or {})["trainable_parameters"],
    )


def _score(folder: RunFolder, name: str) -> Score:
    row = next(row for row in folder.metrics if row["name"] == name)
    return Score(row["value"], row["low"], row["high"])

"""From rows to outputs, predictions and scores; every score with its interval.

records ─ outputs ─> logits ─ decode ─> predictions ─ statistics ─ metrics, bootstrap ─> scores
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from weft.answering.gate_maps import gate_maps
from weft.answering.inference import TOKENS_PER_BATCH, Progress, outputs, padding_id
from weft.answering.recognition import RECOGNITION, recognition
from weft.atomic import write_text
from weft.base.tokens import check_tokens
from weft.config import Split
from weft.data.encoding import cache_folder, encode_examples
from weft.data.reading import LoadedTask, load_task
from weft.lowrank.route import Members
from weft.model.batching import Item
from weft.model.model import Model
from weft.runs import RunFolder
from weft.storage.loading import LoadedRun, load_mixture_model, load_run_model
from weft.tasks.contract import Example, Prediction, Record, Task
from weft.tasks.scoring import Score, score

MASK_SEED = 0
"""Decides which tokens a masked language model is scored on: the same in every evaluation."""


@dataclass(frozen=True)
class Evaluation:
    """How one expert did on one split."""

    task: str
    split: str
    """train, validation, test, or holdout: the tenth of train that was held out of training."""
    n: int
    scores: dict[str, Score]
    predictions: list[Prediction]

    def as_json(self) -> dict[str, Any]:
        """The scores without the predictions."""
        scores = {name: asdict(value) for name, value in self.scores.items()}
        return {"task": self.task, "split": self.split, "n": self.n, "scores": scores}


def evaluate(
    run: str | Path,
    *,
    data: str | None = None,
    split: Split = "validation",
    max_examples: int | None = None,
    tokens_per_batch: int = TOKENS_PER_BATCH,
    device: str = "auto",
    precision: str | None = None,
    save: bool = True,
    gates: bool = False,
    progress: Progress | None = None,
) -> Evaluation | list[Evaluation]:
    """The scores of a run folder's expert; a list of one for each task if the run trained several.

    Args:
        run: The run folder.
        data: Folder with the task's data (several tasks: with a sub-folder for each by name); None
            takes the run's own.
        split: Which rows.
        max_examples: Size of a seeded sample of them; None takes what the run says.
        tokens_per_batch: Padded tokens in one forward call.
        device: Where to compute.
        precision: Arithmetic of the forward pass; None takes the run's.
        save: Write predictions and scores into the folder (`save_evaluation`).
        gates: Write what a mixture's gates said as well: `gates-<split>.json`, by task.
        progress: Told how far it is, task by task.

    Raises:
        ValueError: If the folder, its expert or the data is not what it should be.
    """
    folder = RunFolder.open(run)
    several = bool(folder.run.tasks)
    found = []
    for part, loaded in _loaded(folder, device, precision):
        own = str(Path(data) / part.path.name) if data is not None and several else data
        rows, records = _rows(loaded, own, split, max_examples)
        result = _evaluate(
            loaded, rows, records, split, tokens_per_batch=tokens_per_batch, progress=progress
        )
        if save:
            save_evaluation(part, result, loaded.run.seed)
        if gates:
            text = json.dumps(gate_maps(loaded, records), indent=1)
            write_text(part.path / f"gates-{split}.json", text + "\n")
        found.append(result)
    return found if several else found[0]


def _loaded(
    folder: RunFolder, device: str, precision: str | None
) -> Iterator[tuple[RunFolder, LoadedRun]]:
    """Each task's folder and what answers its rows; the tasks of a mixture share one model."""
    if folder.run.mixture is not None and folder.run.tasks:
        runs = load_mixture_model(folder.path, device=device, precision=precision).runs
        for part in folder.parts():
            assert part.run.task is not None  # a part has one
            yield part, runs[part.run.task.label]
        return
    for part in folder.parts():
        yield part, load_run_model(part.path, device=device, precision=precision)


def _evaluate(
    loaded: LoadedRun,
    rows: LoadedTask,
    records: Sequence[Record],
    split: Split,
    *,
    tokens_per_batch: int,
    progress: Progress | None,
) -> Evaluation:
    examples = rows.splits[split]
    found = predictions(
        loaded.model,
        rows.task,
        examples,
        records,
        head=loaded.name,
        kind=rows.task.spec.kind,
        members=loaded.members,
        pad_id=padding_id(loaded.model.base),
        device=loaded.device,
        precision=loaded.precision,
        tokens_per_batch=tokens_per_batch,
        progress=progress,
    )
    scores = score(rows.task, found, examples, seed=loaded.run.seed)
    if loaded.recogniser is not None:
        scores[RECOGNITION] = recognition(
            loaded.model,
            loaded.recogniser,
            loaded.name,
            records,
            device=loaded.device,
            precision=loaded.precision,
        )
    return Evaluation(rows.task.spec.name, split, len(found), scores, found)


def _rows(
    loaded: LoadedRun, data: str | None, split: Split, max_examples: int | None
) -> tuple[LoadedTask, list[Record]]:
    """A split of the run's task, read and encoded."""
    settings = loaded.run.task
    assert settings is not None  # load_run_model refuses a folder of several tasks
    changed: dict[str, Any] = {"data": data or settings.data or loaded.run.data}
    if max_examples is not None:
        changed["max_examples"] = max_examples
    rows = load_task(
        settings.model_copy(update=changed),
        splits=[split],
        seed=loaded.run.seed,
        labels=loaded.card.labels,
    )
    base = loaded.model.base
    records = encode_examples(rows.task, rows.splits[split], base.tokenizer, cache=cache_folder())
    check_tokens(base, records)
    return rows, records


def save_evaluation(folder: RunFolder, result: Evaluation, seed: int) -> None:
    """Write `predictions-<split>.jsonl` and the scores in `metrics.json` into a run folder."""
    lines = [json.dumps(row, ensure_ascii=False, allow_nan=False) for row in result.predictions]
    write_text(folder.path / f"predictions-{result.split}.jsonl", "\n".join(lines) + "\n")
    common = {"n": result.n, "seed": seed, "split": result.split}
    rows = [{"name": name, **asdict(value), **common} for name, value in result.scores.items()]
    folder.write_metrics(rows)


def read_predictions(folder: Path, split: str = "validation") -> dict[str, Prediction]:
    """What `save_evaluation` wrote of a run's answers, by the row's id."""
    lines = (folder / f"predictions-{split}.jsonl").read_text(encoding="utf-8").splitlines()
    return {row["id"]: row for row in map(json.loads, lines)}


def sampled(task: Task, records: Sequence[Record], seed: int = MASK_SEED) -> list[Record]:
    """Records with what `task.sample` draws: by id, so that neither the rows beside one nor processes decide it."""
    return [
        task.sample(record, np.random.default_rng([seed, *record["id"].encode()]))
        for record in records
    ]


def predictions(
    model: Model,
    task: Task,
    examples: Sequence[Example],
    records: Sequence[Record],
    *,
    head: str,
    kind: str,
    members: Members,
    pad_id: int,
    device: torch.device | str,
    precision: str = "fp32",
    tokens_per_batch: int = TOKENS_PER_BATCH,
    sample_seed: int | None = MASK_SEED,
    progress: Progress | None = None,
) -> list[Prediction]:
    """What the expert says of each row, in order.

    Args:
        model: Has the experts resident.
        task: The head's task.
        examples: Checked rows.
        records: Their records.
        head: Expert whose head answers.
        kind: That head's kind.
        members: Experts whose adapters speak.
        pad_id: The base's padding token.
        device: Where the model is.
        precision: fp32, bf16, fp16 or fp64.
        tokens_per_batch: Padded tokens in one forward call.
        sample_seed: Decides what `task.sample` draws; None draws nothing, a text's own masks count.
        progress: Told how far it is.
    """
    if sample_seed is not None:
        records = sampled(task, records, sample_seed)
    raw = outputs(
        model,
        [Item(head, kind, members, record) for record in records],
        pad_id=pad_id,
        device=device,
        precision=precision,
        tokens_per_batch=tokens_per_batch,
        progress=progress,
    )
    return [
        task.decode(example, record, output)
        for example, record, output in zip(examples, records, raw, strict=True)
    ]

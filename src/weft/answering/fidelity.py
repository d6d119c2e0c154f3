"""What an export loses: the scores of a run's expert and of its graph on the same rows, and how far they are apart."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from weft.answering.evaluation import predictions, rows_of
from weft.answering.exported import Exported
from weft.answering.inference import Progress, padding_id, sampled
from weft.config import Split
from weft.storage.loading import load_run_model
from weft.tasks.scoring import Score, paired_difference, score


@dataclass(frozen=True)
class Fidelity:
    """An expert beside its graph on one split.

    Attributes:
        task: The task's name.
        split: Which rows.
        n: How many.
        changed: Rows whose answers differ in more than their probabilities' rounding does: other entities, spans,
            choices or classes; None where answers are numbers.
        expert: The expert's scores.
        graph: The graph's.
        lost: The graph's less the expert's, paired by row.
    """

    task: str
    split: str
    n: int
    changed: int | None
    expert: Mapping[str, Score]
    graph: Mapping[str, Score]
    lost: Mapping[str, Score]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def compared(
    run: str | Path,
    folder: str | Path,
    *,
    split: Split = "validation",
    max_examples: int | None = None,
    progress: Progress | None = None,
) -> Fidelity:
    """Score a run's expert and its export to ONNX on the same rows, both on the CPU in single precision.

    Args:
        run: The run folder.
        folder: What it was exported to.
        split: Which rows.
        max_examples: Size of a seeded sample of them; None takes what the run says.
        progress: Told how far the expert is.

    Raises:
        ValueError: If a folder is not what it should be, or the rows are not at hand.
    """
    loaded, exported = load_run_model(run, device="cpu", precision="fp32"), Exported(folder)
    base = loaded.model.base
    rows, records = rows_of(loaded.run, loaded.card, base, split, max_examples=max_examples)
    examples, task = rows.splits[split], rows.task
    records = sampled(task, records)
    ours = predictions(
        loaded.model,
        task,
        examples,
        records,
        head=loaded.name,
        kind=task.spec.kind,
        members=loaded.members,
        pad_id=padding_id(base),
        device=loaded.device,
        sample_seed=None,
        progress=progress,
    )
    theirs = exported.decoded(examples, records)
    seed = loaded.run.seed
    return Fidelity(
        task.spec.name,
        split,
        len(examples),
        _changed(ours, theirs),
        score(task, ours, examples, seed=seed),
        score(task, theirs, examples, seed=seed),
        paired_difference(task, theirs, ours, examples, seed=seed),
    )


def _changed(ours: list[Any], theirs: list[Any]) -> int | None:
    """Rows whose answers differ in what is no number."""
    pairs = [(_said(one), _said(other)) for one, other in zip(ours, theirs, strict=True)]
    if not any(one for one, _ in pairs):
        return None
    return sum(one != other for one, other in pairs)


def _said(value: Any) -> Any:
    """An answer without its fractions and its id; empty where nothing is left."""
    if isinstance(value, Mapping):
        own = {key: _said(item) for key, item in value.items() if key != "id"}
        return {key: item for key, item in own.items() if item not in (None, {}, [])}
    if isinstance(value, list | tuple):
        return [found for found in map(_said, value) if found not in (None, {}, [])]
    return None if isinstance(value, float) else value

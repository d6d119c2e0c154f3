"""What each task had before the merge and has after it, on the same rows."""

from dataclasses import dataclass

from weft.answering.evaluation import Evaluation, read_predictions
from weft.config import Split
from weft.merging.heads import Answered
from weft.merging.record import Compared
from weft.merging.stage import MERGED, Rows, Stage
from weft.scoped import tell
from weft.tasks.contract import Prediction
from weft.tasks.scoring import mistakes, paired_difference, score

SPLIT: Split = "validation"


@dataclass(frozen=True)
class Scored:
    """All tasks, as far as their rows are at hand."""

    evaluations: dict[str, Evaluation]
    """The merged expert's, by task."""
    compared: list[Compared]
    notes: list[str]


def scored(stage: Stage) -> Scored:
    """Score what was merged beside the experts that it was made of, task by task."""
    found = Scored({}, [], [])
    for one in stage.answered:
        label = one.part.label
        try:
            rows = stage.rows(one.part, SPLIT)
        except ValueError as error:
            found.notes.append(f"{label}: not scored, its rows are not at hand: {error}")
            continue
        tell(f"scoring {label}")
        task, seed = rows.loaded.task, one.part.folder.run.seed
        said = stage.said(one, rows, (MERGED,))
        scores = score(task, said, rows.examples, seed=seed)
        found.evaluations[label] = Evaluation(
            task.spec.name,
            SPLIT,
            len(said),
            scores,
            said,
            task.details(said, rows.examples),
            mistakes(task, said, rows.examples, seed=seed),
        )
        for other in _of_the_task(stage, one):
            before = _before(stage, other, rows)
            differences = paired_difference(task, said, before, rows.examples, seed=seed)
            found.compared.append(
                Compared(
                    task=label,
                    run=str(other.part.folder.path),
                    metric=task.metric,
                    higher_is_better=task.higher_is_better,
                    split=SPLIT,
                    n=len(said),
                    before=score(task, before, rows.examples, seed=seed)[task.metric],
                    after=scores[task.metric],
                    difference=differences[task.metric],
                )
            )
    return found


def _of_the_task(stage: Stage, one: Answered) -> list[Answered]:
    """Every expert of the same task, with its own head."""
    return [
        Answered(part, source.found)
        for source in stage.sources
        for part in source.found.parts
        if part.label == one.part.label
    ]


def _before(stage: Stage, one: Answered, rows: Rows) -> list[Prediction]:
    """What a task's own expert answers; what it left in its run folder, where that is of the same rows."""
    path = one.part.folder.path
    # Rows that are numbered are told apart by their numbers alone: of other data they are others.
    if stage.reads_own_data and (path / f"predictions-{SPLIT}.jsonl").is_file():
        left = read_predictions(path, SPLIT)
        ids = [example["id"] for example in rows.examples]
        if set(left) == set(ids):
            return [left[name] for name in ids]
    return stage.said(one, rows, (stage.name_of(one.own, one.part.label),))

"""What every recipe answered on one task and base, read once; shares of one in another."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from weft.comparison.comparing import Row, examples_of, predictions_of
from weft.comparison.grid import Cell
from weft.comparison.jobs import final_jobs
from weft.data.reading import LoadedTask
from weft.reproduction.plan import OWN, STUDY
from weft.reproduction.running import Outcome
from weft.runs import RunFolder
from weft.tasks.contract import Example, Prediction, Task
from weft.tasks.metrics import ratio
from weft.tasks.scoring import LEVEL, RESAMPLES, Score, interval, means

FULL, LORA = "full", "lora"


@dataclass(frozen=True)
class Way:
    """A recipe in one stage: at the study's rate, or at its own."""

    stage: str
    recipe: str


@dataclass(frozen=True)
class Answers:
    """Everything that was answered in one place."""

    base: str
    task: str
    loaded: LoadedTask
    rows: dict[Way, Row]
    runs: dict[Way, list[RunFolder]]
    """Seed by seed."""
    said: dict[Way, list[list[Prediction]]]
    """Validation predictions, seed by seed."""

    @property
    def metric(self) -> str:
        return self.loaded.task.metric

    def share(self, ours: Way, whole: Way) -> dict[str, Score]:
        """How large one way's mean scores are as shares of another's; none where one is not there."""
        if ours not in self.said or whole not in self.said:
            return {}
        examples = self.loaded.splits["validation"]
        return mean_share(self.loaded.task, self.said[ours], self.said[whole], examples)


def answers(outcome: Outcome, base: str, task: str) -> Answers | None:
    """What there is of one task and base; None where no cell is complete."""
    plan = outcome.plan
    rows, runs, said = {}, {}, {}
    loaded: LoadedTask | None = None
    for name in (STUDY, OWN):
        stage = plan.stage(name, base)
        for row in outcome.rows.get((name, base), []):
            if row.task != task:
                continue
            way = Way(name, row.recipe)
            cell = Cell(stage.grid.base, task, row.recipe)
            jobs = final_jobs(stage.grid, stage.folder, cell, row.learning_rate)
            rows[way], runs[way] = row, [RunFolder.open(job.folder) for job in jobs]
            loaded = loaded or examples_of(runs[way][0])
            ids = [example["id"] for example in loaded.splits["validation"]]
            said[way] = [predictions_of(run.path, ids) for run in runs[way]]
    return Answers(base, task, loaded, rows, runs, said) if loaded else None


def mean_share(
    task: Task,
    ours: Sequence[Sequence[Prediction]],
    whole: Sequence[Sequence[Prediction]],
    examples: Sequence[Example],
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> dict[str, Score]:
    """The mean over runs (seeds) of one method's scores divided by that of another's, by score.

    A resample draws rows, the same for every run of both (Efron and Tibshirani 1993, An Introduction to the Bootstrap,
    section 13.3). The interval does not hold the spread over seeds. A share of a score of 0 is left out.

    Args:
        task: Knows what to count.
        ours: For each run of one method its predictions, one a row.
        whole: The other's; it may have more runs, or fewer.
        examples: The rows, with their answers.
        resamples: Bootstrap resamples.
        level: Probability that the interval is meant to cover, 0 to 1.
        seed: Decides the resamples.
    """
    values, drawn = means(task, ours, examples, resamples, seed)
    of_values, of_drawn = means(task, whole, examples, resamples, seed)
    found = {}
    for name, value in values.items():
        share = float(ratio(value, of_values[name], empty=np.nan))
        if np.isfinite(share):
            each = ratio(drawn[name], of_drawn[name], empty=np.nan)
            found[name] = interval(share, each, level)
    return found

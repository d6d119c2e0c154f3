"""What every recipe answered on one task and base, read once; shares of one in another."""

from dataclasses import dataclass

from weft.comparison.comparing import Row, examples_of, predictions_of
from weft.comparison.grid import Cell
from weft.comparison.jobs import final_jobs
from weft.data.reading import LoadedTask
from weft.reproduction.plan import OWN, STUDY
from weft.reproduction.running import Outcome
from weft.reproduction.shares import mean_share
from weft.runs import RunFolder
from weft.tasks.contract import Prediction
from weft.tasks.scoring import Score

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

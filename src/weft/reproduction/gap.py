"""Beyond the study: how much of full fine-tuning each recipe keeps at a rate of its own, and whether that is enough."""

from dataclasses import dataclass

from weft.comparison.grid import label_of
from weft.reproduction.answers import FULL, LORA, Answers, Way
from weft.reproduction.plan import OWN, STUDY
from weft.tasks.scoring import Score

GOAL_SHARE = 0.97
"""Of full fine-tuning's score, each at its own rate: what LoRA is meant to reach."""
GOAL_PARAMETERS = 0.02
"""Of the base's parameters: what it may train for that, the head included."""


@dataclass(frozen=True)
class GapRow:
    """One recipe on one task and base."""

    base: str
    task: str
    stage: str
    """study: at the study's settings; own: at a rate searched for it."""
    recipe: str
    metric: str
    score: Score
    """Mean over seeds; the interval is over rows."""
    deviation: float
    """Standard deviation over seeds; 0 for one."""
    seeds: tuple[int, ...]
    n: int
    """Rows that were scored."""
    share: Score | None
    """Of full fine-tuning at its own rate; None where that is not there, or scores 0."""
    trained: int
    """Parameters, the head's included."""
    adapters: int
    """Those of them that are not the head's."""
    of: int
    """The base's parameters."""
    learning_rate: float
    on_edge: bool
    """The rate is the first or last of those tried."""

    @property
    def trained_share(self) -> float:
        return self.trained / self.of

    @property
    def meets_goal(self) -> bool:
        """Whether it keeps enough with few enough parameters."""
        enough = self.share is not None and self.share.value >= GOAL_SHARE
        return enough and self.recipe != FULL and self.trained_share < GOAL_PARAMETERS


@dataclass(frozen=True)
class Goal:
    """Whether low-rank training comes close enough to full fine-tuning on one task and base."""

    base: str
    task: str
    reached: bool
    recipe: str | None
    """The one that reaches it, LoRA as the study has it first; else the one that keeps most; None: unknown."""
    says: str


def gap(found: Answers) -> list[GapRow]:
    """The rows of one task and base: full fine-tuning and LoRA at the study's rate, then all at their own."""
    whole = Way(OWN, FULL)
    return [
        _row(found, way, found.share(way, whole).get(found.metric))
        for stage in (STUDY, OWN)
        for way in found.rows
        if way.stage == stage
    ]


def _row(found: Answers, way: Way, share: Score | None) -> GapRow:
    row = found.rows[way]
    training = found.runs[way][0].training or {}
    return GapRow(
        base=label_of(found.base),
        task=found.task,
        stage=way.stage,
        recipe=way.recipe,
        metric=row.metric,
        score=row.scores[row.metric],
        deviation=row.deviation,
        seeds=tuple(row.seeds),
        n=row.n,
        share=share,
        trained=row.trainable_parameters,
        adapters=row.adapter_parameters,
        of=training["base_parameters"],
        learning_rate=row.learning_rate,
        on_edge=row.on_edge,
    )


def goal(rows: list[GapRow], base: str, task: str) -> Goal:
    """What the rows of one task and base say of the goal."""
    own = [row for row in rows if row.stage == OWN and row.recipe != FULL and row.share]
    if not own:
        said = "not known: full fine-tuning or every recipe beside it is not finished"
        return Goal(base, task, False, None, said)
    reaching = [row for row in own if row.meets_goal]
    best = max(reaching or own, key=lambda row: row.share.value if row.share else 0.0)
    if not reaching:
        return Goal(base, task, False, best.recipe, f"not reached; most is kept by {_words(best)}")
    lora = next((row for row in own if row.recipe == LORA), None)
    if lora is not None and lora.meets_goal:
        return Goal(base, task, True, LORA, f"reached by {_words(lora)}")
    short = f"; {_words(lora)} falls short" if lora else ""
    return Goal(base, task, True, best.recipe, f"reached by {_words(best)}{short}")


def _words(row: GapRow) -> str:
    assert row.share is not None
    low, value, high = (100 * at for at in (row.share.low, row.share.value, row.share.high))
    return (
        f"{row.recipe} with {value:.1f} % ({low:.1f} to {high:.1f}) of full fine-tuning's {row.metric} and "
        f"{100 * row.trained_share:.2f} % of the base's parameters"
    )

"""Beyond the study: how much of full fine-tuning each recipe keeps at a rate of its own, and whether that is enough."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from weft.comparison.grid import label_of
from weft.comparison.leaderboard import leaderboard
from weft.reporting.document import Figure, Section, Table, safe_name
from weft.reporting.drawing import INK, MARKERS, PALETTE, axes, draw, number_logarithmic, wrapped
from weft.reporting.numbers import (
    NONE,
    compact,
    listed,
    number,
    percent,
    scale_of,
    scored,
    share,
    unit,
)
from weft.reporting.rates import rates_figure
from weft.reproduction.answers import FULL, LORA, Answers, Way
from weft.reproduction.plan import OWN, STUDY, Plan
from weft.reproduction.running import Outcome
from weft.tasks.scoring import Score

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

GOAL_SHARE = 0.97
"""Of full fine-tuning's score, each at its own rate: what LoRA is meant to reach."""
GOAL_PARAMETERS = 0.02
"""Of the base's parameters: what it may train for that, the head included."""
LINE, PANEL = 0.27, 2.4
"""Inches of a line of a list, and of a panel."""


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


def gap_section(outcome: Outcome, rows: Sequence[GapRow], goals: Sequence[Goal]) -> Section:
    """How much of full fine-tuning each recipe keeps, and whether the goal is reached."""
    plan = outcome.plan
    said = [
        f"Goal: at its own learning rate LoRA reaches at least {percent(GOAL_SHARE, 0)} % of full fine-tuning's score "
        f"with under {percent(GOAL_PARAMETERS, 0)} % of its parameters, the head included."
    ]
    said += [f"{plan.set_name(own.task)} on {own.base}: {own.says}." for own in goals]
    figures: list[Figure] = []
    tables = []
    for base in dict.fromkeys(map(label_of, plan.profile.bases)):
        own = [row for row in rows if row.base == base]
        if any(row.share for row in own):
            figures.append(_gap_figure(plan, base, own))
        if own:
            figures.append(_sizes_figure(plan, base, own))
            tables.append(_table(plan, base, own))
    parts = (*figures, *_rates_figures(outcome), *tables)
    return Section("gap", "The gap closed", tuple(said), parts=parts)


def rate_name(row: GapRow) -> str:
    """A recipe and whose rate it has."""
    return f"{row.recipe}, {'study' if row.stage == STUDY else 'own'} rate"


def is_whole(row: GapRow) -> bool:
    """Full fine-tuning at its own rate, which the others are held against."""
    return row.recipe == FULL and row.stage == OWN


def _table(plan: Plan, base: str, own: Sequence[GapRow]) -> Table:
    rows = [
        (
            plan.set_name(row.task),
            rate_name(row),
            unit(row.metric),
            scored(row.metric, row.score),
            number(row.metric, row.deviation) if len(row.seeds) > 1 else NONE,
            listed(row.seeds),
            f"{row.n:,}",
            "100" if is_whole(row) else share(row.share),
            percent(row.trained_share, 2),
            f"{row.learning_rate:g}" + (" (edge)" if row.on_edge else ""),
        )
        for row in own
    ]
    headers = (
        "set",
        "recipe",
        "score",
        "mean (95 % interval)",
        "sd over seeds",
        "seeds",
        "rows",
        "% of full, own rate",
        "trained (% of the base)",
        "learning rate",
    )
    caption = (
        f"{base}: full fine-tuning and LoRA at the study's rate, and every recipe at a rate searched on a held-out "
        "tenth of train. Intervals are over rows; trained parameters include the head's."
    )
    edge = ("(edge): the first or last rate tried; a better one may lie beyond.",)
    remarks = edge if any(row.on_edge for row in own) else ()
    return Table(caption, headers, tuple(rows), words=3, remarks=remarks)


def _sign(rows: Sequence[GapRow], row: GapRow) -> tuple[str, str]:
    """Colour and marker of a recipe and rate: the same on every set."""
    at = list(dict.fromkeys(map(rate_name, rows))).index(rate_name(row))
    return PALETTE[at % len(PALETTE)], MARKERS[at % len(MARKERS)]


def _gap_figure(plan: Plan, base: str, rows: Sequence[GapRow]) -> Figure:
    lines = [row for row in rows if row.share and not is_whole(row)]

    def paint(drawn: "Canvas") -> None:
        title = f"{base}: share of full fine-tuning"
        own = axes(drawn, title, "share of its score at its own rate (%)", "set, recipe and rate")
        for at, row in enumerate(lines):
            assert row.share is not None
            color, marker = _sign(rows, row)
            own.plot([100 * row.share.low, 100 * row.share.high], [at, at], color=color, lw=1.4)
            own.plot(100 * row.share.value, at, marker=marker, color=color, markersize=5)
        own.axvline(100, color=INK, linewidth=1)
        own.axvline(100 * GOAL_SHARE, color=INK, linewidth=0.9, linestyle=":")
        names = [wrapped(f"{plan.set_name(row.task)}: {rate_name(row)}") for row in lines]
        own.set_yticks(range(len(lines)), names)
        own.set_ylim(len(lines) - 0.4, -0.6)
        own.grid(visible=False, axis="y")
        own.tick_params(axis="y", length=0)

    said = [f"{plan.set_name(row.task)}, {rate_name(row)}: {share(row.share)} %" for row in lines]
    alt = f"{base}: scores as shares of full fine-tuning at its own rate. {'; '.join(said)}."
    caption = (
        "Each recipe's score as a share of full fine-tuning's, which has a rate of its own too: the line at 100 %; "
        f"the dotted line is the goal, {percent(GOAL_SHARE, 0)} %. Bars are 95 % bootstrap intervals over rows."
    )
    height = max(2.0, 1.0 + 1.4 * LINE * len(lines))
    return draw(safe_name(f"gap-{base}"), height, caption, alt, paint)


def _sizes_figure(plan: Plan, base: str, rows: Sequence[GapRow]) -> Figure:
    tasks = list(dict.fromkeys(row.task for row in rows))

    def paint(drawn: "Canvas") -> None:
        from matplotlib.lines import Line2D

        for at, task in enumerate(tasks, 1):
            here = [row for row in rows if row.task == task]
            scale, metric = scale_of(here[0].metric), unit(here[0].metric)
            x = "trained parameters (count, logarithmic scale)"
            own = axes(drawn, f"{plan.set_name(task)}, {base}", x, metric, at=(len(tasks), 1, at))
            for row in here:
                color, marker = _sign(rows, row)
                ends = [scale * row.score.low, scale * row.score.high]
                own.plot([row.trained, row.trained], ends, color=color, linewidth=1, alpha=0.5)
                own.plot(row.trained, scale * row.score.value, marker, color=color, markersize=5)
            own.set_xscale("log")
            own.margins(x=0.08)
            number_logarithmic(own, [row.trained for row in here], compact)
        signs = {rate_name(row): _sign(rows, row) for row in rows}
        handles = [
            Line2D([], [], color=color, marker=marker, ls="", label=name)
            for name, (color, marker) in signs.items()
        ]
        drawn.legend(handles=handles, loc="outside lower center", ncols=2)

    said = [
        f"{plan.set_name(row.task)}, {rate_name(row)}: {scored(row.metric, row.score)} with {compact(row.trained)}"
        for row in rows
    ]
    alt = f"{base}: score against trained parameters. {'; '.join(said)}."
    caption = (
        "Score against trained parameters, the head's included, a panel for each set; vertical lines are 95 % "
        "bootstrap intervals over rows."
    )
    height = PANEL * len(tasks) + 0.8
    return draw(safe_name(f"sizes-{base}"), height, caption, alt, paint)


def _rates_figures(outcome: Outcome) -> Iterator[Figure]:
    """The sensitivity to the rate, as `weft compare` draws it; all sets in one could not be read on a phone."""
    for (name, base), rows in outcome.rows.items():
        if name != OWN or not rows:
            continue
        stage = outcome.plan.stage(name, base)
        board = leaderboard(stage.grid, stage.folder, rows)
        for task in dict.fromkeys(row.task for row in rows):
            own = {**board, "rows": [row for row in board["rows"] if row["task"] == task]}
            figure = rates_figure(own, safe_name(f"rates-{label_of(base)}-{task}"))
            if figure is not None:
                yield figure

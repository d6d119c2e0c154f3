"""The report of some runs: which is best, how sure that is and what it cost; gates of mixtures; what is missing."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from weft.reporting.answers.classes import class_tables
from weft.reporting.answers.mistakes import mistake_parts
from weft.reporting.answers.verdict import verdict
from weft.reporting.combined.merges import MergedRun, merges_of
from weft.reporting.combined.merges import section as merge_section
from weft.reporting.combined.mixtures import MixtureRun, mixture_section, mixtures_of
from weft.reporting.document import Document, Section, Table
from weft.reporting.groups import Entry, Group, groups_of
from weft.reporting.numbers import (
    NONE,
    counted,
    decimal,
    interval,
    number,
    spread,
    unit,
    whole,
)
from weft.reporting.run_figures import figures_of
from weft.reporting.runs import TaskRun, read_runs

NOTHING_MISSING = "Nothing: every run has ended, was scored, and left its log."
READING = (
    "Scores named in percent are 100 times the fraction in the run folder; others are as they are.",
    "An interval is the 2.5th to the 97.5th percentile of the score over bootstrap resamples of the rows. It says what "
    "other rows of the same kind might give, not what another training seed might.",
    "Intervals that do not overlap show a difference; overlapping ones do not show that there is none: for that, "
    "compare two runs row by row.",
    "Trained parameters count all that training changed, the head included.",
)
"""How to read it."""


@dataclass(frozen=True)
class Report:
    """Everything there is to say of some runs."""

    groups: tuple[Group, ...]
    mixtures: tuple[MixtureRun, ...]
    merges: tuple[MergedRun, ...] = ()

    @property
    def missing(self) -> list[str]:
        """What the run folders lack, as sentences."""
        lines = [
            f"{run.run}, {run.task}: {line}"
            for group in self.groups
            for run in group.runs
            for line in run.missing
        ]
        return lines + [line for mixture in self.mixtures for line in mixture.missing]

    @property
    def title(self) -> str:
        runs = {run.run for group in self.groups for run in group.runs}
        tasks = dict.fromkeys(group.task for group in self.groups)
        return f"{counted(len(runs), 'run')} on {', '.join(tasks)}"


def gather(paths: Sequence[str | Path]) -> Report:
    """The report of some run folders, or of all below some folders.

    Raises:
        ValueError: If there is none, or one is damaged.
    """
    runs = read_runs(paths)
    return Report(tuple(groups_of(runs)), tuple(mixtures_of(runs)), tuple(merges_of(runs)))


def document(report: Report) -> Document:
    """All of it: a section for each task and split, one for each mixture, what is missing, and how to read it.

    Raises:
        ValueError: If matplotlib is not installed.
    """
    missing = report.missing
    return Document(
        report.title,
        (
            *map(group_section, report.groups),
            *map(mixture_section, report.mixtures),
            *map(merge_section, report.merges),
            Section(
                "missing",
                "What is missing",
                words=() if missing else (NOTHING_MISSING,),
                notes=tuple(missing),
                brief=bool(missing),
            ),
            Section("reading", "How to read it", notes=READING, brief=False),
        ),
        _values(report),
    )


def group_section(group: Group) -> Section:
    """What was measured on one task's rows of one split."""
    return Section(
        key=group.key,
        heading=group.heading,
        words=(*verdict(group), *_summary(group)),
        notes=group.remarks,
        parts=(
            _score_table(group),
            *figures_of(group),
            *class_tables(group),
            *mistake_parts(group),
            _runs_table(group),
        ),
    )


def _summary(group: Group) -> list[str]:
    """Which entry is best, how sure that is, and what it cost, as sentences."""
    scored = group.scored
    if not scored:
        return ["None of these runs has been scored."]
    best = scored[0]
    assert best.interval is not None
    low, high = (number(group.metric, end) for end in best.interval)
    seeds = len(best.runs)
    order = "the highest" if group.higher_is_better else "the lowest"
    first = order if len(scored) > 1 else "this"
    said = number(group.metric, best.score or 0.0)
    lines = [
        f"{best.name} has {first} {unit(group.metric)}: {said} "
        + (
            f"(mean of {seeds} seeds; their 95 % intervals over rows reach from {low} to {high})."
            if seeds > 1
            else f"(one seed; 95 % interval over rows {low} to {high})."
        )
    ]
    if len(scored) > 1:
        near = [entry for entry in scored[1:] if _overlap(entry, best)]
        lines.append(
            f"Of the other {len(scored) - 1}, the intervals of {len(near)} overlap with its own: these scores alone do "
            "not settle whether it is better than those."
            if near
            else "No other's interval overlaps with its own."
        )
    small = _smallest_near(scored, best)
    if small is not None:
        lines.append(
            f"The smallest of those is {small.name}, with {small.cost('trainable_parameters'):,.0f} "
            f"trained parameters in place of {best.cost('trainable_parameters'):,.0f}."
        )
    return lines


def _smallest_near(scored: Sequence[Entry], best: Entry) -> Entry | None:
    key = "trainable_parameters"
    own = best.cost(key)
    near = [
        entry for entry in scored if _overlap(entry, best) and entry.cost(key) not in (None, 0.0)
    ]
    if own is None or not near:
        return None
    smallest = min(near, key=lambda entry: entry.cost(key) or 0.0)
    return None if (smallest.cost(key) or own) >= own else smallest


def _overlap(one: Entry, other: Entry) -> bool:
    if one.interval is None or other.interval is None:
        return False
    return one.interval[0] <= other.interval[1] and other.interval[0] <= one.interval[1]


def _score_table(group: Group) -> Table:
    """One line for each entry: score, how sure, and what it cost."""
    metric = group.metric
    rows = []
    for place, entry in enumerate(group.entries, 1):
        trained, base = entry.cost("trainable_parameters"), entry.cost("base_parameters")
        ends = entry.interval
        rows.append(
            (
                str(place),
                entry.name,
                NONE if entry.score is None else number(metric, entry.score),
                NONE if ends is None else " to ".join(number(metric, end) for end in ends),
                str(len(entry.runs)),
                NONE if entry.spread is None else spread(metric, entry.spread),
                whole(trained),
                NONE if trained is None or not base else _of_the_base(trained / base),
                decimal(entry.cost("seconds_per_epoch")),
                decimal(entry.cost("seconds")),
                whole(entry.cost("peak_memory_mib")),
            )
        )
    headers = (
        "#",
        "method",
        unit(metric),
        "95 % intervals",
        "seeds",
        "sd over seeds",
        "trained parameters",
        "% of the base",
        "s/epoch",
        "s in all",
        "peak memory (MiB)",
    )
    caption = (
        f"{group.heading}, best first. Runs that differ in their seeds alone are one line: means over seeds of the "
        "score and the costs; intervals reach from the lowest to the highest end of the runs' 95 % bootstrap intervals."
    )
    return Table(caption, headers, tuple(rows), words=2)


def _runs_table(group: Group) -> Table:
    """One line for each run, with every score."""
    names = list(dict.fromkeys(row["name"] for run in group.runs for row in run.scores))
    rows = []
    for place, entry in enumerate(group.entries, 1):
        for run in entry.runs:
            scores = {row["name"]: row for row in run.scores}
            cost = run.cost or {}
            rate = cost.get("learning_rate")
            rows.append(
                (
                    str(place),
                    run.run,
                    str(run.seed),
                    *(interval(name, scores[name]) if name in scores else NONE for name in names),
                    whole(run.score and run.score["n"]),
                    whole(cost.get("examples")),
                    whole(cost.get("steps")),
                    NONE if rate is None else f"{rate:g}",
                    cost.get("learning_rate_from") or NONE,
                    decimal(cost.get("seconds")),
                )
            )
    headers = (
        "#",
        "run",
        "seed",
        *map(unit, names),
        "rows",
        "trained on",
        "steps",
        "rate",
        "its source",
        "s",
    )
    caption = (
        f"{group.heading}, run by run: every score with its 95 % bootstrap interval over rows."
    )
    return Table(
        caption,
        headers,
        tuple(rows),
        words=2,
        folded="Run by run, every score",
        brief=False,
    )


def _values(report: Report) -> dict[str, Any]:
    return {
        "sections": [
            {
                "task": group.task,
                "split": group.split,
                "metric": group.metric,
                "remarks": list(group.remarks),
                "methods": [
                    {
                        "name": entry.name,
                        "score": entry.score,
                        "interval": entry.interval,
                        "spread": entry.spread,
                        "runs": [_run(run) for run in entry.runs],
                    }
                    for entry in group.entries
                ],
            }
            for group in report.groups
        ],
        "mixtures": [
            {
                "run": mixture.run,
                "mixture": mixture.method,
                "beside": list(mixture.standings),
                "gates": [
                    {
                        "task": t.task,
                        "split": t.split,
                        "gates": dict(zip(t.columns, t.averages, strict=True)),
                    }
                    for t in mixture.gates
                ],
            }
            for mixture in report.mixtures
        ],
        "merges": [{"run": own.run, **asdict(own.record)} for own in report.merges],
        "missing": report.missing,
    }


def _run(run: TaskRun) -> dict[str, Any]:
    cost = dict(run.cost) if run.cost else None
    return {
        "run": str(run.folder.path),
        "seed": run.seed,
        "metrics": [dict(row) for row in run.scores],
        "training": cost,
    }


def _of_the_base(fraction: float) -> str:
    """Percent with two digits, and all of those before the point."""
    return f"{100 * fraction:.{2 if fraction < 0.995 else 3}g}"

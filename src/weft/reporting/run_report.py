"""What a report says of some runs: sections, mixtures, and in words which is best and how sure that is."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from weft.reporting.document import unit
from weft.reporting.mixtures import MixtureRun, mixtures_of
from weft.reporting.runs import read_runs
from weft.reporting.sections import Entry, Section, sections_of
from weft.reporting.tables import number


@dataclass(frozen=True)
class Report:
    """Everything there is to say of some runs."""

    sections: tuple[Section, ...]
    mixtures: tuple[MixtureRun, ...]

    @property
    def missing(self) -> list[str]:
        """What the run folders lack, as sentences."""
        lines = [
            f"{run.run}, {run.task}: {line}"
            for section in self.sections
            for run in section.runs
            for line in run.missing
        ]
        return lines + [line for mixture in self.mixtures for line in mixture.missing]

    @property
    def title(self) -> str:
        runs = {run.run for section in self.sections for run in section.runs}
        tasks = dict.fromkeys(section.task for section in self.sections)
        return f"{_count(len(runs), 'run')} on {', '.join(tasks)}"


def gather(paths: Sequence[str | Path]) -> Report:
    """The report of some run folders, or of all below some folders.

    Raises:
        ValueError: If there is none, or one is damaged.
    """
    runs = read_runs(paths)
    return Report(tuple(sections_of(runs)), tuple(mixtures_of(runs)))


def summary(section: Section) -> list[str]:
    """Which entry is best, how sure that is, and what it cost, as sentences."""
    scored = section.scored
    if not scored:
        return ["None of these runs has been scored."]
    best = scored[0]
    assert best.interval is not None
    low, high = (number(section.metric, end) for end in best.interval)
    seeds = len(best.runs)
    order = "the highest" if section.higher_is_better else "the lowest"
    first = order if len(scored) > 1 else "this"
    said = number(section.metric, best.score or 0.0)
    lines = [
        f"{best.name} has {first} {unit(section.metric)}: {said} "
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


def _count(number_of: int, noun: str) -> str:
    return f"{number_of} {noun}" if number_of == 1 else f"{number_of} {noun}s"

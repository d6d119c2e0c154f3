"""Tables as cells of text; the terminal, Markdown and the page show the same ones."""

from dataclasses import dataclass
from typing import Any

from weft.reporting.mixtures import MixtureRun
from weft.reporting.sections import Section
from weft.reporting.tables import interval, is_fraction, number

NONE = "n/a"
"""A cell for what was not measured."""


@dataclass(frozen=True)
class Table:
    """Cells as text."""

    caption: str
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int = 1
    """How many columns from the left hold words; the others hold numbers."""


def heading(section: Section) -> str:
    """What a section is called."""
    return f"{section.task} ({section.split or 'not scored yet'})"


def unit(metric: str) -> str:
    """A score's name with its unit."""
    return f"{metric} (%)" if is_fraction(metric) else metric


def score_table(section: Section) -> Table:
    """One line for each entry: score, how sure, and what it cost."""
    metric = section.metric
    rows = []
    for place, entry in enumerate(section.entries, 1):
        trained, base = entry.cost("trainable_parameters"), entry.cost("base_parameters")
        ends = entry.interval
        rows.append(
            (
                str(place),
                entry.name,
                NONE if entry.score is None else number(metric, entry.score),
                NONE if ends is None else " to ".join(number(metric, end) for end in ends),
                str(len(entry.runs)),
                NONE if entry.spread is None else _spread(metric, entry.spread),
                _whole(trained),
                f"{100 * trained / base:.2g}" if trained is not None and base else NONE,
                _decimal(entry.cost("seconds_per_epoch")),
                _decimal(entry.cost("seconds")),
                _whole(entry.cost("peak_memory_mib")),
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
        f"{heading(section)}, best first. Runs that differ in their seeds alone are one line: means over seeds of the "
        "score and the costs; intervals reach from the lowest to the highest end of the runs' 95 % bootstrap intervals."
    )
    return Table(caption, headers, tuple(rows), words=2)


def runs_table(section: Section) -> Table:
    """One line for each run, with every score."""
    names = list(dict.fromkeys(row["name"] for run in section.runs for row in run.scores))
    rows = []
    for place, entry in enumerate(section.entries, 1):
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
                    _whole(run.score and run.score["n"]),
                    _whole(cost.get("examples")),
                    _whole(cost.get("steps")),
                    NONE if rate is None else f"{rate:g}",
                    _decimal(cost.get("seconds")),
                )
            )
    headers = ("#", "run", "seed", *map(unit, names), "rows", "trained on", "steps", "rate", "s")
    caption = (
        f"{heading(section)}, run by run: every score with its 95 % bootstrap interval over rows."
    )
    return Table(caption, headers, tuple(rows), words=2)


def standings_table(mixture: MixtureRun) -> Table:
    """A mixture beside what it has to beat."""
    rows = []
    for row in mixture.standings:
        metric, apart = row["metric"], row["difference"]
        rows.append(
            (
                row["task"],
                unit(metric),
                row["what"],
                interval(metric, row["score"]),
                NONE if apart is None else interval(metric, apart),
                f"{row['n']:,}",
            )
        )
    headers = (
        "task",
        "score",
        "what",
        "value (95 % interval)",
        "mixture - this (95 % interval)",
        "rows",
    )
    caption = (
        f"{mixture.run} ({mixture.method}) beside each task's own expert and the simpler ways to combine them; "
        "differences are paired over the same rows."
    )
    return Table(caption, headers, tuple(rows), words=3)


def gates_table(mixture: MixtureRun) -> Table:
    """The mean gate over all maps, by task and expert."""
    columns = list(dict.fromkeys(name for table in mixture.gates for name in table.columns))
    rows = []
    for table in mixture.gates:
        means = dict(zip(table.columns, table.averages, strict=True))
        cells = [means.get(column) for column in columns]
        values = (NONE if value is None else f"{value:.3f}" for value in cells)
        rows.append((table.task, table.split, *values, f"{table.tokens:,}"))
    caption = f"{mixture.run} ({mixture.method}): mean gate over all maps and tokens, by task (rows) and expert."
    return Table(caption, ("task", "split", *columns, "tokens"), tuple(rows), words=2)


def _spread(metric: str, value: float) -> str:
    return f"{100 * value:.2f}" if is_fraction(metric) else f"{value:.2g}"


def _whole(value: Any) -> str:
    return NONE if value is None else f"{value:,.0f}"


def _decimal(value: float | None) -> str:
    return NONE if value is None else f"{value:,.1f}"

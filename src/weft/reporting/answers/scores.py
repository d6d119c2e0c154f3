"""What commands print of scores: those of an evaluation, those that a training left, those beside a mixture."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from weft.reporting.answers.classes import MOST_CLASSES, by_class
from weft.reporting.numbers import interval, is_fraction
from weft.reporting.writers import console, say, show_table
from weft.runs import STANDINGS, RunFolder

if TYPE_CHECKING:
    from weft.answering.evaluation import Evaluation
    from weft.answering.fidelity import Fidelity


def as_json_value(found: "Evaluation | list[Evaluation]") -> Any:
    """The scores of one task, or a list of them."""
    return [one.as_json() for one in found] if isinstance(found, list) else found.as_json()


def show_scores(found: "Evaluation | list[Evaluation]") -> None:
    """Print evaluations as a table, and class by class where there are classes, as many as a terminal has room for."""
    told = found if isinstance(found, list) else [found]
    rows = [one.as_json() for one in told]
    _scores([(row["task"], row["split"], row["n"], row["scores"]) for row in rows])
    for one in told:
        if one.details is not None and len(one.details.classes) <= MOST_CLASSES:
            show_table(by_class(one.details, one.task))


def show_fidelity(found: "Fidelity") -> None:
    """Print what an export scores beside the expert that it was made of."""
    table = Table("task", "split", "rows", "score", "expert", "export", "export - expert")
    for at, name in enumerate(found.expert):
        first = [escape(found.task), found.split, f"{found.n:,}"] if at == 0 else ["", "", ""]
        unit = "%" if is_fraction(name) else ""
        sides = (found.expert, found.graph, found.lost)
        values = [interval(name, asdict(side[name])) for side in sides]
        table.add_row(*first, f"{name} {unit}".strip(), *values)
    console().print(table)
    if found.changed is not None:
        say(console(), f"answers that changed: {found.changed:,} of {found.n:,}")


def summary_of(folder: RunFolder) -> Any:
    """Scores and costs of a run; a list where it trained several tasks."""
    found = [
        {
            "run": str(part.path),
            "task": Path(part.run.task.name).stem if part.run.task else None,
            "recipe": part.run.recipe.name,
            "metrics": part.metrics,
            "training": part.training,
        }
        for part in folder.parts()
    ]
    return found if folder.run.tasks else found[0]


def show_runs(folder: RunFolder) -> None:
    """Print what a training left: scores, parameters, time and where it is."""
    summaries = summary_of(folder)
    summaries = summaries if isinstance(summaries, list) else [summaries]
    rows = []
    for summary in summaries:
        metrics = summary["metrics"]
        scores = {row["name"]: row for row in metrics}
        rows.append((summary["task"], metrics[0]["split"], metrics[0]["n"], scores))
    _scores(rows)
    beside = folder.path / STANDINGS
    if beside.is_file():
        _standings(json.loads(beside.read_text(encoding="utf-8")))
    for summary in summaries:
        cost = summary["training"]
        said = (
            f"{summary['run']}: {cost['trainable_parameters']:,} trained parameters, "
            f"{cost['steps']} steps, {cost['seconds']:.1f} s"
        )
        say(console(), said)


def _standings(found: Mapping[str, Any]) -> None:
    """What stands beside a mixture, and where it loses."""
    table = Table("task", "rows", "what", "score", "% (95 % interval)", "mixture - this")
    for row in found["rows"]:
        metric, difference = row["metric"], row["difference"]
        apart = "" if difference is None else interval(metric, difference)
        value = interval(metric, row["score"])
        table.add_row(row["task"], f"{row['n']:,}", escape(row["what"]), metric, value, apart)
    out = console()
    out.print(table)
    say(out, *found["remarks"])


def _scores(rows: Sequence[tuple[Any, str, int, Mapping[str, Mapping[str, Any]]]]) -> None:
    table = Table("task", "split", "rows", "score", "value (95 % interval)")
    for task, split, n, scores in rows:
        for at, (name, value) in enumerate(scores.items()):
            first = [escape(str(task)), split, str(n)] if at == 0 else ["", "", ""]
            unit = "%" if is_fraction(name) else ""
            table.add_row(*first, f"{name} {unit}".strip(), interval(name, value))
    console().print(table)

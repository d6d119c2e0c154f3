"""What commands print beside reports: scores, runs, lists, pages, predictions."""

import json
from collections.abc import Mapping, Sequence
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


def show_list(what: str, entries: Sequence[Mapping[str, str]]) -> None:
    """Print a list of the catalogue."""
    if entries:
        console().print(_table(entries))
    else:
        console().print(f"no {what} yet", markup=False)


def show_page(page: Mapping[str, Any]) -> None:
    """Print a page of the catalogue: a line for each value, a table for each list of things."""
    out = console()
    for key, value in page.items():
        if value in (None, "", [], {}):
            continue
        if isinstance(value, list) and isinstance(value[0], dict):
            out.print(f"{key}:", markup=False)
            out.print(_table(value))
        elif isinstance(value, str) and "\n" in value:
            out.print(f"{key}:", markup=False)
            out.print("\n".join(f"    {line}" for line in value.split("\n")), markup=False)
        else:
            out.print(f"{key}: {_plain(value)}", markup=False, soft_wrap=True)


def readable(prediction: Mapping[str, Any]) -> str:
    """A prediction for people: its text or label, with each found thing on a line of its own."""
    found = {key: value for key, value in prediction.items() if key not in ("id", "tags")}
    if "continuation" in found:
        return found["continuation"]
    lines = []
    for key, value in found.items():
        if isinstance(value, list) and value and isinstance(value[0], Mapping):
            lines += [f"{key}:", *(f"  {_plain(item)}" for item in value)]
        else:
            lines.append(f"{key}: {_plain(value) if value != [] else 'none'}")
    return "\n".join(lines)


def _table(entries: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(*entries[0])
    for entry in entries:
        table.add_row(*(escape(_plain(value)) for value in entry.values()))
    return table


def _plain(value: Any) -> str:
    """A JSON value without brackets and quotes, as far as that stays clear."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, Mapping):
        return "  ".join(f"{key} {_plain(item)}" for key, item in value.items())
    return ", ".join(_plain(item) for item in value)

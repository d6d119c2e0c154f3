"""How much of full fine-tuning's score LoRA keeps on all rows at hand."""

from typing import Any

from website.measured.files import NAMES, by_set, measured_on
from website.measured.points import Point, points_figure
from weft.reporting.document import Document, Section, Table
from weft.reporting.numbers import interval, percent

RECIPES = {
    "full": "full fine-tuning",
    "lora": "LoRA, query and value",
    "lora-all-linear": "LoRA, all linear maps",
}


def document() -> Document | None:
    """Scores by set and recipe; None where nothing was measured."""
    found = by_set("accuracy")
    if not found:
        return None
    parts = (_table(found), _figure(found))
    words = (
        "Full fine-tuning and LoRA of rank 8, each at a rate that was searched for it, on all training rows at hand "
        "(SQuAD's 8,310 among them). % of full: the share of full fine-tuning's score.",
        measured_on(next(iter(found.values()))),
    )
    return Document(
        "LoRA beside full fine-tuning",
        (
            Section("short", "In short", notes=tuple(_kept(found))),
            Section("scores", "Scores", words, parts=parts),
        ),
    )


def _rows(found: dict[str, dict[str, Any]]) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Every row with its set and the row of full fine-tuning beside it."""
    return [
        (task, row, next(one for one in result["rows"] if one["recipe"] == "full"))
        for task, result in found.items()
        for row in result["rows"]
    ]


def _share(row: dict[str, Any], full: dict[str, Any]) -> float:
    metric = row["metric"]
    return row["scores"][metric]["value"] / full["scores"][metric]["value"]


def _kept(found: dict[str, dict[str, Any]]) -> list[str]:
    lines = []
    for task in found:
        own = [(row, full) for at, row, full in _rows(found) if at == task and row is not full]
        said = [
            f"{RECIPES[row['recipe']]} {percent(_share(row, full))} % with "
            f"{percent(row['trainable_parameters'] / full['trainable_parameters'], 2)} % of its parameters"
            for row, full in own
        ]
        lines.append(f"{NAMES[task]}, kept of full fine-tuning: {'; '.join(said)}.")
    return lines


def _table(found: dict[str, dict[str, Any]]) -> Table:
    rows = [
        (
            NAMES[task],
            RECIPES[row["recipe"]],
            f"{row['trainable_parameters']:,}",
            f"{row['learning_rate']:g}",
            interval(row["metric"], row["scores"][row["metric"]]),
            percent(row["deviation"]),
            percent(_share(row, full)),
            str(len(row["seeds"])),
            f"{row['n']:,}",
        )
        for task, row, full in _rows(found)
    ]
    headers = ("set", "recipe", "trained", "rate", "score % (95 % interval)", "± seeds")
    headers += ("% of full", "seeds", "rows")
    return Table("Means over seeds; intervals over rows.", headers, tuple(rows), words=2)


def _figure(found: dict[str, dict[str, Any]]) -> Any:
    points = []
    for task, row, _ in _rows(found):
        score = {key: 100 * value for key, value in row["scores"][row["metric"]].items()}
        kind = RECIPES[row["recipe"]]
        short = NAMES[task].partition(",")[0].partition(" (")[0]
        points.append(Point(f"{short}: {kind}", **score, kind=kind))
    return points_figure(
        "accuracy",
        points,
        title="Scores by recipe",
        axis="score (%)",
        caption="Scores with 95 % bootstrap intervals over rows.",
    )

"""What `weft reproduce --profile small` found: the gap to full fine-tuning, and the one table that README shows."""

from typing import Any

from website.measured.files import NAMES, read
from website.measured.points import Point, points_figure
from weft.reporting.document import Document, Section, Table
from weft.reporting.numbers import interval, percent
from weft.reporting.writers import table_lines

OWN = "own"
"""The stage of runs at rates that were searched for them."""
RECIPES = {
    "full": "full fine-tuning",
    "lora": "LoRA, query and value",
    "lora-all-linear": "LoRA, all linear maps",
}


def document() -> Document | None:
    """Every recipe at the study's rate and at its own; None where it was not run."""
    result = read("small/reproduction")
    if result is None:
        return None
    stand_ins = [
        entry["difference"] for part in ("bases", "sets") for entry in result[part].values()
    ]
    words = (
        f"The study's tasks on the embedded base, {len(result['seeds'])} seeds; "
        f"weft reproduce --profile small --seeds {len(result['seeds'])} makes all of it. "
        "% of full is the share of full fine-tuning at its own rate; bootstrap intervals over rows.",
        f"Stand-ins: {'; '.join(filter(None, stand_ins))}.",
    )
    goals = tuple(f"{_called(result, goal)}: {goal['says']}." for goal in _by_set(result["goals"]))
    return Document(
        "The study's tasks",
        (
            Section(
                "short",
                "In short",
                (
                    "Goal: at least 97 % of full fine-tuning's score, each at a rate of its own, with under 2 % of its "
                    "parameters.",
                ),
                goals,
            ),
            Section("gap", "The gap to full fine-tuning", words, parts=_gap(result)),
            Section("mixtures", "Mixtures of the same experts", parts=(_mixtures(result),)),
        ),
    )


def readme_lines() -> list[str]:
    """The table of README: what LoRA keeps at a rate of its own."""
    result = read("small/reproduction")
    if result is None:
        return ["Not measured yet: `weft reproduce --profile small`."]
    own = {(row["task"], row["recipe"]): row for row in result["gap"] if row["stage"] == OWN}
    rows = [
        (
            f"{_called(result, own[task, 'full'])}, {own[task, 'full']['metric']}",
            *(_kept(own[task, recipe]) for recipe in RECIPES),
        )
        for task in NAMES
    ]
    trained = [own["wnut17", recipe]["trained_share"] for recipe in RECIPES]
    rows.append(("trained, % of the base (WNUT17)", *(percent(share, 2) for share in trained)))
    return table_lines(("score %", *RECIPES.values()), rows, words=1)


def _kept(row: dict[str, Any]) -> str:
    said = percent(row["score"]["value"])
    return said if row["recipe"] == "full" else f"{said} ({percent(row['share']['value'])} of full)"


def _by_set(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: list(NAMES).index(row["task"]))


def _called(result: dict[str, Any], row: dict[str, Any]) -> str:
    return result["sets"][row["task"]]["called"]


def _gap(result: dict[str, Any]) -> tuple[Any, ...]:
    rows, points = [], []
    for row in _by_set(result["gap"]):
        rows.append(
            (
                f"{_called(result, row)}, {row['metric']}",
                RECIPES[row["recipe"]],
                f"{row['learning_rate']:g} ({row['stage']})",
                percent(row["trained_share"], 2),
                interval(row["metric"], row["score"]),
                percent(row["deviation"]),
                "" if row["share"] is None else percent(row["share"]["value"]),
            )
        )
        own = {key: 100 * value for key, value in row["score"].items()}
        kind = RECIPES[row["recipe"]]
        rate = "study's rate" if row["stage"] != OWN else "own rate"
        points.append(Point(f"{_called(result, row)}: {kind}, {rate}", **own, kind=kind))
    headers = ("set", "recipe", "learning rate", "trained, % of base", "score % (95 % interval)")
    headers += ("± seeds", "% of full")
    figure = points_figure(
        "reproduction",
        points,
        title="Scores by recipe and rate",
        axis="score (%)",
        caption="At the study's rate and at rates of their own, with 95 % bootstrap intervals over rows.",
    )
    return figure, Table("Means over seeds.", headers, tuple(rows), words=2)


def _mixtures(result: dict[str, Any]) -> Table:
    rows = tuple(
        (
            row["mixture"],
            _called(result, row),
            interval(row["metric"], row["score"]),
            percent(row["expert"]["value"]),
            f"{100 * row['difference']['value']:+.1f}",
            percent(row["recognition"]),
        )
        for row in result["mixtures"]
    )
    headers = ("mixture", "set", "score % (95 % interval)", "own expert %", "mixture - expert")
    headers += ("task recognised %",)
    caption = (
        "Mixtures of the three LoRA experts at their own rates, each trained at its default rate."
    )
    return Table(caption, headers, rows, words=2)

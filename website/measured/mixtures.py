"""Every mixture beside the experts that it mixes."""

from typing import Any

from website.measured.files import NAMES, measured_on, read
from website.measured.points import Point, points_figure
from weft.reporting.document import Document, Section, Table
from weft.reporting.numbers import percent


def document() -> Document | None:
    """Shares of the own experts' scores, sizes of gates, times; None where nothing was measured."""
    result = read("mixtures")
    if result is None:
        return None
    short = sum(bool(row.get("on_edge")) for row in result["rows"])
    words = (
        f"Three experts, {result['settings']['rows']:,} training rows a task; each mixture at its own searched rate. "
        "Heads are known; recognised is the share of rows whose task the mixture names itself.",
        "Frozen experts' gates, and mixtures that start from experts, learn for two epochs; what is trained from "
        f"nothing for five. {short} methods were best at the smallest or largest rate tried; they may have more in "
        "them.",
        measured_on(result),
    )
    goals = tuple(f"{goal['goal']}: {_reached_by(goal)}" for goal in result["goals"])
    figures = tuple(_figure(result, task) for task in NAMES)
    return Document(
        "Mixtures of experts",
        (
            Section("short", "In short", notes=goals),
            Section("scores", "Scores", words, parts=(_table(result), *figures)),
        ),
    )


def _reached_by(goal: dict[str, Any]) -> str:
    """Who reached a goal, of how many; the least number where all did."""
    if not goal["reached"]:
        return "not reached."
    names, numbers = goal["by"], goal["numbers"]
    if len(names) == len(numbers) > 1:
        return f"reached by every mixture ({100 * min(numbers.values()):.1f} % at least)."
    return f"reached by {', '.join(names)} of {len(numbers)}."


def _table(result: dict[str, Any]) -> Table:
    rows = []
    for row in result["rows"]:
        tasks = row["tasks"]
        cells = [
            f"{percent(own['score']['value'])} ({percent(own['share_of_own'])})"
            for own in (tasks[task] for task in NAMES)
        ]
        gate, took, seen = "", "", ""
        if "gate_parameters" in row:
            gate = percent(row["gate_share_of_base"], 2)
            took = f"{row['forward_over_base']:.2f}"
            hits = sum(own["recognition"]["value"] * own["n"] for own in tasks.values())
            seen = percent(hits / sum(own["n"] for own in tasks.values()), 2)
        rows.append((row["method"], *cells, gate, took, seen, str(len(row["seeds"]))))
    headers = ("method", *(f"{title} %" for title in NAMES.values()), "gate, % of base")
    headers += ("forward / base", "recognised %", "seeds")
    caption = "In brackets the share of the own expert's score with the same seed."
    return Table(caption, headers, tuple(rows))


def _figure(result: dict[str, Any], task: str) -> Any:
    points = []
    for row in result["rows"]:
        score = {key: 100 * value for key, value in row["tasks"][task]["score"].items()}
        gated = "gate_parameters" in row
        kind = "mixture" if gated else "reference"
        points.append(Point(row["method"], **score, kind=kind))
    return points_figure(
        f"mixtures-{task}",
        points,
        title=NAMES[task],
        axis="score (%)",
        caption="Scores with 95 % bootstrap intervals over rows; the dotted line is the task's own expert.",
        mark=points[0].value,
    )

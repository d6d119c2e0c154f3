"""From 2 to 25 experts on one base: what is recognised, what is kept, and what an answer costs."""

from typing import Any

from website.measured.files import NAMES, measured_on, read
from weft.reporting.document import Document, Section, Table
from weft.reporting.numbers import percent

GOAL = 0.95
"""Share of an own expert's score that a mixture is to keep."""


def document() -> Document | None:
    """A row for each mixture and count; None where nothing was measured."""
    result = read("many")
    if result is None:
        return None
    rows = result["rows"]
    words = (
        "Twenty-five small tasks: WNUT17 by entity type and by where its texts come from, SQuAD by articles, CODAH by "
        "topic (clusters of vectors, ours). The first 2, 5, 10 and 25 of them, kinds in turns, each with an expert of "
        "its own. `kept` is the mean share of the own experts' scores where each task's head answers its rows, "
        "`worst` the least, `recognised` the rows that go to their own task, `answer` the processor time "
        "beside that of the own expert.",
        measured_on(result),
    )
    headers = [
        "mixture",
        "experts",
        "kept %",
        "worst %",
        f"at {GOAL:.0%}",
        "recognised %",
        "answer",
    ]
    kinds = dict.fromkeys(kind for row in rows for kind in row["by_kind"])
    headers += [f"{NAMES[kind].partition(',')[0]}: kept %" for kind in kinds]
    lines = tuple(
        (
            row["mixture"],
            str(row["experts"]),
            percent(row["kept"]),
            f"{percent(row['least'][1])} ({row['least'][0]})",
            f"{row['at_95']} of {row['experts'] - len(row['nothing_to_keep'])}",
            percent(row["recognised"]),
            f"{row['cost_of_an_answer']:.2f}",
            *(percent(row["by_kind"][kind]) if kind in row["by_kind"] else "" for kind in kinds),
        )
        for row in rows
    )
    seeds = len(rows[0]["seeds"])
    table = Table(
        f"{seeds} seed{'s' if seeds > 1 else ''}; small tasks, few rows.", tuple(headers), lines
    )
    return Document(
        "Many experts",
        (
            Section("short", "In short", notes=_notes(rows)),
            Section("table", "The table", words, parts=(table,)),
        ),
    )


def _notes(rows: list[dict[str, Any]]) -> tuple[str, ...]:
    most = max(row["experts"] for row in rows)
    of_most = [row for row in rows if row["experts"] == most]
    best = max(of_most, key=lambda row: row["kept"])
    dear = max(of_most, key=lambda row: row["cost_of_an_answer"])
    return (
        f"Of {most} experts {best['mixture']} keeps the most: {percent(best['kept'])} % on average, and "
        f"{best['at_95']} at {GOAL:.0%} of their own score or more.",
        f"{percent(best['recognised'])} % of the rows go to their own task; tasks that read one text in different ways "
        "cannot be told apart by it.",
        f"An answer of {dear['mixture']} takes {dear['cost_of_an_answer']:.2f} times the own expert's time with {most} "
        "experts, the most of all.",
    )

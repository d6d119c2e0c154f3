"""Why learned gates lose what their experts know, hypothesis by hypothesis."""

from collections.abc import Sequence
from typing import Any

from website.measured.files import NAMES, measured_on, read
from weft.reporting.document import Document, Section, Table
from weft.reporting.numbers import percent

GOAL = 0.95
"""Share of each own expert's score that a mixture is to keep."""


def document() -> Document | None:
    """What each setting keeps, and what the gates say then; None where nothing was measured."""
    result = read("gates")
    if result is None or not result.get("hypotheses"):
        return None
    rows, others = result["hypotheses"], result.get("mixtures", [])
    training = result["settings"]["training"]
    words = (
        "X-LoRA over three frozen experts as it is published, and one difference from it a row: "
        f"{training['max_steps']} steps of {training['batch_size']} rows a task unless a row says more. `kept` is the "
        "share of the own expert's score on the same rows; `gate` the mean gate on the row's own expert over tokens "
        "and maps, and in brackets how often it is the largest of the three.",
        "Few steps on small sets: rows are to be held against each other, not against other tables.",
        measured_on(result),
    )
    sections = [
        Section("short", "In short", notes=_notes(rows, others)),
        Section("hypotheses", "One difference at a time", words, parts=(_table(rows),)),
    ]
    if others:
        sections.append(
            Section(
                "mixtures",
                "Every mixture that leaves its experts as they were",
                ("As published (`balance: none`), and with every task's loss starting at 1.",),
                parts=(_table(others),),
            )
        )
    return Document("Gates", tuple(sections))


def _notes(rows: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    """What was found, in the file's own numbers."""
    first, seeds = rows[0], len(rows[0]["seeds"])
    best = max(rows, key=lambda row: row["least_kept"])
    notes = [f"{seeds} seed{'s' if seeds > 1 else ''}; {first['name']}, X-LoRA {_kept(first)}."]
    notes.append(
        f"The row that keeps most of what it keeps least of: {best['name']}, {_kept(best)}."
    )
    reach = [row["name"] for row in [*rows, *others] if row["least_kept"] >= GOAL]
    said = ", ".join(reach) if reach else "none"
    notes.append(f"Rows that keep {GOAL:.0%} of every own expert: {said}.")
    return tuple(notes)


def _kept(row: dict[str, Any]) -> str:
    cells = [f"{percent(row['tasks'][task]['kept'])} % of {title}" for task, title in NAMES.items()]
    return "keeps " + ", ".join(cells)


def _table(rows: Sequence[dict[str, Any]]) -> Table:
    lines = []
    for row in rows:
        cells = []
        for own in (row["tasks"][task] for task in NAMES):
            spread = own["kept_spread"]
            kept = percent(own["kept"])
            cells.append(kept if spread is None else f"{kept} ± {percent(spread)}")
            cells.append(f"{own['own_gate']['mean']:.2f} ({own['arg_max']['mean']:.2f})")
        lines.append((row["name"], *cells, str(len(row["seeds"]))))
    headers = ["row"]
    for title in NAMES.values():
        headers += [f"{title}: kept %", "gate"]
    caption = "± is the standard deviation over seeds; intervals over rows are in the result file."
    return Table(caption, (*headers, "seeds"), tuple(lines))

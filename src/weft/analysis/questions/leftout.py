"""Which layers and roles an expert needs: its score without the change of each.

score of dW without the maps of a layer, or of a role,  less that of all of dW;  the head stays
"""

from typing import Any, ClassVar

from weft.analysis.figures import Words, cells
from weft.analysis.measures.changes import Change
from weft.analysis.needs.altered import answers, held_rows
from weft.analysis.questions.contract import Answer, Needs, Number, Question
from weft.analysis.study import Study
from weft.analysis.subjects import owner
from weft.reporting.document import Figure
from weft.scoped import tell


class LeftOut(Question):
    """Where the change is needed."""

    asks: ClassVar[str] = "Which layers and roles of its change does an expert need?"
    reading: ClassVar[str] = (
        "Each cell is how the score on rows of the expert's own task changes, in percentage points, when the maps of "
        "one layer or one role are as the base has them: far below 0 where they are needed. Parts that stand in for "
        "each other all seem unneeded. The numbers are the part that costs most and all of the change, with bootstrap "
        "intervals over the rows that both answered."
    )
    chance: ClassVar[str] = (
        "the whole change scaled down until as much of its squared norm is gone, spread over all maps."
    )
    needs: ClassVar[Needs] = "weights"

    def answer(self, study: Study) -> Answer:
        rows: list[dict[str, Any]] = []
        numbers, words = [], []
        cell: dict[tuple[str, str], float] = {}
        columns: dict[str, None] = {}
        for subject, changes in study.experts:
            held = held_rows(study, subject)
            whole = answers(study, subject, held, changes)
            sign = 1 if held.task.higher_is_better else -1
            total = sum(change.norm**2 for change in changes.values())
            own = []
            for part, gone in _parts(study, changes).items():
                tell(f"{subject.name} without {part}")
                left = {name: change for name, change in changes.items() if name not in gone}
                kept = sum(change.norm**2 for change in left.values()) / total if total else 1.0
                less = {n: Change(c.U, c.S * kept**0.5, c.Vh) for n, c in changes.items()}
                cost, spread = (
                    held.difference(answers(study, subject, held, one), whole)
                    for one in (left, less)
                )
                row = {
                    **owner(subject),
                    "metric": held.task.metric,
                    "without": part,
                    "maps": len(gone),
                    "squared norm": 100 * (1 - kept),
                    "points": 100 * cost.value,
                    "low": 100 * cost.low,
                    "high": 100 * cost.high,
                    "points by chance": 100 * spread.value,
                    "rows": len(held.examples),
                }
                own.append((row, cost))
                cell[subject.name, part] = row["points"]
                columns[part] = None
            rows += [row for row, _ in own]
            parts = [pair for pair in own if pair[0]["without"] != "all"]
            if not parts:
                continue
            for row, cost in (own[-1], min(parts, key=lambda pair: sign * pair[1].value)):
                score = type(cost)(*(100 * end for end in (cost.value, cost.low, cost.high)))
                what = f"{held.task.metric} without {row['without']} (points)"
                numbers.append(Number(subject.name, what, score, row["points by chance"]))
            words.append(
                f"{subject.name}: {row['without']} costs most, {row['points']:+.3g} points of {held.task.metric}; "
                f"scaling all maps down alike {row['points by chance']:+.3g}."
            )
        names = [subject.name for subject, _ in study.experts]
        figure = Words(
            "leftout",
            "Score without a part of the change (points)",
            "what is left out",
            "expert",
            "How the score on rows of the expert's own task changes, percentage points, when a layer or a role of its "
            "change is left out.",
        )
        drawn: tuple[Figure, ...] = (cells(figure, names, list(columns), cell),) if cell else ()
        return Answer(tuple(words), tuple(numbers), tuple(rows), drawn)


def _parts(study: Study, changes: dict[str, Change]) -> dict[str, set[str]]:
    """The maps of each layer, of each role, and all."""
    found: dict[str, set[str]] = {}
    for name in sorted(changes, key=lambda own: study.place(own)[0]):
        found.setdefault(f"layer {study.place(name)[0]}", set()).add(name)
    for name in changes:
        found.setdefault(study.place(name)[1], set()).add(name)
    return {**found, "all": set(changes)}

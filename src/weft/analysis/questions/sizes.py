"""How large a change is against the weight that it changes, by layer and role.

    |dW|_F / |W0|_F

Hu et al. 2021, LoRA, arXiv:2106.09685, section 7, compare norms of both. The norm of the change is that of its singular
values.
"""

import math
from typing import Any, ClassVar

from weft.analysis.figures import Words, cells
from weft.analysis.intervals import mean_over
from weft.analysis.layers import by_cell, largest, names_of
from weft.analysis.questions.contract import Answer, Needs, Number, Question
from weft.analysis.study import Study
from weft.analysis.subjects import owner
from weft.reporting.document import distinct_names

DRAWN = 6
"""Experts with a figure; the numbers of all are in the table's file."""


class Sizes(Question):
    """Where the change is."""

    asks: ClassVar[str] = "How large is the change, and where is it?"
    reading: ClassVar[str] = (
        "Each cell is the size of the change of the maps of one layer and role as a percentage of the size of the "
        "frozen weight (Frobenius norms). The number is its mean over maps, with a bootstrap interval over maps."
    )
    chance: ClassVar[str] = (
        "a random adapter is given the size of the trained one, so its size says nothing; every other question holds "
        "the trained change against such a one."
    )
    needs: ClassVar[Needs] = "weights"

    def answer(self, study: Study) -> Answer:
        rows: list[dict[str, Any]] = []
        numbers, figures, words = [], [], []
        keys = distinct_names([subject.name for subject, _ in study.experts])
        sizes: dict[str, float] = {}
        for (subject, changes), key in zip(study.experts, keys, strict=True):
            own = []
            for module, change in changes.items():
                if module not in sizes:
                    sizes[module] = study.weight(module).double().norm().item()
                layer, role = study.place(module)
                own.append(
                    {
                        **owner(subject),
                        "map": module,
                        "layer": layer,
                        "role": role,
                        "change": change.norm,
                        "weight": sizes[module],
                        "percent": 100 * change.norm / sizes[module] if sizes[module] else math.nan,
                    }
                )
            rows += own
            score = mean_over([row["percent"] for row in own], seed=study.seed)
            numbers.append(Number(subject.name, "size of the change (% of the weight)", score))
            words.append(
                f"{subject.name}: {score.value:.3g} % of the weight on average, most at {largest(own, 'percent')}."
            )
            found = by_cell(own, "percent")
            if len(figures) < DRAWN:
                said = Words(
                    f"sizes-{key}",
                    f"{subject.name}: size of the change (% of the weight)",
                    "role of the map",
                    "layer",
                    f"{subject.name}: size of the change by layer and role, % of the frozen weight's norm.",
                )
                figures.append(cells(said, *names_of(found), found))
        return Answer(tuple(words), tuple(numbers), tuple(rows), tuple(figures))

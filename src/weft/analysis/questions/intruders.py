"""Whether new directions have come among the strongest of the weight: intruder dimensions.

    u_j (j <= 10) of W0 + dW intrudes if max_i |u_j^T u_i| < epsilon, u_i the left singular vectors of W0

Shuttleworth et al. 2024, arXiv:2410.21228, who find them in LoRA and not in full fine-tuning, and more forgetting where
there are more.
"""

from typing import Any, ClassVar

from weft.analysis.figures import Line, Words, lines
from weft.analysis.intervals import mean_over
from weft.analysis.measures.changes import Change
from weft.analysis.questions.contract import Answer, Needs, Number, Question
from weft.analysis.study import Study
from weft.analysis.subjects import owner
from weft.lowrank.intruders import EPSILON, TOP, leading_changed

GRID = tuple(at / 20 for at in range(2, 20))
"""Thresholds of the figure."""


class Intruders(Question):
    """What is new among the strongest."""

    asks: ClassVar[str] = "Are there new directions among the strongest of the changed weight?"
    reading: ClassVar[str] = (
        f"Of the {TOP} strongest directions of every changed weight, those count that no direction of the frozen "
        f"weight is like: the largest cosine is below the threshold ({EPSILON} unless the figure says another). A "
        f"count of 0 means that the change only turned and scaled what was there. Intervals are over maps."
    )
    chance: ClassVar[str] = (
        "Gaussian factors of the same shape, rank and norm, added to the same weight."
    )
    needs: ClassVar[Needs] = "weights"

    def answer(self, study: Study) -> Answer:
        rows: list[dict[str, Any]] = []
        numbers, drawn, words = [], [], []
        for subject, changes in study.experts:
            twins = study.twin(subject)
            own, likes, level = [], [], []
            for module, change in changes.items():
                layer, role = study.place(module)
                likeness, by_chance = (
                    _likeness(study, module, one) for one in (change, twins[module])
                )
                likes.append(likeness)
                level.append(by_chance)
                own.append(
                    {
                        **owner(subject),
                        "map": module,
                        "layer": layer,
                        "role": role,
                        "intruders": _count(likeness, EPSILON),
                        "intruders by chance": _count(by_chance, EPSILON),
                        "least likeness": min(likeness),
                        "least likeness by chance": min(by_chance),
                    }
                )
            rows += own
            score, chance = (
                mean_over([float(row[key]) for row in own], seed=study.seed)
                for key in ("intruders", "intruders by chance")
            )
            what = f"intruders a map (of {TOP} directions)"
            numbers.append(Number(subject.name, what, score, chance.value))
            total, maps = (
                sum(row["intruders"] for row in own),
                sum(bool(r["intruders"]) for r in own),
            )
            words.append(
                f"{subject.name}: {total} intruders in {maps} of {len(own)} maps; a random change of that size makes "
                f"{sum(row['intruders by chance'] for row in own)}."
            )
            drawn.append(_over_grid(subject.name, likes))
            drawn.append(_over_grid("chance", level, chance=True))
        figure = Words(
            "intruders",
            "Intruders by threshold",
            "threshold: likeness below which a direction is new",
            f"intruders a map (of {TOP})",
            f"How many of the {TOP} strongest directions are new, by what counts as new; mean over maps, dotted: "
            f"chance.",
        )
        return Answer(
            tuple(words), tuple(numbers), tuple(rows), (lines(figure, study.seeds.lines(drawn)),)
        )


def _likeness(study: Study, module: str, change: Change) -> list[float]:
    if not change.rank:
        return [1.0] * TOP
    return leading_changed(study.frozen(module), change.pair, TOP).likeness.tolist()


def _count(likeness: list[float], epsilon: float) -> int:
    return sum(value < epsilon for value in likeness)


def _over_grid(name: str, likes: list[list[float]], *, chance: bool = False) -> Line:
    points = tuple(
        (epsilon, sum(_count(own, epsilon) for own in likes) / len(likes)) for epsilon in GRID
    )
    return Line(name, points, chance)

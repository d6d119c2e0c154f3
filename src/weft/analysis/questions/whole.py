"""How low-rank the change of full training is, and whether an adapter on the same base finds the same directions.

    |U^T dW V|_F^2 / |dW|_F^2,    dW full training's change, U and V the k directions of the adapter's

against the k strongest directions of dW itself, the most that any k can hold (Eckart and Young 1936,
doi:10.1007/BF02288367), and against the k^2 / (in out) that random ones hold on average.
"""

from statistics import fmean
from typing import Any, ClassVar

from weft.analysis.figures import Line, Words, lines
from weft.analysis.intervals import mean_over
from weft.analysis.measures.dimension import held_by, held_by_leading
from weft.analysis.measures.spectra import energy_rank
from weft.analysis.questions.contract import Answer, Needs, Number, Question
from weft.analysis.study import Study
from weft.analysis.subjects import owner
from weft.analysis.texts import NotAtHandError


class Whole(Question):
    """Full training under the same lens."""

    asks: ClassVar[str] = (
        "How low-rank is full training's change, and do adapters find its directions?"
    )
    reading: ClassVar[str] = (
        "The line is the share of the squared norm of full training's change that its own strongest directions hold, "
        "mean over maps. For each adapter the number is the share that the adapter's directions hold, with a "
        "bootstrap interval over maps; the rows have beside it what as many of the change's own could hold at most. "
        "Where tasks differ it says what full training has in common with any adapter."
    )
    chance: ClassVar[str] = "random directions, which hold k^2 / (in out) on average."
    needs: ClassVar[Needs] = "pairs"

    def answer(self, study: Study) -> Answer:
        full = [(own, changes) for own, changes in study.experts if own.whole]
        rest = [(own, changes) for own, changes in study.experts if not own.whole]
        if not full or not rest:
            raise NotAtHandError(
                "it compares full training with adapters; give a run of recipe full, and one of an adapter"
            )
        rows: list[dict[str, Any]] = []
        numbers, words, drawn = [], [], []
        for subject, changes in full:
            width = max(min(len(own.U), own.Vh.shape[1]) for own in changes.values())
            sizes = [1 << at for at in range(width.bit_length()) if 1 << at <= width]
            points = [
                (float(k), fmean(held_by_leading(own, k) for own in changes.values() if own.rank))
                for k in sizes
            ]
            drawn.append(Line(subject.name, tuple(points)))
            needed = [float(energy_rank(own.S)) for own in changes.values()]
            score = mean_over(needed, seed=study.seed)
            numbers.append(Number(subject.name, "directions that hold 90 %", score, None))
            words.append(
                f"{subject.name}: {score.value:.3g} of {width} directions hold 90 % of its change."
            )
            for other, theirs in rest:
                own = []
                for module, change in theirs.items():
                    if not (module in changes and change.rank and changes[module].rank):
                        continue
                    layer, role = study.place(module)
                    sides = len(change.U), change.Vh.shape[1]
                    own.append(
                        {
                            **owner(subject),
                            "other": other.name,
                            "other task": owner(other)["task"],
                            "map": module,
                            "layer": layer,
                            "role": role,
                            "directions": change.rank,
                            "held": held_by(changes[module], change.U, change.Vh),
                            "at most": held_by_leading(changes[module], change.rank),
                            "by chance": change.rank**2 / (sides[0] * sides[1]),
                        }
                    )
                rows += own
                held, most, level = (
                    mean_over([row[key] for row in own], seed=study.seed)
                    for key in ("held", "at most", "by chance")
                )
                name = f"{subject.name} by {other.name}"
                numbers.append(Number(name, "share of the change held (0 to 1)", held, level.value))
                words.append(
                    f"The directions of {other.name} hold {held.value:.3g} of the change of {subject.name}; as many of "
                    f"its own would hold {most.value:.3g}, random ones {level.value:.3g}."
                )
        figure = Words(
            "whole",
            "What full training's strongest directions hold",
            "directions",
            "share of the squared norm (0 to 1)",
            "Share of the squared norm of full training's change that so many of its strongest directions hold, mean "
            "over maps.",
        )
        return Answer(
            tuple(words), tuple(numbers), tuple(rows), (lines(figure, drawn, along="log"),)
        )

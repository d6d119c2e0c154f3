"""Whether experts pull the same weights the same way, and whether they read the same inputs.

    <dW1, dW2> / (|dW1| |dW2|) = tr((B1^T B2) (A2 A1^T)) / (...)
    |dW1 dW2^T|_F / (|dW1| |dW2|)

The cosine of task vectors is that of Ilharco et al. 2023, arXiv:2212.04089, section 5, map by map and all together.
"""

import math
from statistics import fmean
from typing import Any, ClassVar

from weft.analysis.figures import Words, cells
from weft.analysis.intervals import mean_over
from weft.analysis.measures.changes import cosine, interference, together
from weft.analysis.questions.contract import Answer, Needs, Number, Question
from weft.analysis.study import Study
from weft.analysis.subjects import Subject, owner


class Interference(Question):
    """Whether experts are in each other's way."""

    asks: ClassVar[str] = "Do experts pull the same weights the same way?"
    reading: ClassVar[str] = (
        "The cosine is 1 where two experts make the same change, 0 where their changes have nothing in common, "
        "negative where one undoes the other. The interference is 0 where what one expert reads is nothing to the "
        "other. The heat map has the cosine of all maps together. Intervals are over maps."
    )
    chance: ClassVar[str] = (
        "the mean size of both between each expert and a random one in the place of the other (same maps, ranks, "
        "norms)."
    )
    needs: ClassVar[Needs] = "pairs"

    def answer(self, study: Study) -> Answer:
        rows: list[dict[str, Any]] = []
        numbers, words = [], []
        whole: dict[tuple[str, str], float] = {}
        for one, other in study.pairs():
            assert one.changes is not None
            assert other.changes is not None
            name = f"{one.name} and {other.name}"
            value = together(one.changes, other.changes)
            whole[one.name, other.name] = whole[other.name, one.name] = value
            own = _pair(study, one, other)
            rows += own
            if not own:
                words.append(f"{name} have no map in common.")
                continue
            for key, what in (
                ("cosine", "cosine of the changes (-1 to 1)"),
                ("interference", "interference (0 to 1)"),
            ):
                score = mean_over([row[key] for row in own], seed=study.seed)
                level = mean_over([abs(row[f"{key} by chance"]) for row in own])
                numbers.append(Number(name, what, score, level.value))
            words.append(
                f"{name}: a cosine of {value:.3g} over all maps together, {numbers[-2].score.value:.3g} map by map."
            )
        names = [subject.name for subject, _ in study.experts]
        whole |= {(name, name): 1.0 for name in names}
        figure = Words(
            "interference",
            "Cosine of the changes, all maps together",
            "expert",
            "expert",
            "Cosine of every two experts' changes of all weights; a map that one leaves alone counts as no change.",
        )
        drawn = cells(figure, names, names, whole, limits=(-1.0, 1.0))
        return Answer(tuple(words), tuple(numbers), tuple(rows), (drawn,))


def _pair(study: Study, one: Subject, other: Subject) -> list[dict[str, Any]]:
    assert one.changes is not None
    assert other.changes is not None
    first, second = study.twin(one), study.twin(other)
    found = []
    for module, change in one.changes.items():
        if module not in other.changes:
            continue
        theirs = other.changes[module]
        layer, role = study.place(module)
        values = {
            "expert": one.name,
            "other": other.name,
            "task": owner(one)["task"],
            "other task": owner(other)["task"],
            "map": module,
            "layer": layer,
            "role": role,
        }
        for key, measure in (("cosine", cosine), ("interference", interference)):
            chance = [
                abs(measure(change, second[module])),
                abs(measure(first[module], theirs)),
            ]
            known = [value for value in chance if math.isfinite(value)]
            values |= {
                key: measure(change, theirs),
                f"{key} by chance": fmean(known) if known else math.nan,
            }
        found.append(values)
    return found

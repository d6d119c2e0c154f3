"""Whether two experts change the same directions: the spans that their changes read from and write to.

    phi(i, j) = |V1[:, :i]^T V2[:, :j]|_F^2 / min(i, j),  by chance max(i, j) / d

Hu et al. 2021, LoRA, arXiv:2106.09685, section 7.2, with V the right singular vectors of the change; the left ones
beside them. Principal angles as in Björck and Golub 1973, doi:10.2307/2005662.
"""

from statistics import fmean
from typing import Any, ClassVar

from torch import Tensor

from weft.analysis.figures import Words, cells, lines
from weft.analysis.intervals import mean_over
from weft.analysis.layers import by_layer
from weft.analysis.measures.changes import Change
from weft.analysis.measures.subspaces import (
    angles,
    by_chance,
    chordal,
    grassmann,
    similarity,
)
from weft.analysis.questions.contract import Answer, Needs, Number, Question
from weft.analysis.study import Study
from weft.analysis.subjects import Subject, owner
from weft.reporting.document import Figure

SHOWN = 8
"""Leading directions in the heat map."""


class Subspaces(Question):
    """Whether experts share directions."""

    asks: ClassVar[str] = "Do experts change the same directions?"
    reading: ClassVar[str] = (
        "The overlap of two experts at a map is the mean squared cosine between the spans of their changes: 1 is the "
        "same span, and by chance it is the larger rank over the width. Input directions are what a change reads, "
        "output directions what it writes. The heat map of the most alike pair compares only their i and j strongest "
        "directions. Intervals are over maps."
    )
    chance: ClassVar[str] = "subspaces drawn at random, whose overlap is max(i, j) / d on average."
    needs: ClassVar[Needs] = "pairs"

    def answer(self, study: Study) -> Answer:
        rows: list[dict[str, Any]] = []
        numbers, drawn, words = [], [], []
        most: tuple[float, Subject, Subject] | None = None
        for one, other in study.pairs():
            own = _pair(study, one, other)
            if not own:
                words.append(f"{one.name} and {other.name} have no map in common.")
                continue
            rows += own
            name = f"{one.name} and {other.name}"
            for side in ("input", "output"):
                score, level = (
                    mean_over([row[key] for row in own], seed=study.seed)
                    for key in (f"{side} overlap", f"{side} by chance")
                )
                what = f"overlap of {side} directions (0 to 1)"
                numbers.append(Number(name, what, score, level.value))
                words.append(_verdict(name, side, score.low, score.value, level.value))
                if side == "input" and (most is None or score.value > most[0]):
                    most = score.value, one, other
            drawn.append(by_layer(own, "input overlap", name))
            drawn.append(by_layer(own, "input by chance", "chance", chance=True))
        if most is None:
            return Answer(tuple(words), tuple(numbers), tuple(rows))
        figure = Words(
            "subspaces-layers",
            "Overlap of input directions",
            "layer (0 is the first)",
            "overlap (0 to 1)",
            "How far the spans that two experts' changes read overlap, by layer, mean over maps; dotted: chance.",
        )
        figures = (lines(figure, study.seeds.lines(drawn)), _heat(study, most[1], most[2]))
        return Answer(tuple(words), tuple(numbers), tuple(rows), figures)


def _verdict(name: str, side: str, low: float, value: float, chance: float) -> str:
    how = "more than chance gives" if low > chance else "no more than chance gives"
    return f"{name} overlap in {value:.3g} of their {side} directions, {how} ({chance:.3g})."


def _pair(study: Study, one: Subject, other: Subject) -> list[dict[str, Any]]:
    assert one.changes is not None
    assert other.changes is not None
    found = []
    for module, change in one.changes.items():
        second = other.changes.get(module)
        if second is None or not (change.rank and second.rank):
            continue
        layer, role = study.place(module)
        values: dict[str, Any] = {
            "expert": one.name,
            "other": other.name,
            "task": owner(one)["task"],
            "other task": owner(other)["task"],
            "map": module,
            "layer": layer,
            "role": role,
        }
        for side in ("input", "output"):
            Q1, Q2 = (_span(own, side) for own in (change, second))
            found_angles = angles(Q1, Q2)
            values |= {
                f"{side} overlap": similarity(Q1, Q2)[-1, -1].item(),
                f"{side} by chance": by_chance(Q1.shape[1], Q2.shape[1], len(Q1)),
                f"{side} smallest angle": found_angles[0].item(),
                f"{side} largest angle": found_angles[-1].item(),
                f"{side} chordal distance": chordal(found_angles),
                f"{side} Grassmann distance": grassmann(found_angles),
            }
        found.append(values)
    return found


def _span(change: Change, side: str) -> Tensor:
    return change.Vh.T if side == "input" else change.U


def _heat(study: Study, one: Subject, other: Subject) -> Figure:
    """Phi over i and j of the input directions, mean over maps, of one pair."""
    assert one.changes is not None
    assert other.changes is not None
    found: dict[tuple[str, str], list[float]] = {}
    for module, change in one.changes.items():
        second = other.changes.get(module)
        if second is None or not (change.rank and second.rank):
            continue
        table = similarity(change.Vh.T[:, :SHOWN], second.Vh.T[:, :SHOWN])
        for i, row in enumerate(table.tolist(), 1):
            for j, value in enumerate(row, 1):
                found.setdefault((str(i), str(j)), []).append(value)
    values = {place: fmean(own) for place, own in found.items()}
    rows, columns = ([str(n) for n in sorted({int(p[at]) for p in values})] for at in (0, 1))
    words = Words(
        "subspaces-pair",
        "Overlap of the strongest directions",
        f"j strongest of {other.name}",
        f"i strongest of {one.name}",
        f"Similarity phi(i, j) of the input directions of {one.name} and {other.name}, mean over maps; 1 where one "
        f"span holds the other.",
    )
    return cells(words, rows, columns, values, limits=(0.0, 1.0))

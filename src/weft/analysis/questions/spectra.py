"""How many directions a change has: its singular values and what they add up to.

    stable rank |s|^2 / s_1^2, effective rank exp(-sum p log p), energy rank: the least k with 90 % of |s|^2

Rudelson and Vershynin 2007, doi:10.1145/1255443.1255449; Roy and Vetterli 2007, The effective rank, EUSIPCO.
"""

from typing import Any, ClassVar

from weft.analysis.figures import Line, Words, lines
from weft.analysis.intervals import mean_over
from weft.analysis.measures.changes import Change
from weft.analysis.measures.spectra import effective_rank, energy_rank, stable_rank
from weft.analysis.questions.contract import Answer, Needs, Number, Question
from weft.analysis.study import Study
from weft.analysis.subjects import owner

SHOWN = 32
"""Singular values in the figure."""


class Spectra(Question):
    """How many directions."""

    asks: ClassVar[str] = "How many directions does the change use?"
    reading: ClassVar[str] = (
        "Each line is the size of the change's singular values, the largest as 1, averaged over maps: a line that "
        "falls at once is a change in few directions, a level one uses all that its rank allows. The effective rank "
        "counts directions by their sizes, the stable rank by their squares; the energy rank says how many hold 90 % "
        "of it. Intervals are over maps."
    )
    chance: ClassVar[str] = (
        "Gaussian factors of the same shape, rank and norm, which is what an adapter is before it has learnt anything "
        "about its directions."
    )
    needs: ClassVar[Needs] = "weights"

    def answer(self, study: Study) -> Answer:
        rows: list[dict[str, Any]] = []
        numbers, drawn, words = [], [], []
        for subject, changes in study.experts:
            twins = study.twin(subject)
            own = []
            for module, change in changes.items():
                layer, role = study.place(module)
                place = {**owner(subject), "map": module, "layer": layer, "role": role}
                by_chance = {f"{key} by chance": v for key, v in _ranks(twins[module]).items()}
                own.append(place | {"rank": change.rank} | _ranks(change) | by_chance)
            rows += own
            for key in ("effective rank", "stable rank", "energy rank"):
                score, chance = (
                    mean_over([row[name] for row in own], seed=study.seed)
                    for name in (key, f"{key} by chance")
                )
                numbers.append(Number(subject.name, f"{key} (directions)", score, chance.value))
            said = numbers[-3]
            words.append(
                f"{subject.name}: {said.score.value:.3g} of {max(c.rank for c in changes.values())} directions count; "
                f"a random adapter has {said.chance or 0:.3g}."
            )
            drawn.append(_spectrum(subject.name, list(changes.values())))
            drawn.append(_spectrum("chance", list(twins.values()), chance=True))
        figure = Words(
            "spectra",
            "Singular values of the change",
            "singular value by its place (count)",
            "size, the largest is 1",
            "Singular values of the change, the largest of each map as 1, mean over maps.",
        )
        return Answer(
            tuple(words), tuple(numbers), tuple(rows), (lines(figure, study.seeds.lines(drawn)),)
        )


def _ranks(change: Change) -> dict[str, float]:
    return {
        "effective rank": effective_rank(change.S),
        "stable rank": stable_rank(change.S),
        "energy rank": float(energy_rank(change.S)),
    }


def _spectrum(name: str, changes: list[Change], *, chance: bool = False) -> Line:
    """The mean of the normalised singular values; a map of lower rank counts as 0 beyond it."""
    own = [change.S / change.S[0] for change in changes if change.rank]
    count = min(SHOWN, max((len(S) for S in own), default=1))
    points = [
        (
            at + 1.0,
            sum(S[at].item() if at < len(S) else 0.0 for S in own) / max(len(own), 1),
        )
        for at in range(count)
    ]
    return Line(name, tuple(points), chance)

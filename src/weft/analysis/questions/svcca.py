"""Whether the expert's states hold what the base's do, up to any linear map: SVCCA and PWCCA.

    the mean canonical correlation of the principal components that hold 99 % of the variance

Raghu et al. 2017, arXiv:1706.05806. PWCCA weighs the correlations by how much of the base's states they account for
(Morcos et al. 2018, arXiv:1806.05759), where the plain mean counts a direction of noise like one that says something.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor

from weft.analysis.figures import Line, Words, lines
from weft.analysis.intervals import jackknife
from weft.analysis.measures.alignment import canonical, svcca
from weft.analysis.questions.contract import Answer, Needs, Number, Question
from weft.analysis.study import Study
from weft.analysis.subjects import owner


class SVCCA(Question):
    """What a linear map could undo."""

    asks: ClassVar[str] = "Could a linear map undo what the expert did to the states?"
    reading: ClassVar[str] = (
        "1 means that each side's main directions can be computed from the other's by a linear map, so nothing was "
        "lost, only moved. Where this stays near 1 and CKA falls, the expert turned and stretched the space; where "
        "both fall, what is in it changed. PWCCA weighs directions by how much of the base's states they account for: "
        "above SVCCA it says that what is lost weighs little. Numbers are of the last layer, with a jackknife interval "
        "over sentences."
    )
    chance: ClassVar[str] = (
        "the base's states against its own with the tokens permuted: what as many directions find in common by chance. "
        "The rows also have a random adapter of the same maps, ranks and norms."
    )
    needs: ClassVar[Needs] = "rows"

    def answer(self, study: Study) -> Answer:
        rows: list[dict[str, Any]] = []
        numbers, drawn, words = [], [], []
        for subject in study.subjects:
            corpus = study.common(subject)
            before, after = study.states(corpus, None), study.states(corpus, subject)
            twin = study.twin_states(corpus, subject)
            order = torch.randperm(len(corpus), generator=study.generator("permuted"))
            level, weighted_level = zip(*(canonical(x, x[order]) for x in before), strict=True)
            pairs = zip(before, after, strict=True)
            values, weighted = zip(*(canonical(x, y) for x, y in pairs), strict=True)
            for layer, value in enumerate(values):
                rows.append(
                    {
                        **owner(subject),
                        "read": corpus.name,
                        "layer": layer,
                        "svcca": value,
                        "pwcca": weighted[layer],
                        "svcca of permuted tokens": level[layer],
                        "pwcca of permuted tokens": weighted_level[layer],
                        "svcca of a random adapter": None
                        if twin is None
                        else svcca(before[layer], twin[layer]),
                    }
                )
            x, y = before[-1], after[-1]
            told: dict[bytes, tuple[float, float]] = {}

            def without(
                kept: Tensor,
                at: int,
                x: Tensor = x,
                y: Tensor = y,
                told: dict[bytes, tuple[float, float]] = told,
            ) -> float:
                """One of the two, where both are computed once for each group that is left out."""
                key = kept.numpy().tobytes()
                if key not in told:
                    told[key] = canonical(x[kept], y[kept])
                return told[key][at]

            for at, name, by_chance in (
                (0, "SVCCA", level[-1]),
                (1, "PWCCA", weighted_level[-1]),
            ):
                score = jackknife(lambda kept, at=at, own=without: own(kept, at), corpus.sentence)
                what = f"{name} of the last layer (0 to 1)"
                numbers.append(Number(subject.name, what, score, by_chance))
            words.append(
                f"{subject.name}: {values[-1]:.3g} at the last layer; permuted tokens give {level[-1]:.3g}."
            )
            drawn.append(Line(subject.name, tuple((float(a), v) for a, v in enumerate(values))))
            chance = tuple((float(at), value) for at, value in enumerate(level))
            drawn.append(Line("chance", chance, chance=True))
        figure = Words(
            "svcca",
            "What a linear map could undo",
            "layer (0: embeddings)",
            "SVCCA (0 to 1)",
            "Mean canonical correlation of the base's and the expert's main directions, by layer; dotted: chance.",
        )
        return Answer(
            tuple(words), tuple(numbers), tuple(rows), (lines(figure, study.seeds.lines(drawn)),)
        )

"""Whether a change strengthens what the base does, or what it hardly does.

    |dW|_F / |U_r^T W0 V_r|_F,  U_r and V_r the leading singular vectors of dW

Hu et al. 2021, LoRA, arXiv:2106.09685, section 7.3 and table 7, where rank 4 gives 21.5 on a map of GPT-3. Beside it
the same of W0's own leading directions and of random ones.
"""

import math
from typing import Any, ClassVar

from weft.analysis.figures import Words, lines
from weft.analysis.intervals import median_over
from weft.analysis.layers import by_layer
from weft.analysis.measures.spectra import amplification, projected
from weft.analysis.questions.contract import Answer, Needs, Number, Question
from weft.analysis.study import Study
from weft.analysis.subjects import owner


class Amplification(Question):
    """What is strengthened."""

    asks: ClassVar[str] = "Does the change strengthen what the base does, or something else?"
    reading: ClassVar[str] = (
        "The factor is the size of the change over the size of the frozen weight in the change's own directions. Near "
        "the chance line the change takes no heed of the weight; below it, the change goes where the weight is strong; "
        "far above, it strengthens what the weight hardly has. The rows also say how large the weight is in its own "
        "strongest directions. The number is the median over maps, with a bootstrap interval over maps."
    )
    chance: ClassVar[str] = (
        "Gaussian factors of the same shape, rank and norm, against the same weight."
    )
    needs: ClassVar[Needs] = "weights"

    def answer(self, study: Study) -> Answer:
        rows: list[dict[str, Any]] = []
        numbers, drawn, words = [], [], []
        for subject, changes in study.experts:
            twins = study.twin(subject)
            own = []
            for module, change in changes.items():
                weight = study.weight(module)
                layer, role = study.place(module)
                rank = change.rank
                own.append(
                    {
                        **owner(subject),
                        "map": module,
                        "layer": layer,
                        "role": role,
                        "rank": rank,
                        "factor": amplification(change, weight),
                        "factor by chance": amplification(twins[module], weight),
                        "change": change.norm,
                        "weight in the change's directions": projected(weight, change.U, change.Vh),
                        "weight in its own directions": study.frozen(module).S[:rank].norm().item(),
                    }
                )
            rows += own
            score, chance = (
                median_over([row[key] for row in own], seed=study.seed)
                for key in ("factor", "factor by chance")
            )
            numbers.append(
                Number(subject.name, "amplification (ratio, median over maps)", score, chance.value)
            )
            words.append(f"{subject.name}: {_verdict(score.low, score.high, chance.value)}")
            drawn.append(by_layer(own, "factor", subject.name))
            drawn.append(by_layer(own, "factor by chance", "chance", chance=True))
        figure = Words(
            "amplification",
            "Amplification by layer",
            "layer (0 is the first)",
            "amplification (ratio)",
            "Size of the change over that of the weight in the same directions, mean over maps; dotted: chance.",
        )
        return Answer(
            tuple(words), tuple(numbers), tuple(rows), (lines(figure, study.seeds.lines(drawn)),)
        )


def _verdict(low: float, high: float, chance: float) -> str:
    if math.isnan(low):
        return "nothing was changed."
    if low > chance:
        return "it strengthens directions that the weight has less of than of random ones."
    if high < chance:
        return "it goes where the weight is stronger than in random directions."
    return "its directions are no more the weight's own than random ones."

"""Whether the base's own task survives, where the base is a sentence encoder: Spearman's correlation on graded pairs.

    cos(mean_t h_t(a), mean_t h_t(b)) against people's scores, the states of the last layer

The STS benchmark of Cer et al. 2017, arXiv:1708.00055, as Reimers and Gurevych 2019, arXiv:1908.10084, score encoders.
"""

from typing import Any, ClassVar

from weft.analysis.figures import Words, cells
from weft.analysis.intervals import Number
from weft.analysis.questions.contract import Answer, Needs, Question
from weft.analysis.reading.similarity import Pairs
from weft.analysis.study import Study
from weft.analysis.subjects import owner


class Similarity(Question):
    """Whether like sentences stay alike."""

    asks: ClassVar[str] = "Does the space still say which sentences mean the same?"
    reading: ClassVar[str] = (
        "Spearman's correlation between the cosine of two sentences' mean states and what people said of their "
        "likeness, -1 to 1. A sentence encoder was trained for this, so a fall is forgetting of its own task; on "
        "another base it says how far the space is one of meanings. The number is the expert's less the base's on the "
        "same pairs, with a paired bootstrap interval."
    )
    chance: ClassVar[str] = "a random adapter of the same maps, ranks and norms."
    needs: ClassVar[Needs] = "rows"

    def answer(self, study: Study) -> Answer:
        pairs = Pairs(study)
        rows: list[dict[str, Any]] = []
        numbers, words = [], []
        before = pairs.base()
        base = pairs.score(before)
        for subject in study.subjects:
            after, twin = pairs.of(subject), pairs.by_chance(subject)
            own, found = pairs.score(after), pairs.apart(after, before)
            chance = None if twin is None else pairs.apart(twin, before).value
            numbers.append(Number(subject.name, "Spearman, expert - base", found, chance))
            rows.append(
                {
                    **owner(subject),
                    "read": pairs.name,
                    "pairs": len(pairs),
                    "base": base.value,
                    "adapted": own.value,
                    "by chance": None if twin is None else pairs.score(twin).value,
                }
            )
            how = "less" if found.high < 0 else "more" if found.low > 0 else "no less"
            words.append(
                f"{subject.name}: {own.value:.3g}, the base {base.value:.3g}: {how} than the base knows."
            )
        figure = Words(
            "similarity",
            "Spearman on graded pairs",
            "",
            "expert",
            "Spearman's correlation between cosines of mean states and people's scores, of base and experts.",
        )
        values = {(row["expert"], side): row[side] for row in rows for side in ("base", "adapted")}
        drawn = cells(figure, [row["expert"] for row in rows], ["base", "adapted"], values)
        return Answer(tuple(words), tuple(numbers), tuple(rows), (drawn,))

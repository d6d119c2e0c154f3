"""How alike the states of base and expert are, layer by layer: linear CKA.

    |Y^T X|_F^2 / (|X^T X|_F |Y^T Y|_F), without the bias of few tokens where there are fewer than 10 a dimension

Kornblith et al. 2019, arXiv:1905.00414; the unbiased form is that of Nguyen et al. 2020, arXiv:2010.15327.
"""

from typing import Any, ClassVar

from weft.analysis.figures import Line, Words, cells, lines
from weft.analysis.intervals import jackknife
from weft.analysis.measures.alignment import cka_table, linear_cka
from weft.analysis.questions.contract import Answer, Needs, Number, Question
from weft.analysis.study import Study
from weft.analysis.subjects import owner
from weft.reporting.document import Figure, distinct_names

DRAWN = 4
"""Experts with a map of all layers against all."""
DEEPEST = 13
"""Layers in it."""


class CKA(Question):
    """Where states change."""

    asks: ClassVar[str] = "In which layers do the expert's states differ from the base's?"
    reading: ClassVar[str] = (
        "1 means that both hold the same up to a rotation and one scale, 0 that they have nothing in common. A line "
        "that falls at a layer says that the expert's change shows from there on. In the heat map a bright cell off "
        "the diagonal says that a layer of the expert does what another layer of the base does. The number is that of "
        "the last layer, with a jackknife interval over sentences."
    )
    chance: ClassVar[str] = (
        "the same base with a random adapter of the same maps, ranks and norms: what any change of that size would do."
    )
    needs: ClassVar[Needs] = "rows"

    def answer(self, study: Study) -> Answer:
        rows: list[dict[str, Any]] = []
        numbers, drawn, words = [], [], []
        figures: list[Figure] = []
        keys = distinct_names([subject.name for subject in study.subjects])
        for subject, key in zip(study.subjects, keys, strict=True):
            corpus = study.common(subject)
            before, after = study.states(corpus, None), study.states(corpus, subject)
            twin = study.twin_states(corpus, subject)
            values = [linear_cka(x, y) for x, y in zip(before, after, strict=True)]
            level = [linear_cka(x, y) for x, y in zip(before, twin, strict=True)] if twin else []
            for layer, value in enumerate(values):
                rows.append(
                    {
                        **owner(subject),
                        "read": corpus.name,
                        "layer": layer,
                        "cka": value,
                        "cka by chance": level[layer] if level else None,
                    }
                )
            x, y = before[-1], after[-1]
            score = jackknife(lambda kept, x=x, y=y: linear_cka(x[kept], y[kept]), corpus.sentence)
            chance = level[-1] if level else None
            numbers.append(Number(subject.name, "CKA of the last layer (0 to 1)", score, chance))
            words.append(_verdict(subject.name, score.high, score.value, chance))
            drawn.append(Line(subject.name, tuple((float(a), v) for a, v in enumerate(values))))
            if level:
                points = tuple((float(at), value) for at, value in enumerate(level))
                drawn.append(Line("chance", points, chance=True))
            if len(figures) < DRAWN:
                step = -(-len(before) // DEEPEST)
                figures.append(
                    _heat(key, subject.name, before[::-step][::-1], after[::-step][::-1])
                )
        figure = Words(
            "cka",
            "Likeness of states to the base's",
            "layer (0: embeddings)",
            "linear CKA (0 to 1)",
            "Linear CKA between the base's and the expert's states of the same tokens, by layer; dotted: chance.",
        )
        return Answer(
            tuple(words),
            tuple(numbers),
            tuple(rows),
            (lines(figure, study.seeds.lines(drawn)), *figures),
        )


def _verdict(name: str, high: float, value: float, chance: float | None) -> str:
    if chance is None:
        return f"{name}: {value:.3g} at the last layer."
    how = "less like the base than" if high < chance else "no less like the base than"
    return f"{name}: {value:.3g} at the last layer, {how} a random change of that size makes it ({chance:.3g})."


def _heat(key: str, name: str, before: Any, after: Any) -> Figure:
    table = cka_table(before, after)
    names = [str(at) for at in range(len(before))]
    values = {
        (names[i], names[j]): v for i, row in enumerate(table.tolist()) for j, v in enumerate(row)
    }
    words = Words(
        f"cka-{key}",
        f"{name}: CKA of all layers",
        "layer of the expert",
        "layer of the base",
        f"Unbiased linear CKA of every layer of the base with every layer under {name}.",
    )
    return cells(words, names, names, values, limits=(0.0, 1.0))

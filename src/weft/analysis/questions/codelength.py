"""How easily grammar and meaning are read from the space: the bits that labels take for who has the vectors.

    compression = n log2 K / L,    L the online code of n labels of K classes

Voita and Titov 2020, aclanthology.org/2020.emnlp-main.14. Accuracy alone does not tell what is there from what a probe
learned from many examples; the code counts both.
"""

from typing import Any, ClassVar

from weft.analysis.figures import Words, cells
from weft.analysis.intervals import over_seeds
from weft.analysis.measures.probes.codelength import Codelength, online, random_order
from weft.analysis.probing.readers import (
    BASE,
    SEEDS,
    UNTRAINED,
    check_installed,
    readers,
    said_of,
    verdict,
)
from weft.analysis.questions.contract import Answer, Needs, Number, Question
from weft.analysis.questions.probes import missing
from weft.analysis.study import Study
from weft.scoped import tell


class Codelengths(Question):
    """What it takes to read them."""

    asks: ClassVar[str] = "How easily are grammar and meaning read from the states?"
    reading: ClassVar[str] = (
        "Each cell is how many percent more bits labels take for who has the expert's last layer than for who has the "
        "base's: below 0 they are easier to read. The numbers are the same, with Student's interval over three orders "
        "of the sentences; for the base it is the length as a percentage of the uniform code, 100 where "
        "vectors say nothing of labels."
    )
    chance: ClassVar[str] = "the same code with an untrained encoder's vectors, against the base's."
    needs: ClassVar[Needs] = "trees"

    def answer(self, study: Study) -> Answer:
        check_installed()
        rows: list[dict[str, Any]] = []
        numbers, words, cell = [], [], {}
        for annotation in study.annotations:
            found: dict[str, list[Codelength]] = {}
            train = annotation.train
            for name, reader in readers(study).items():
                vectors = train.vectors(study.states(train.corpus, reader)[-1])
                for seed in range(SEEDS):
                    tell(f"coding with {name}: {annotation.name}", seed, SEEDS)
                    draws = study.generator(f"order {annotation.name} {seed}")
                    code = online(vectors, train.labels, random_order(train.sentence, draws))
                    found.setdefault(name, []).append(code)
                    rows.append(
                        {
                            **said_of(name, reader),
                            "annotation": annotation.name,
                            "probe seed": seed,
                            "bits": code.bits,
                            "uniform bits": code.uniform,
                            "compression": code.compression,
                            "labels": len(train.labels),
                        }
                    )
            base = found.pop(BASE)
            longer = {
                name: over_seeds(
                    [100 * (a.bits / b.bits - 1) for a, b in zip(own, base, strict=True)]
                )
                for name, own in found.items()
            }
            untrained, level = found[UNTRAINED], longer.pop(UNTRAINED).value
            own, drawn_ = (
                over_seeds([100 / code.compression for code in codes])
                for codes in (base, untrained)
            )
            what = f"{annotation.name}: length of the code"
            numbers.append(Number(BASE, f"{what} (% of the uniform one)", own, drawn_.value))
            for name, score in longer.items():
                numbers.append(Number(name, f"{what} (% more than the base's)", score, level))
                cell[name, annotation.name] = score.value
                words.append(
                    f"{name}: {score.value:+.3g} % bits for {annotation.name}, {verdict(score)}."
                )
        figure = Words(
            "codelength",
            "Bits of the labels, against the base's (%)",
            "annotation",
            "expert",
            "Length of the online code of labels from the last layer, percent more than the base's; below 0: easier.",
        )
        names, columns = (
            [subject.name for subject in study.subjects],
            [one.name for one in study.annotations],
        )
        drawn = cells(figure, names, columns, cell)
        return Answer(tuple(words), tuple(numbers), tuple(rows), (drawn,), notes=missing(columns))

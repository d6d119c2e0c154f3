"""What words' states say of grammar and meaning: linear probes, and how much of it the probe learned by heart.

    selectivity = accuracy - accuracy on the control task

Edge probing (Tenney et al. 2019, arXiv:1905.06316): a label for a word, a span, or a word and its head, from frozen
vectors; here the mean of a span's tokens and a linear probe, where theirs pools by attention into a small network.
Control tasks: Hewitt and Liang 2019, aclanthology.org/D19-1275.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor

from weft.analysis.figures import Words, cells
from weft.analysis.measures.probes.linear import control_labels, hits
from weft.analysis.probing.annotations import FOLDERS, Annotation
from weft.analysis.probing.readers import (
    BASE,
    SEEDS,
    UNTRAINED,
    Statistic,
    check_installed,
    differences,
    readers,
    said_of,
    verdict,
)
from weft.analysis.questions.contract import Answer, Needs, Number, Question
from weft.analysis.study import Reader, Study
from weft.scoped import tell

SHARE = 0.8
"""Of the training sentences, which each training of a probe draws: it has no other chance in it."""


class Probes(Question):
    """Grammar and meaning."""

    asks: ClassVar[str] = "Do states still say what words are and mean?"
    reading: ClassVar[str] = (
        "Each cell is how many percentage points more of an annotation a linear probe gets right from the expert's "
        "last layer than from the base's. Selectivity is accuracy less that on a control task, where every word has a "
        "random label: what the probe did not learn by heart. The numbers are the expert's less the base's with the "
        "same probe, over three trainings, each on sentences of its own draw; intervals are over probes and sentences "
        "together: one that holds 0 says that the expert changed nothing that these sentences show."
    )
    chance: ClassVar[str] = (
        "the same probe on the same architecture with weights that were drawn, less the base's."
    )
    needs: ClassVar[Needs] = "trees"

    def answer(self, study: Study) -> Answer:
        check_installed()
        rows: list[dict[str, Any]] = []
        numbers, words, cell = [], [], {}
        for annotation in study.annotations:
            right: dict[str, list[Statistic]] = {}
            selective: dict[str, list[Statistic]] = {}
            for name, reader in readers(study).items():
                for seed in range(SEEDS):
                    tell(f"probing {name}: {annotation.name}", seed, SEEDS)
                    own, control = _probed(study, reader, annotation, seed)
                    right.setdefault(name, []).append(lambda kept, o=own: o[kept].mean().item())
                    selective.setdefault(name, []).append(
                        lambda kept, o=own, c=control: (o - c)[kept].mean().item()
                    )
                    accuracy, by_heart = own.mean().item(), control.mean().item()
                    rows.append(
                        {
                            **said_of(name, reader),
                            "annotation": annotation.name,
                            "probe seed": seed,
                            "accuracy": accuracy,
                            "control accuracy": by_heart,
                            "selectivity": accuracy - by_heart,
                            "labels": len(own),
                        }
                    )
            sentence = annotation.held.sentence
            for what, found in (("accuracy", right), ("selectivity", selective)):
                scores = differences(found, sentence, scale=100)
                level, base = scores.pop(UNTRAINED).value, scores.pop(BASE)
                said = f"{annotation.name}: {what}"
                numbers.append(Number(BASE, f"{said} (%)", base, base.value + level))
                for name, score in scores.items():
                    numbers.append(Number(name, f"{said}, less the base's (points)", score, level))
                    if what == "accuracy":
                        cell[name, annotation.name] = score.value
                        words.append(
                            f"{name}: {score.value:+.3g} points of {annotation.name}, {verdict(score)} "
                            f"(base: {base.value:.3g} %)."
                        )
        figure = Words(
            "probes",
            "Accuracy, less the base's (points)",
            "annotation",
            "expert",
            "Accuracy of a linear probe on the last layer, the expert's less the base's, in percentage points.",
        )
        names = [subject.name for subject in study.subjects]
        columns = [annotation.name for annotation in study.annotations]
        drawn = cells(figure, names, columns, cell)
        return Answer(tuple(words), tuple(numbers), tuple(rows), (drawn,), notes=missing(columns))


def missing(found: list[str]) -> tuple[str, ...]:
    """What was not probed, since its folder is not there."""
    return tuple(
        f"{what.capitalize()} was not probed: there is no {folder}/ below --data."
        for folder, what in FOLDERS.items()
        if not any(name in what for name in found)
    )


def _probed(
    study: Study, reader: Reader, annotation: Annotation, seed: int
) -> tuple[Tensor, Tensor]:
    """Which held labels one probe gets right, and another those of the control task: (n,) of 0 and 1."""
    train, held = annotation.train, annotation.held
    seen, others = (own.vectors(study.states(own.corpus, reader)[-1]) for own in (train, held))
    generator = study.generator(f"probe {annotation.name} {seed}")
    drawn = torch.rand(len(train.corpus.units), generator=generator) < SHARE
    own = drawn[train.sentence].nonzero()[:, 0]
    by_word = control_labels([*train.words, *held.words], train.labels, generator)
    given = [
        (train.labels, held.labels),
        ([by_word[word] for word in train.words], [by_word[word] for word in held.words]),
    ]
    right, control = (
        hits(seen[own], [labels[at] for at in own.tolist()], others, wanted)
        for labels, wanted in given
    )
    return right, control

"""In which layers grammar and meaning are: the centre of gravity of a scalar mix of all layers.

    h = gamma sum_l softmax(a)_l h_l,    centre = sum_l l softmax(a)_l

Tenney et al. 2019, aclanthology.org/P19-1452, section 2; learned together with a linear probe.
"""

from statistics import fmean
from typing import Any, ClassVar

import torch

from weft.analysis.figures import Words, cells
from weft.analysis.intervals import over_seeds
from weft.analysis.measures.probes.scalar_mix import centre_of_gravity, mix_weights
from weft.analysis.probing.readers import BASE, SEEDS, UNTRAINED, readers, said_of, verdict
from weft.analysis.questions.contract import Answer, Needs, Number, Question
from weft.analysis.questions.probes import missing
from weft.analysis.study import Study
from weft.scoped import tell


class Gravity(Question):
    """Where grammar and meaning are."""

    asks: ClassVar[str] = "In which layers do probes find grammar and meaning?"
    reading: ClassVar[str] = (
        "Each cell is the layer (0: embeddings) on which the weights balance that a probe gives to all layers. The "
        "numbers are by how many layers an expert moved it from where the base has it, with Student's interval over "
        "three trainings of the probe on the same sentences. A weight says what the probe used, not where else the "
        "same could be found."
    )
    chance: ClassVar[str] = (
        "the same probe on the same architecture with weights that were drawn, less the base's."
    )
    needs: ClassVar[Needs] = "trees"

    def answer(self, study: Study) -> Answer:
        rows: list[dict[str, Any]] = []
        numbers, words, cell = [], [], {}
        for annotation in study.annotations:
            centres: dict[str, list[float]] = {}
            for name, reader in readers(study).items():
                states = torch.stack(study.states(annotation.train.corpus, reader))
                vectors = annotation.train.vectors(states)
                for seed in range(SEEDS):
                    tell(f"mixing layers of {name}: {annotation.name}", seed, SEEDS)
                    weights = mix_weights(vectors, annotation.train.labels, seed=study.seed + seed)
                    centre = centre_of_gravity(weights)
                    centres.setdefault(name, []).append(centre)
                    rows += [
                        {
                            **said_of(name, reader),
                            "annotation": annotation.name,
                            "probe seed": seed,
                            "layer": layer,
                            "weight": weight,
                            "centre of gravity": centre,
                        }
                        for layer, weight in enumerate(weights.tolist())
                    ]
                cell[name, annotation.name] = fmean(centres[name])
            base = centres.pop(BASE)
            shifts = {
                name: over_seeds([a - b for a, b in zip(own, base, strict=True)])
                for name, own in centres.items()
            }
            level = shifts.pop(UNTRAINED).value
            said = f"{annotation.name}: centre of gravity"
            numbers.append(Number(BASE, f"{said} (layer)", over_seeds(base), fmean(base) + level))
            for name, score in shifts.items():
                numbers.append(Number(name, f"{said}, less the base's (layers)", score, level))
                words.append(
                    f"{name}: {annotation.name} is {score.value:+.2g} layers from the base's {fmean(base):.3g}, "
                    f"{verdict(score)}."
                )
        figure = Words(
            "gravity",
            "Centre of gravity (layer)",
            "annotation",
            "expert",
            "Layer on which the weights of a scalar mix balance, mean over probes, by annotation.",
        )
        names, columns = list(readers(study)), [one.name for one in study.annotations]
        drawn = cells(figure, names, columns, cell)
        return Answer(tuple(words), tuple(numbers), tuple(rows), (drawn,), notes=missing(columns))

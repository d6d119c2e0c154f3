"""How much each adapted map adds to what the frozen one says.

    |dW x| / |W0 x|, mean over tokens, x what the map is given under the expert

A change may be small as a matrix and still decide, where inputs lie in its directions; this is its size on real inputs.
"""

from typing import Any, ClassVar

import torch

from weft.analysis.contributions import contributions_of
from weft.analysis.figures import Words, cells
from weft.analysis.intervals import jackknife
from weft.analysis.layers import by_cell, largest, names_of
from weft.analysis.questions.contract import Answer, Needs, Number, Question
from weft.analysis.study import Study, route_of
from weft.analysis.subjects import owner
from weft.analysis.tagged import means
from weft.answering.inference import padding_id
from weft.reporting.document import distinct_names

DRAWN = 6
"""Experts with a figure."""


class Contribution(Question):
    """Which maps matter."""

    asks: ClassVar[str] = "Which adapted maps add most to what the base says?"
    reading: ClassVar[str] = (
        "Each cell is the size of what the change adds as a percentage of what the frozen map gives, mean over the "
        "tokens that were read. The number is the mean over maps, with a jackknife interval over sentences; the rows "
        "have every map by part of speech, too."
    )
    chance: ClassVar[str] = (
        "a random change of the same shape, rank and norm on the same inputs of the same map: a trained one that adds "
        "more has turned to where inputs are."
    )
    needs: ClassVar[Needs] = "rows"

    def answer(self, study: Study) -> Answer:
        rows: list[dict[str, Any]] = []
        numbers, figures, words = [], [], []
        keys = distinct_names([subject.name for subject, _ in study.experts])
        for (subject, changes), key in zip(study.experts, keys, strict=True):
            corpus = study.common(subject)
            like = next(study.model.trunk.parameters())
            weights = {name: study.weight(name).to(like) for name in changes}
            given = corpus, route_of(subject), padding_id(study.base)
            found = contributions_of(
                subject.model.snapshot, *given, changes=changes, weights=weights
            )
            level = contributions_of(
                subject.model.snapshot, *given, changes=study.twin(subject), weights=weights
            )
            own = []
            for module, values in found.items():
                layer, role = study.place(module)
                place = {
                    **owner(subject),
                    "read": corpus.name,
                    "map": module,
                    "layer": layer,
                    "role": role,
                }
                own.append(
                    {
                        **place,
                        "part of speech": "",
                        "percent": 100 * values.mean().item(),
                        "percent by chance": 100 * level[module].mean().item(),
                    }
                )
                tags = corpus.tags.get("part of speech")
                by_tag = means(values, tags, corpus.sentence) if tags else {}
                chance = means(level[module], tags, corpus.sentence) if tags else {}
                rows += [
                    {
                        **place,
                        "part of speech": tag,
                        "percent": 100 * score.value,
                        "percent by chance": 100 * chance[tag].value,
                    }
                    for tag, score in by_tag.items()
                ]
            rows += own
            mean, by_chance = (torch.stack(list(one.values())).mean(0) for one in (found, level))
            score = jackknife(
                lambda kept, mean=mean: 100 * mean[kept].mean().item(), corpus.sentence
            )
            what = "contribution of the change, mean over maps (% of the frozen map)"
            numbers.append(Number(subject.name, what, score, 100 * by_chance.mean().item()))
            words.append(
                f"{subject.name}: {score.value:.3g} % of what the frozen maps give, most at {largest(own, 'percent')}; "
                f"a random change of that size adds {100 * by_chance.mean().item():.3g} %."
            )
            if len(figures) < DRAWN:
                cell = by_cell(own, "percent")
                said = Words(
                    f"contribution-{key}",
                    f"{subject.name}: what the change adds (%)",
                    "role of the map",
                    "layer",
                    f"{subject.name}: size of what the change adds, % of what the frozen map gives, by layer and role.",
                )
                figures.append(cells(said, *names_of(cell), cell))
        return Answer(tuple(words), tuple(numbers), tuple(rows), tuple(figures))

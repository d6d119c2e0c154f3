"""The rank that a task needs: scores of plain LoRA of several ranks, trained alike.

    the least r whose score is within 1 % of the best one's

Hu et al. 2021, LoRA, arXiv:2106.09685, section 7.2, sweep the rank as this does. The trainings are those of the
question on the intrinsic dimension: query and value maps, so many steps, a head of their own.
"""

from statistics import fmean
from typing import Any, ClassVar

from weft.analysis.figures import Line, Words, lines
from weft.analysis.intervals import geometric, over_seeds
from weft.analysis.measures.dimension import least_within
from weft.analysis.needs.trials import LORA, NOTHING, SEEDS, grounds, tried
from weft.analysis.questions.contract import Answer, Needs, Number, Question
from weft.analysis.study import Study

RANKS = (1, 2, 4, 8, 16)


class Ranks(Question):
    """What rank the task needs."""

    asks: ClassVar[str] = "Which rank does each task need?"
    reading: ClassVar[str] = (
        "The line is the score on held rows of plain LoRA on query and value maps after a short training, by rank, "
        "mean over three seeds. The numbers are the least rank within 1 % of the best score, with Student's interval "
        "over the logarithms of three seeds, and the score of the highest rank less that of rank 1."
    )
    chance: ClassVar[str] = "the head alone on the bare base, trained alike."
    needs: ClassVar[Needs] = "training"

    def answer(self, study: Study) -> Answer:
        rows: list[dict[str, Any]] = []
        numbers, words, drawn = [], [], []
        narrow = min(min(study.weight(name).shape) for name in study.experts[0][1])
        ranks = [rank for rank in RANKS if rank <= narrow]
        for ground in grounds(study):
            sign = 1 if ground.held.task.higher_is_better else -1
            found = [[tried(study, ground, LORA, rank, s) for rank in ranks] for s in range(SEEDS)]
            none = [tried(study, ground, NOTHING, 0, seed) for seed in range(SEEDS)]
            for seed, curve in enumerate(found):
                rows += [
                    {
                        "task": ground.task,
                        "metric": ground.held.task.metric,
                        "rank": rank,
                        "seed": seed,
                        "score": trial.score,
                        "loss": trial.loss,
                    }
                    for rank, trial in zip([0, *ranks], [none[seed], *curve], strict=True)
                ]
            least = [least_within(ranks, [sign * one.score for one in curve]) for curve in found]
            gains = [100 * (curve[-1].score - curve[0].score) for curve in found]
            metric = ground.held.task.metric
            numbers.append(
                Number(ground.task, "least rank within 1 % of the best", geometric(least))
            )
            what = f"{metric} of rank {ranks[-1]}, less that of rank 1 (points)"
            numbers.append(Number(ground.task, what, over_seeds(gains)))
            scores = [fmean(one.score for one in own) for own in zip(*found, strict=True)]
            level = fmean(trial.score for trial in none)
            points = zip(map(float, ranks), scores, strict=True)
            drawn.append(Line(ground.task, tuple(points)))
            drawn.append(Line("chance", tuple((float(r), level) for r in ranks), chance=True))
            words.append(
                f"{ground.task}: {metric} is {100 * level:.3g} % of the head alone, {100 * scores[0]:.3g} % at rank 1 "
                f"and {100 * scores[-1]:.3g} % at rank {ranks[-1]}."
            )
        figure = Words(
            "ranks",
            "Score by rank",
            "rank",
            "score (0 to 1)",
            "Score on held rows of plain LoRA after a short training, by rank, mean over seeds; dotted: no LoRA.",
        )
        return Answer(
            tuple(words), tuple(numbers), tuple(rows), (lines(figure, drawn, along="log"),)
        )

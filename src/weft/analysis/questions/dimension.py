"""The intrinsic dimension of a task: the smallest random subspace of the weights in which it can be learned.

    theta = theta_0 + P theta_d,    d_90: the least d that gets 90 % of what training all weights gets

Li et al. 2018, arXiv:1804.08838; of language models Aghajanyan et al. 2021, aclanthology.org/2021.acl-long.568. We
differ in three ways. The weights are those of query and value maps, so that d stands beside a rank. A head is trained
beside theta_d at a rate of its own, in every space alike, and is all that is trained at d = 0. And trainings are short,
so that d_90 is what so many steps need: it is said of the loss on held rows, as 90 % of the way from d = 0 to all
weights, and of the task's score, as 90 % of the score, which may be 0 for long.
"""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

from weft.analysis.figures import Line, Words, lines
from weft.analysis.intervals import geometric
from weft.analysis.measures.dimension import SHARE, least_size
from weft.analysis.measures.projections import MOST_ENTRIES
from weft.analysis.needs.trials import NOTHING, SEEDS, Ground, Trial, grounds, tried, weights_of
from weft.analysis.questions.contract import Answer, Needs, Number, Question
from weft.analysis.study import Study

SIZES = (8, 64, 512, 4096, 32768)
OTHERS = ("isometry", "dense")
"""Beside fastfood: to see that it is not the construction; with the first seed alone."""


class Dimension(Question):
    """What the task needs."""

    asks: ClassVar[str] = "In how many dimensions can each task be learned?"
    reading: ClassVar[str] = (
        "The line is how much of what training all weights of query and value maps takes off the loss on held rows a "
        "random subspace takes off, by its dimensions. d90 is where it reaches 90 %, between two sizes by a line over "
        "their logarithm, with Student's interval over the logarithms of three seeds, each with a subspace, a head and "
        "an order of rows of its own; unlimited where no size gets there."
    )
    chance: ClassVar[str] = "no subspace at all: the head alone, which is 0 % of the way."
    needs: ClassVar[Needs] = "training"

    def answer(self, study: Study) -> Answer:
        rows: list[dict[str, Any]] = []
        numbers, words, drawn = [], [], []
        for ground in grounds(study):
            count = weights_of(study, ground)
            sizes = [size for size in SIZES if size < count]
            none, every = (
                [tried(study, ground, space, 0, seed) for seed in range(SEEDS)]
                for space in (NOTHING, "all weights")
            )
            found: dict[str, list[list[Trial]]] = {}
            for space in ("fastfood", *OTHERS):
                own = [size for size in sizes if space != "dense" or size * count <= MOST_ENTRIES]
                for seed in range(1 if space in OTHERS else SEEDS):
                    curve = [tried(study, ground, space, size, seed) for size in own]
                    found.setdefault(space, []).append(curve)
                    ways = [_way(one, none[seed], every[seed]) for one in curve]
                    ends = [(0, NOTHING, none[seed], 0.0), (count, "all weights", every[seed], 1.0)]
                    trials = [
                        *zip(own, [space] * len(own), curve, ways, strict=True),
                        *(ends if space == "fastfood" else []),
                    ]
                    rows += [
                        {
                            "task": ground.task,
                            "metric": ground.held.task.metric,
                            "space": called,
                            "dimensions": size,
                            "seed": seed,
                            "score": trial.score,
                            "loss": trial.loss,
                            "way": way,
                        }
                        for size, called, trial, way in trials
                    ]
                    if seed == 0:
                        name = f"{ground.task}, {space}"
                        points = tuple((float(s), w) for s, w in zip(own, ways, strict=True))
                        drawn.append(Line(name, points or ((1.0, math.nan),)))
            by_loss, by_score = [], []
            for seed, curve in enumerate(found["fastfood"]):
                ways = [_way(one, none[seed], every[seed]) for one in curve]
                by_loss.append(least_size(sizes, ways, SHARE))
                by_score.append(_of_scores(ground, sizes, curve, every[seed]))
            for what, values in (("loss", by_loss), (ground.held.task.metric, by_score)):
                numbers.append(
                    Number(ground.task, f"d90 of the {what} (dimensions)", geometric(values))
                )
            words.append(
                f"{ground.task}: {numbers[-2].score.value:,.3g} of {count:,} dimensions take 90 % of what all weights "
                f"take off the loss."
            )
        figure = Words(
            "dimension",
            "Learned in a random subspace",
            "dimensions",
            "share of what all weights learn",
            "Part of the way from the head alone (0) to all weights of query and value maps (1), in loss on held rows, "
            "by the dimensions of a random subspace; first seed.",
        )
        return Answer(
            tuple(words), tuple(numbers), tuple(rows), (lines(figure, drawn, along="log"),)
        )


def _way(trial: Trial, none: Trial, every: Trial) -> float:
    """The part of the way from the head alone to all weights; nan where these are no way apart."""
    return (
        (none.loss - trial.loss) / (none.loss - every.loss) if none.loss > every.loss else math.nan
    )


def _of_scores(ground: Ground, sizes: Sequence[int], curve: Sequence[Trial], every: Trial) -> float:
    """d_90 as the paper has it, of scores where more is better; nan where training all weights scored nothing."""
    if not ground.held.task.higher_is_better or not every.score:
        return math.nan
    return least_size(sizes, [trial.score for trial in curve], SHARE * every.score)

"""What shape the cloud of states has: how evenly it points, how many directions it fills, how it bends.

    mean cosine of two tokens; (sum lambda)^2 / sum lambda^2 of the covariance; n / sum log(r2 / r1)

Ethayarajh 2019, arXiv:1909.00512 (anisotropy); Facco et al. 2017, doi:10.1038/s41598-017-11873-y (TwoNN).
"""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from weft.analysis.figures import Line, Words, lines
from weft.analysis.intervals import jackknife
from weft.analysis.measures.geometry import mean_cosine, participation_ratio, two_nn
from weft.analysis.questions.contract import Answer, Needs, Number, Question
from weft.analysis.study import Study
from weft.analysis.subjects import owner
from weft.reporting.document import Figure

POINTS = 1000
"""Units of which dimensions are measured."""
MEASURES: dict[str, tuple[Callable[[Tensor], float], str]] = {
    "mean cosine": (mean_cosine, "mean cosine of two tokens (-1 to 1)"),
    "participation ratio": (participation_ratio, "participation ratio (directions)"),
    "TwoNN dimension": (two_nn, "TwoNN dimension (directions)"),
}


class Geometry(Question):
    """The shape of the cloud."""

    asks: ClassVar[str] = "What shape has the space of states, before and after?"
    reading: ClassVar[str] = (
        "A mean cosine near 1 says that all tokens point the same way, near 0 that they spread evenly. The "
        "participation ratio counts the directions that hold the variance of the whole cloud; the TwoNN dimension "
        "counts the directions in which a token's nearest neighbours lie, which is smaller where the cloud is bent. "
        "Numbers are the expert's minus the base's at the last layer, with a jackknife interval over sentences: one "
        "that holds 0 shows no change."
    )
    chance: ClassVar[str] = (
        "the same difference under a random adapter of the same maps, ranks and norms."
    )
    needs: ClassVar[Needs] = "rows"

    def answer(self, study: Study) -> Answer:
        rows: list[dict[str, Any]] = []
        numbers, words = [], []
        drawn: dict[str, list[Line]] = {name: [] for name in MEASURES}
        based: set[str] = set()
        for subject in study.subjects:
            corpus = study.common(subject)
            order = torch.randperm(len(corpus), generator=study.generator("points"))
            chosen = order[:POINTS].sort().values
            sentence = corpus.sentence[chosen]
            sides = {
                "base": [one[chosen] for one in study.states(corpus, None)],
                "expert": [one[chosen] for one in study.states(corpus, subject)],
            }
            twin = study.twin_states(corpus, subject)
            if twin is not None:
                sides["chance"] = [one[chosen] for one in twin]
            for name, (measure, what) in MEASURES.items():
                values = {side: [measure(one) for one in own] for side, own in sides.items()}
                rows += [
                    {
                        **owner(subject),
                        "read": corpus.name,
                        "layer": layer,
                        "measure": name,
                        "base": values["base"][layer],
                        "adapted": values["expert"][layer],
                        "by chance": values["chance"][layer] if twin is not None else None,
                    }
                    for layer in range(len(values["base"]))
                ]
                x, y = sides["base"][-1], sides["expert"][-1]
                score = jackknife(
                    lambda kept, x=x, y=y, measure=measure: measure(y[kept]) - measure(x[kept]),
                    sentence,
                )
                level = values["chance"][-1] - values["base"][-1] if twin is not None else None
                numbers.append(Number(subject.name, f"{what}, expert - base", score, level))
                drawn[name].append(_line(subject.name, values["expert"]))
                if corpus.name not in based:
                    drawn[name].append(_line(f"base on {corpus.name}", values["base"]))
                words.append(_verdict(subject.name, name, score.low, score.high))
            based.add(corpus.name)
        figures = tuple(
            _figure(name, what, study.seeds.lines(drawn[name]))
            for name, (_, what) in MEASURES.items()
        )
        return Answer(tuple(words), tuple(numbers), tuple(rows), figures)


def _line(name: str, values: list[float]) -> Line:
    return Line(name, tuple((float(at), value) for at, value in enumerate(values)))


def _verdict(subject: str, name: str, low: float, high: float) -> str:
    how = "rises" if low > 0 else "falls" if high < 0 else "does not change beyond chance"
    return f"{subject}: the {name} of the last layer {how}."


def _figure(name: str, what: str, drawn: list[Line]) -> Figure:
    words = Words(
        f"geometry-{name.replace(' ', '-')}",
        what.partition(" (")[0].capitalize() if not what.startswith("Two") else "TwoNN dimension",
        "layer (0: embeddings)",
        what,
        f"The {name} of the states by layer, of the base and of each expert, on the same tokens.",
    )
    return lines(words, drawn)

"""How many directions of its change an expert needs: its score with the strongest k of each map alone.

    dW_k = U[:, :k] diag(S[:k]) Vh[:k],    k = 0, 1, 2, 4, ..., rank

The nearest change of rank k (Eckart and Young 1936, doi:10.1007/BF02288367), map by map; the head stays.
"""

import math
from typing import Any, ClassVar

import torch

from weft.analysis.figures import Line, Words, lines
from weft.analysis.measures.changes import Change
from weft.analysis.measures.dimension import SHARE, least_size, truncated
from weft.analysis.needs.altered import Rows, answers, held_rows
from weft.analysis.questions.contract import Answer, Needs, Number, Question
from weft.analysis.study import Study
from weft.analysis.subjects import Subject, owner
from weft.scoped import tell
from weft.tasks.contract import Prediction
from weft.tasks.scoring import RESAMPLES, Score, interval, means

FULLEST = 64
"""Directions, after which only all of them are asked."""


class Directions(Question):
    """What of the change is needed."""

    asks: ClassVar[str] = "How many directions of its change does an expert need?"
    reading: ClassVar[str] = (
        "Each line is an expert's score on rows of its own task when every map keeps only so many of its change's "
        "strongest directions; at 0 its head stands on the bare base, at the right end is the whole expert. The number "
        "is how many it takes to 90 % of the way from the one to the other, between two of those asked by a line over "
        "their logarithm. Its interval is over rows, without resamples in which the change is of no use; there is no "
        "number where it is of none on all of them."
    )
    chance: ClassVar[str] = (
        "as many of the change's own directions, drawn at random in place of the strongest."
    )
    needs: ClassVar[Needs] = "weights"

    def answer(self, study: Study) -> Answer:
        rows: list[dict[str, Any]] = []
        numbers, words, drawn = [], [], []
        for subject, changes in study.experts:
            held = held_rows(study, subject)
            said = {
                kind: _asked(study, subject, held, changes, kind)
                for kind in ("strongest", "random")
            }
            scores = {
                kind: {k: held.score(own) for k, own in by_k.items()} for kind, by_k in said.items()
            }
            for kind, by_k in scores.items():
                rows += [
                    {
                        **owner(subject),
                        "metric": held.task.metric,
                        "kept": kind,
                        "directions": k,
                        "score": score.value,
                        "low": score.low,
                        "high": score.high,
                        "rows": len(held.examples),
                    }
                    for k, score in by_k.items()
                ]
                # A logarithm has no place for none; it stands where a half would.
                points = tuple((max(k, 0.5), score.value) for k, score in by_k.items())
                name = subject.name if kind == "strongest" else "chance"
                drawn.append(Line(name, points, chance=kind == "random"))
            needed = _needed(held, said["strongest"], study.seed)
            level = _needed(held, said["random"], study.seed).value
            numbers.append(Number(subject.name, "directions to 90 % of the way", needed, level))
            ends = list(scores["strongest"].values())
            start, end = (100 * own.value for own in (ends[0], ends[-1]))
            words.append(
                f"{subject.name}: {held.task.metric} is {start:.3g} % with none of its change and {end:.3g} % with all "
                f"of it{_said(needed.value, level)}."
            )
        figure = Words(
            "directions",
            "Score with the strongest directions alone",
            "directions kept in each map (0.5: none)",
            "score of the expert's task (0 to 1)",
            "Score on rows of the expert's own task against the singular directions of its change that are kept; "
            "dotted: random ones of its own.",
        )
        found = (lines(figure, drawn, along="log"),) if drawn else ()
        return Answer(tuple(words), tuple(numbers), tuple(rows), found)


def _said(needed: float, level: float) -> str:
    if math.isnan(needed):
        return ""
    by_chance = "" if math.isnan(level) else f", {level:.3g} random ones of its own"
    return f"; {needed:.3g} directions a map take it 90 % of the way{by_chance}"


def asked_of(changes: dict[str, Change]) -> list[int]:
    """0, powers of two, and as many as there are."""
    most = max((change.rank for change in changes.values()), default=0)
    powers = [1 << at for at in range(most.bit_length()) if 1 << at < min(most, FULLEST + 1)]
    return [0, *powers, *([most] if most else [])]


def _asked(
    study: Study, subject: Subject, held: Rows, changes: dict[str, Change], kind: str
) -> dict[int, list[Prediction]]:
    """What the expert says with so many directions of each map."""
    generator = study.generator(f"directions of {subject.name}")
    order = {
        name: torch.arange(change.rank)
        if kind == "strongest"
        else torch.randperm(change.rank, generator=generator)
        for name, change in changes.items()
    }
    found = {}
    for k in asked_of(changes):
        tell(f"{subject.name} with {k} {kind} directions")
        own = {name: truncated(change, order[name][:k]) for name, change in changes.items()}
        found[k] = answers(study, subject, held, own)
    return found


def _needed(held: Rows, said: dict[int, list[Prediction]], seed: int) -> Score:
    """The directions that take the score 90 % of the way from none to all, with the interval over rows."""
    metric, sizes = held.task.metric, [max(k, 0.5) for k in said]
    values, drawn = [], []
    for own in said.values():
        value, resampled = means(held.task, [own], held.examples, RESAMPLES, seed)
        values.append(value[metric])
        drawn.append(resampled[metric])
    sign = 1.0 if held.task.higher_is_better else -1.0

    def needed(scores: list[float]) -> float:
        way = [sign * (score - scores[0]) for score in scores]
        return least_size(sizes, way, SHARE * way[-1]) if way[-1] > 0 else float("nan")

    resampled = torch.tensor([own.tolist() for own in drawn]).T.tolist()
    every = torch.tensor([needed(scores) for scores in resampled], dtype=torch.float64).numpy()
    return interval(needed(values), every, 0.95)

"""Whether what is seen in the weights foretells what a merge loses: predictors of pairs against held-out rows.

    dW = dW_A + dW_B,    lost = (score of A's head on dW_A - its score on dW) / its score on dW_A

Task arithmetic with both weights 1 (Ilharco et al. 2022, arXiv:2212.04089): each change is whole, so what is lost is
what the other does to it and nothing that scaling does.
"""

import math
from statistics import fmean
from typing import Any, ClassVar

from weft.analysis.figures import Line, Words, points
from weft.analysis.intervals import Number
from weft.analysis.measures.changes import interference, together
from weft.analysis.measures.foretelling import FEWEST, by_chance, rank_correlation
from weft.analysis.measures.subspaces import similarity
from weft.analysis.questions.contract import Answer, Needs, Question
from weft.analysis.reading.answers import Rows, pairs_of_tasks, rows_of, sample_of
from weft.analysis.study import Study
from weft.analysis.subjects import Subject, owner
from weft.analysis.texts import NotAtHandError
from weft.methods.merges import merges
from weft.model.expert import Expert
from weft.model.factoring import lora_of
from weft.reporting.document import Figure
from weft.tasks.contract import Prediction
from weft.tasks.scoring import paired_difference, score

METHOD = "task_arithmetic"
PREDICTORS = {
    "interference": "interference (0 to 1)",
    "cosine": "cosine of the changes, all maps together (-1 to 1)",
    "overlap": "overlap of input directions (0 to 1)",
    "relative size": "size of the other's change over the task's own",
}


class Merging(Question):
    """Whether it can be foretold."""

    asks: ClassVar[str] = "Does interference in the weights foretell what a merge loses?"
    reading: ClassVar[str] = (
        "Every two experts of different tasks are added up, and both heads answer held-out rows. A point is one task "
        "of one pair: what its score lost, as a share of what it was, against what the weights say of it. Numbers "
        f"are Spearman's correlation over points, with a bootstrap interval over pairs where there are {FEWEST} at "
        "least."
    )
    chance: ClassVar[str] = (
        "the size of a correlation that 19 of 20 random orders of the points stay below."
    )
    needs: ClassVar[Needs] = "pairs"

    def answer(self, study: Study) -> Answer:
        pairs = pairs_of_tasks(study)
        if not pairs:
            raise NotAtHandError("no two experts of different tasks that can be merged")
        rows: list[dict[str, Any]] = []
        read: dict[str, tuple[Rows, list[Prediction]]] = {}
        chosen = list(sample_of(study, pairs))
        for number, (one, other) in enumerate(chosen):
            for subject in (one, other):
                if subject.name not in read:
                    own = rows_of(study, subject)
                    read[subject.name] = own, own.said(study, (subject.member,))
            with study.resident(_merged(one, other)):
                for subject, beside in ((one, other), (other, one)):
                    lost = _lost(study, *read[subject.name])
                    values = {"pair": number} | lost | _foretold(subject, beside)
                    rows.append({**owner(subject), "other": beside.name} | values)
        numbers, figures = [], []
        lost = [row["lost"] for row in rows if math.isfinite(row["lost"])]
        for key, what in PREDICTORS.items():
            known = [row for row in rows if math.isfinite(row[key] + row["lost"])]
            x, y, of = ([row[column] for row in known] for column in (key, "lost", "pair"))
            if len(known) < 2:
                continue
            found = rank_correlation(x, y, of, study.seed)
            numbers.append(
                Number("all pairs", f"correlation of {key} and loss", found, by_chance(x, y))
            )
            figures.append(_figure(key, what, rows))
        words = [_verdict(numbers, len(chosen))]
        if lost:
            words.append(f"A merge of two loses {100 * fmean(lost):.3g} % of a score on average.")
        notes = () if len(chosen) == len(pairs) else (f"{len(chosen)} of {len(pairs)} pairs",)
        return Answer(tuple(words), tuple(numbers), tuple(rows), tuple(figures), notes=notes)


def _merged(one: Subject, other: Subject) -> Expert:
    assert one.changes is not None
    assert other.changes is not None
    entering = [
        {m: c.pair for m, c in own.items() if c.rank} for own in (one.changes, other.changes)
    ]
    found = merges.load(METHOD)().merge(entering, [1.0, 1.0])
    adapters = {module: lora_of(A, B) for module, (A, B) in found.factors.items()}
    return Expert("merged", adapters, None)


def _lost(study: Study, rows: Rows, before: list[Prediction]) -> dict[str, Any]:
    """What a task's score lost, and its interval; negative where it gained."""
    task, metric = rows.task, rows.task.metric
    after = rows.said(study, ("merged",))
    found = paired_difference(task, before, after, rows.examples, seed=study.seed)[metric]
    own = score(task, before, rows.examples, resamples=0)[metric].value
    scale = (1 if task.higher_is_better else -1) / own if own else math.nan
    low, high = sorted((scale * found.low, scale * found.high))
    return {
        "metric": metric,
        "score": own,
        "score after": own - found.value,
        "lost": scale * found.value,
        "lost low": low,
        "lost high": high,
    }


def _foretold(one: Subject, other: Subject) -> dict[str, float]:
    """What the weights say of what `other` does to `one`."""
    assert one.changes is not None
    assert other.changes is not None
    mine, theirs = one.changes, other.changes
    shared = [(mine[m], theirs[m]) for m in mine if m in theirs and mine[m].rank and theirs[m].rank]
    sizes = [math.sqrt(sum(change.norm**2 for change in own.values())) for own in (mine, theirs)]
    alike = [similarity(a.Vh.T, b.Vh.T)[-1, -1].item() for a, b in shared]
    return {
        "interference": fmean(interference(a, b) for a, b in shared) if shared else 0.0,
        "cosine": together(mine, theirs),
        "overlap": fmean(alike) if alike else 0.0,
        "relative size": sizes[1] / sizes[0] if sizes[0] else math.nan,
    }


def _verdict(numbers: list[Number], pairs: int) -> str:
    if pairs < FEWEST:
        return f"{pairs} pairs are too few to say whether anything foretells it; see the points."
    sure = [n.what for n in numbers if n.score.low > 0 or n.score.high < 0]
    return f"Beyond chance: {'; '.join(sure) or 'nothing'}."


def _figure(key: str, what: str, rows: list[dict[str, Any]]) -> Figure:
    words = Words(
        f"merging-{key.replace(' ', '-')}",
        f"What a merge loses by {key}",
        what,
        "score lost (share of what it was)",
        f"Loss of each task in each merge of two experts against {key}; a colour is the task that loses.",
    )
    by_task: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        by_task.setdefault(row["task"], []).append((row[key], row["lost"]))
    return points(words, [Line(task, tuple(own)) for task, own in by_task.items()])

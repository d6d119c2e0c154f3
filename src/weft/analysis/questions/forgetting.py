"""What an expert costs the other tasks: their heads' scores with its change in the trunk, and without.

    beside     score of B's head where both changes speak, less its score where B's alone does
    instead    score of B's head where A's change speaks, less its score on the bare base

B's head reads the space that B's change made. So what matters to B is what A does to it there (`beside`); on the bare
base that head is out of place already, and `instead` only says whether A makes it better or worse.
"""

from typing import Any, ClassVar, NamedTuple

from weft.analysis.figures import Words, cells
from weft.analysis.intervals import Number
from weft.analysis.questions.contract import Answer, Needs, Question
from weft.analysis.reading.answers import Rows, pairs_of_tasks, rows_of, sample_of
from weft.analysis.study import Study
from weft.analysis.subjects import Subject, owner
from weft.analysis.texts import NotAtHandError
from weft.tasks.contract import Prediction
from weft.tasks.scoring import Score, paired_difference, score


class _Read(NamedTuple):
    """Rows of a task, and what its head says of them with its own expert, and on the bare base."""

    rows: Rows
    own: list[Prediction]
    base: list[Prediction]


class Forgetting(Question):
    """What it costs others."""

    asks: ClassVar[str] = "What does each expert cost the other tasks?"
    reading: ClassVar[str] = (
        "A number is the score of another task's head with the expert's change in the trunk, less that without it, on "
        "the same held-out rows: beside that task's own change, and in its place (against the bare base). Below 0 the "
        "other task loses, where more is better. Intervals are a paired bootstrap over rows. Whole models and mixtures "
        "cannot speak beside others, and are left out."
    )
    chance: ClassVar[str] = (
        "a random adapter of the same maps, ranks and norms beside the other task's: what any change that large costs."
    )
    needs: ClassVar[Needs] = "pairs"

    def answer(self, study: Study) -> Answer:
        pairs = pairs_of_tasks(study)
        if not pairs:
            raise NotAtHandError("no two experts of different tasks that can speak together")
        rows: list[dict[str, Any]] = []
        numbers, words = [], []
        read: dict[str, _Read] = {}
        chosen = list(sample_of(study, pairs))
        for one, other in [pair for both in chosen for pair in (both, both[::-1])]:
            if other.name not in read:
                own = rows_of(study, other)
                said = (own.said(study, members) for members in ((other.member,), ()))
                read[other.name] = _Read(own, *said)
            found = _cost(study, one, other, read[other.name])
            rows.append(found.pop("row"))
            name, metric = f"{one.name} on {other.name}", rows[-1]["metric"]
            level = found["by chance"].value
            numbers.append(Number(name, f"{metric}, beside", found["beside"], level))
            numbers.append(Number(name, f"{metric}, instead of the base", found["instead"]))
            words.append(_verdict(name, found["beside"], rows[-1]))
        figure = Words(
            "forgetting",
            "What an expert does to another task's score",
            "task whose head answers",
            "expert beside its own",
            "Score of a task with another expert beside its own, less that of its own alone; each in its own unit.",
        )
        values = {(row["expert"], row["other"]): row["beside"] - row["own"] for row in rows}
        experts, tasks = (list(dict.fromkeys(place[at] for place in values)) for at in (0, 1))
        notes = () if len(chosen) == len(pairs) else (f"{len(chosen)} of {len(pairs)} pairs",)
        return Answer(
            tuple(words),
            tuple(numbers),
            tuple(rows),
            (cells(figure, experts, tasks, values),),
            notes=notes,
        )


def _cost(study: Study, one: Subject, other: Subject, read: _Read) -> dict[str, Any]:
    """Differences with their intervals, and what they are of as a row."""
    rows, own, base = read
    task, metric = rows.task, rows.task.metric
    beside = rows.said(study, (other.member, one.member))
    instead = rows.said(study, (one.member,))
    with study.by_chance(one) as name:
        by_chance = rows.said(study, (other.member, name))

    def value(said: list[Prediction]) -> float:
        return score(task, said, rows.examples, resamples=0)[metric].value

    def apart(said: list[Prediction], before: list[Prediction]) -> Score:
        return paired_difference(task, said, before, rows.examples, seed=study.seed)[metric]

    return {
        "beside": apart(beside, own),
        "instead": apart(instead, base),
        "by chance": apart(by_chance, own),
        "row": {
            **owner(one),
            "other": other.name,
            "other task": other.found.task,
            "metric": metric,
            "higher is better": task.higher_is_better,
            "rows": len(rows.examples),
            "own": value(own),
            "beside": value(beside),
            "beside by chance": value(by_chance),
            "base": value(base),
            "instead": value(instead),
        },
    }


def _verdict(name: str, found: Score, row: dict[str, Any]) -> str:
    sign = 1 if row["higher is better"] else -1
    low, high = sorted((sign * found.low, sign * found.high))
    how = "costs it" if high < 0 else "helps it" if low > 0 else "does not change it beyond chance"
    return f"{name}: {row['metric']} {row['own']:.3g} alone, {row['beside']:.3g} beside: {how}."

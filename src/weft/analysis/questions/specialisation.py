"""Whether a mixture's experts share the work by task: information, entropy, load, switching, agreement.

    I(task; expert) = sum_te p(t, e) log(p(t, e) / (p(t) p(e))), over the log of the smaller of tasks and experts

Every task counts alike. Shannon 1948, doi:10.1002/j.1538-7305.1948.tb01338.x.
"""

from collections.abc import Callable, Sequence
from itertools import combinations
from statistics import fmean
from typing import Any, ClassVar

import torch
from torch import Tensor

from weft.analysis.figures import Line, Words, lines
from weft.analysis.intervals import jackknife, mean_over
from weft.analysis.layers import by_layer
from weft.analysis.measures.gates import (
    agreement,
    chosen,
    entropy,
    information,
    load,
    switching,
    variation,
)
from weft.analysis.questions.contract import Answer, Needs, Number, Question
from weft.analysis.reading.gates import Said, alike_over_seeds, said_by_gates
from weft.analysis.study import Study
from weft.analysis.subjects import owner
from weft.tasks.scoring import Score

INFORMATION = "information of the expert on the task (0 to 1)"
ENTROPY = "entropy of a token's shares (0 to 1)"
VARIATION = "variation of the load over experts (0 is even)"
SWITCHING = "neighbours with another strongest expert (0 to 1)"
LAYERS = "agreement of two maps (0 to 1)"
SEEDS = "agreement of the same map of two seeds (0 to 1)"


class Specialisation(Question):
    """Whether they specialise."""

    asks: ClassVar[str] = "Do the experts of the mixture specialise on tasks?"
    reading: ClassVar[str] = (
        "Information 1 says that the expert tells the task (each has its own), 0 that all tasks have the same mixture. "
        "An entropy of 1 is all experts at every token alike, 0 one alone. The agreement of two maps, or of two seeds "
        "on the treebank, is how far the strongest expert at one follows from that at the other, whatever experts are "
        "called. All are means over maps; intervals are over sequences, of agreements over pairs of maps."
    )
    chance: ClassVar[str] = (
        "gates permuted over the tokens of all tasks. Entropy and load do not change by that and have none."
    )
    needs: ClassVar[Needs] = "gates"

    def answer(self, study: Study) -> Answer:
        rows: list[dict[str, Any]] = []
        numbers, words = [], []
        drawn: list[Line] = []
        found = said_by_gates(study)
        for said in found:
            order = torch.randperm(len(said.task), generator=study.generator(said.name))
            own = [_row(study, said, module, order) for module in said.maps]
            rows += own
            measured = _measured(said, order, rows=own)
            numbers += [Number(said.name, *parts) for parts in measured]
            by_what = {what: score for what, score, _ in measured}
            words.append(
                f"{said.name}: the expert tells {100 * by_what[INFORMATION].value:.3g} % of what there is to know of "
                f"the task; a token's shares have {100 * by_what[ENTROPY].value:.3g} % of the largest entropy."
            )
            drawn.append(by_layer(own, INFORMATION, said.name))
            drawn.append(by_layer(own, f"{INFORMATION}, by chance", "chance", chance=True))
        numbers += [
            Number(name, SEEDS, mean_over(alike), mean_over(level).value)
            for name, alike, level in alike_over_seeds(study, found)
        ]
        figure = Words(
            "specialisation",
            "Information of the expert on the task",
            "layer (0 is the first)",
            "share of the most there can be",
            "Mutual information between a token's task and the expert that speaks, by layer; dotted: permuted tokens.",
        )
        return Answer(
            tuple(words), tuple(numbers), tuple(rows), (lines(figure, study.seeds.lines(drawn)),)
        )


def _row(study: Study, said: Said, module: str, order: Tensor) -> dict[str, Any]:
    """What is measured at one map, on the rows of all tasks."""
    found, choice = said.together(module), chosen(said.together(module))
    layer, role = study.place(module)
    return {
        **owner(said.subjects[0]),
        "expert": said.name,
        "task": ", ".join(subject.found.task for subject in said.subjects),
        "map": module,
        "layer": layer,
        "role": role,
        INFORMATION: _told(found, said.task),
        f"{INFORMATION}, by chance": _told(found[order], said.task),
        ENTROPY: _entropy(found),
        VARIATION: variation(load(found)),
        SWITCHING: switching(choice, said.sentence),
        f"{SWITCHING}, by chance": switching(choice[order], said.sentence),
    }


def _told(found: Tensor, task: Tensor) -> float:
    return information(found, task, normalised=True)


def _entropy(found: Tensor) -> float:
    return (entropy(found).mean() / torch.tensor(float(found.shape[1])).log()).item()


def _measured(
    said: Said, order: Tensor, rows: Sequence[dict[str, Any]]
) -> list[tuple[str, Score, float | None]]:
    """Means over maps, with their intervals and what chance gives."""
    all_maps = [said.together(module) for module in said.maps]
    choices = [chosen(found) for found in all_maps]

    def over(measure: Callable[[int, Tensor], float]) -> Score:
        return jackknife(
            lambda kept: fmean(measure(at, kept) for at in range(len(all_maps))), said.sentence
        )

    def chance(what: str) -> float:
        return fmean(row[f"{what}, by chance"] for row in rows)

    pairs = list(combinations(range(len(choices)), 2))
    alike = [agreement(choices[one], choices[other]) for one, other in pairs]
    level = mean_over([agreement(choices[one], choices[other][order]) for one, other in pairs])
    told = over(lambda at, kept: _told(all_maps[at][kept], said.task[kept]))
    switched = over(lambda at, kept: switching(choices[at][kept], said.sentence[kept]))
    return [
        (INFORMATION, told, chance(INFORMATION)),
        (ENTROPY, over(lambda at, kept: _entropy(all_maps[at][kept])), None),
        (VARIATION, over(lambda at, kept: variation(load(all_maps[at][kept]))), None),
        (SWITCHING, switched, chance(SWITCHING)),
        (LAYERS, mean_over(alike), level.value),
    ]

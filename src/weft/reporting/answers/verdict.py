"""Which method to take, in one sentence: told apart row by row, by answers that the runs have left."""

import math
from collections.abc import Mapping, Sequence

from weft.answering.evaluation import read_predictions
from weft.comparison.choice import Candidate, Choice, Gap, choose
from weft.data.reading import load_task
from weft.reporting.groups import Entry, Group
from weft.reporting.numbers import is_fraction, number, unit
from weft.reporting.runs import TaskRun
from weft.scoped import tell
from weft.tasks.contract import Example, Prediction
from weft.tasks.scoring import holm, mean_difference

NOT_PAIRED = (
    "Which to take is not said: the runs' rows, or their answers to the same rows, are not all there to be compared in "
    "pairs."
)


def verdict(group: Group) -> list[str]:
    """A sentence, or none where there is nothing to choose from.

    Mixtures are left out: what one trains comes on top of its experts, beside which its own section puts it.
    """
    entries = [entry for entry in group.scored if entry.family != "mixture"]
    if len(entries) < 2:
        return []
    gaps = _gaps(group, entries)
    if gaps is None:
        return [NOT_PAIRED]
    found = choose([_candidate(entry) for entry in entries], gaps)
    scores = {entry.name: entry.score or 0.0 for entry in entries}
    costs = {entry.name: _candidate(entry) for entry in entries}
    return [] if found is None else [sentence(found, group.metric, scores, costs)]


def sentence(
    found: Choice,
    metric: str,
    scores: Mapping[str, float],
    costs: Mapping[str, Candidate],
) -> str:
    """A choice as a sentence.

    Args:
        found: What `choose` made of it.
        metric: The score.
        scores: Its mean by name.
        costs: Parameters and seconds by name.
    """
    points = "points " if is_fraction(metric) else ""
    low, high = (number(metric, end) for end in (found.gap.low, found.gap.high))
    apart = f"{low} to {high} {points}of {metric}, p {found.gap.p:.2g} corrected"
    take, best = costs[found.take], costs[found.best]
    if found.why == "better":
        return (
            f"Take {found.take}: it is better than every other beyond chance; the closest is {found.beside} "
            f"({apart})."
        )
    also = ", ".join(name for name in (found.best, *found.near) if name != found.take)
    told = f"{also} cannot be told from it by these rows and seeds"
    if found.why == "smallest":
        return (
            f"Take {found.take}: {told}, and none of them is known to be smaller, or as small and much quicker (to "
            f"{found.beside}: {apart})."
        )
    reason = (
        f"it trains {_known(take.parameters)} parameters in place of {_known(best.parameters)}"
        if found.why == "smaller"
        else f"it takes {_known(take.seconds)} s in place of {_known(best.seconds)} for as many parameters"
    )
    less = number(metric, scores[found.take])
    most = number(metric, scores[found.best])
    return (
        f"Take {found.take}: {reason}, and its {unit(metric)} of {less} cannot be told from {found.best}'s {most} by "
        f"these rows and seeds (difference {apart})."
    )


def _known(number_of: float) -> str:
    return f"{number_of:,.0f}" if math.isfinite(number_of) else "an unknown number"


def _candidate(entry: Entry) -> Candidate:
    """What a run that says no costs would cost is more than any other's: nobody takes it for being small."""
    size, seconds = entry.cost("trainable_parameters"), entry.cost("seconds")
    return Candidate(
        entry.name,
        math.inf if size is None else size,
        math.inf if seconds is None else seconds,
    )


def _gaps(group: Group, entries: Sequence[Entry]) -> dict[str, Gap] | None:
    """How much better the best entry is than each of the others; None where that cannot be found out."""
    tell(f"comparing answers on {group.task}")
    run = entries[0].runs[0]
    settings = run.folder.run.task
    if group.split not in ("train", "validation", "test") or settings is None:
        return None
    try:
        loaded = load_task(settings, splits=[group.split], seed=run.seed)
        examples = loaded.splits[group.split]
        said = {entry.name: _answers(entry, examples, group.split) for entry in entries}
    except (ValueError, KeyError, OSError):
        # Data that moved, rows that were in memory, answers to other rows.
        return None
    best = said[entries[0].name]
    sign = 1 if group.higher_is_better else -1
    found = {}
    for entry in entries[1:]:
        own = said[entry.name]
        seeds = sorted(set(best) & set(own))
        pairs = [(best[seed], own[seed]) for seed in seeds] or [
            (next(iter(best.values())), next(iter(own.values())))
        ]
        ours, theirs = ([pair[at] for pair in pairs] for at in (0, 1))
        found[entry.name] = mean_difference(loaded.task, ours, theirs, examples)[group.metric]
    corrected = holm({name: own.p for name, own in found.items()})
    return {
        name: Gap(sign * own.value, *sorted((sign * own.low, sign * own.high)), p=corrected[name])
        for name, own in found.items()
    }


def _answers(entry: Entry, examples: Sequence[Example], split: str) -> dict[int, list[Prediction]]:
    """Each seed's answers, in the order of the rows."""

    def own(run: TaskRun) -> list[Prediction]:
        by_id = read_predictions(run.folder.path, split)
        if set(by_id) != {example["id"] for example in examples}:
            raise ValueError(f"{run.folder.path}: its answers are to other rows")
        return [by_id[example["id"]] for example in examples]

    return {run.seed: own(run) for run in entry.runs if run.score}

"""`weft.merge`: the experts of several runs in, one out, in a run folder like any other."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from weft.config import MergeSettings, validate
from weft.merging.combine import Combined, Learned, combined
from weft.merging.learned import learners
from weft.merging.plan import Plan, planned
from weft.merging.scores import Scored, scored
from weft.merging.search import found_weights
from weft.merging.sources import Source, read
from weft.merging.stage import Stage
from weft.merging.writing import Done
from weft.runs import RunFolder
from weft.scoped import tell


def merge(
    runs: Sequence[str | Path],
    method: str = "cat",
    *,
    weights: Sequence[float] | None = None,
    rank: int | None = None,
    head: str | Path | None = None,
    dense: int | None = None,
    search: bool = False,
    settings: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    data: str | Path | None = None,
    scores: bool = True,
    seed: int = 0,
    device: str = "auto",
) -> RunFolder:
    """Make one expert of several and leave a run folder.

    Args:
        runs: Run folders, each of one task or of several; tasks that share an expert bring it once.
        method: A file of `merges/`.
        weights: One an expert; None is 1 / their number.
        rank: The most that any map of the result may have; None takes the method's own choice.
        head: The run whose head alone answers; None keeps every task's own.
        dense: Rank at which experts that have no exact factors (DoRA) enter; None refuses them.
        search: Find the weights on held-out rows of train; never on those that are scored.
        settings: Of the method, e.g. `{"density": 0.5}`.
        out: The run folder to write; None is `runs/<tasks>-<method>`.
        data: Folder of the task's data, or with a sub-folder for each by name; None takes the runs' own.
        scores: Score every task before and after, where its rows are at hand.
        seed: Of methods that draw, and of what is learned.
        device: Where to compute.

    Raises:
        KeyError: If there is no such method.
        ValueError: If the experts do not belong together, a setting is wrong, `out` exists, or rows are missing that
            weights are to be learned from; nothing has been written then.
    """
    began = time.monotonic()
    plan = planned(
        runs,
        validate(
            MergeSettings,
            {
                **(settings or {}),
                "name": method,
                "weights": None if weights is None else list(weights),
                "rank": rank,
                "head": None if head is None else str(head),
                "dense": dense,
                "seed": seed,
            },
            "merge",
        ),
        search=search,
    )
    folder = RunFolder(_default(plan) if out is None else Path(out))
    folder.refuse_existing()
    double = {own.folder.run.training.precision for f in plan.found for own in f.parts} == {"fp64"}
    base, sources = read(plan.found, torch.float64 if double else torch.float32, dense)
    stage = None
    if scores or plan.searches or plan.learns:
        stage = Stage(base, sources, plan.answered, device=device, data=data)
    result = _result(plan, sources, stage)
    if stage is not None:
        stage.put(result.factors)
    told = scored(stage) if stage is not None and scores else Scored({}, [], [])
    Done(plan, base, sources, result, told, time.monotonic() - began).write(folder)
    return folder


def _result(plan: Plan, sources: Sequence[Source], stage: Stage | None) -> Combined:
    """The merged factors, with weights that are given, searched or learned."""
    learned = Learned(plan.weights)
    if stage is not None and plan.learns:
        learned = learners.load(plan.settings.name)().learn(stage, plan.method, plan.settings)
    elif stage is not None and plan.searches:
        learned = found_weights(stage, plan.method, plan.settings)
    tell("merging")
    return combined(sources, plan.method, learned, plan.settings)


def _default(plan: Plan) -> Path:
    names = "+".join(one.part.label for one in plan.answered)
    return Path("runs") / f"{names}-{plan.settings.name}-merge"

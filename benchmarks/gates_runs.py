"""The runs behind `gates.py`: X-LoRA as published, one difference from it at a time, and the other mixtures.

A run lies in a folder named by its settings' digest: a finished one is never repeated, an interrupted one goes on.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from machine import half
from merge_runs import SEEDS, TASKS, Study, trained
from weft.config import Run
from weft.runs import RunFolder

STEPS = 40
"""Of gates that are trained, where a row does not say more."""
TRAINING = {"precision": half(), "base_dropout": 0.0, "batch_size": 8, "max_steps": STEPS}
RATE = 5e-3
"""What results/mixtures.json found best for X-LoRA."""
FIRST = {"name": "xlora", "layerwise": True, "balance": "none"}
"""X-LoRA as it is published."""
ALL = {"balance": "start", "standardise": True, "reads": "sequence", "label_weight": 1.0}


def _xlora(training: Mapping[str, Any] | None = None, **settings: Any) -> dict[str, Any]:
    training = {"learning_rate": RATE, **(training or {})}
    return {"mixture": {**FIRST, **settings}, "training": training}


HYPOTHESES = {
    "as published": _xlora(),
    "likeliest expert answers": _xlora(),
    "balance: start": _xlora(balance="start"),
    "all of these": _xlora(**ALL),
    "all of these, likeliest": _xlora(**ALL),
    "input standardised": _xlora(standardise=True),
    "label loss": _xlora(label_weight=1.0),
    "balance: start, standardised": _xlora(balance="start", standardise=True),
    "balance: expert": _xlora(balance="expert"),
    "balance: uncertainty": _xlora(balance="uncertainty"),
    "one gate a sequence": _xlora(reads="sequence"),
    "rate x 5": _xlora({"learning_rate": 5 * RATE}),
    "steps x 3": _xlora({"max_steps": 3 * STEPS}),
    "start at uniform": _xlora(head_start="uniform"),
    "temperature 0.3": _xlora(temperature=0.3),
    "two maps": _xlora(depth=2, width=128),
    "experts at 1, not 1/n": _xlora(global_weight=float(len(TASKS))),
}
"""Each differs from the first in what it is called."""
ANSWERING = {name: {"infer_top_k": 1} for name in HYPOTHESES if "likeliest" in name}
"""Rows that answer otherwise with the gates of a run that is trained once."""


def _of(name: str, rate: float | None = None, **settings: Any) -> dict[str, dict[str, Any]]:
    """A mixture as published and with its tasks' losses on one scale; once, where nothing learns."""
    own = {"name": name, **settings}
    title = " ".join([name, *(str(value) for value in settings.values() if value is not True)])
    if rate is None:
        return {title: {"mixture": own, "training": {}}}
    training = {"learning_rate": rate}
    return {
        f"{title}, balance: {balance}": {
            "mixture": own | {"balance": balance},
            "training": training,
        }
        for balance in ("none", "start")
    }


MIXTURES = {
    **_of("uniform"),
    **_of("switch"),
    **_of("arrow"),
    **_of("xlora", RATE, layerwise=True),
    **_of("single_pass", RATE, reader="embedding"),
    **_of("single_pass", RATE, reader="layer", layer=2),
    **_of("single_pass", RATE, reader="local"),
    **_of("meteora", RATE),
    **_of("lora_mixer", RATE, top_k=2),
    **_of("early_pass", 1e-3),
}


def named(listed: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What the result file says of some runs."""
    return {
        name: {**values, **({"answering": ANSWERING[name]} if name in ANSWERING else {})}
        for name, values in listed.items()
    }


@dataclass(frozen=True)
class Gating:
    """Where own experts and mixtures are."""

    study: Study
    runs: Path

    def run(self, values: Mapping[str, Any], seed: int) -> RunFolder:
        """The mixture of one seed's own experts with some settings, trained where it is not there."""
        own = [self.study.own(task, seed) for task in TASKS]
        mixture = {**values["mixture"], "baselines": False, "runs": [str(run.path) for run in own]}
        training = TRAINING | dict(values["training"])
        fixed = {"base": "minilm", "device": "cpu", "seed": seed, "training": training}
        tasks = [run.run.task for run in own]
        run = Run.model_validate(
            {**fixed, "tasks": [task.model_dump() for task in tasks if task], "mixture": mixture}
        )
        return trained(self.runs / f"{mixture['name']}-seed{seed}", run)


def command_line(file: Path, parts: Sequence[str]) -> tuple[argparse.Namespace, Gating]:
    """What a benchmark of gates is asked for: where data, experts and mixtures are, the result, seeds and parts.

    Args:
        file: Where the result goes.
        parts: What can be asked for alone.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", default="../shared/data")
    parser.add_argument("--own", default="runs/merges", help="Where own experts are, or go.")
    parser.add_argument("--runs", default="runs/gates", help="Where mixtures are, or go.")
    parser.add_argument("--out", type=Path, default=file)
    parser.add_argument("--seeds", nargs="*", type=int, default=list(SEEDS))
    parser.add_argument("--only", nargs="*", choices=parts, default=list(parts))
    given = parser.parse_args()
    study = Study(Path(given.data).resolve(), Path(given.own).resolve())
    return given, Gating(study, Path(given.runs).resolve())

"""The runs behind `mixture_scores.py`: own experts, every mixture and what is trained instead of one.

A run lies in a folder named by its settings' digest: a finished one is never repeated, an interrupted one goes on, and
other settings never meet what is there.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from accuracy import told
from machine import half
from weft.comparison.jobs import Job, run_job, score_of
from weft.config import MixtureSettings, Run
from weft.data.reading import find_kind, find_spec
from weft.methods.gates.settings import TrainedSpec
from weft.methods.mixtures import mixtures
from weft.model.mixing import method_of, starts_from_experts
from weft.runs import RunFolder

EPOCHS = {"wnut17": 6, "squad": 5, "swag": 4}
"""Of a task's own expert, and of full fine-tuning."""
OWN_RATES = {"wnut17": 1.5e-3, "squad": 2.7e-3, "swag": 1.5e-3}
"""Of own experts: what results/variants-*.json found best, or less, where a seed in three did not survive that."""
FULL_RATES = {"wnut17": 2e-4, "squad": 2e-4, "swag": 5e-5}
LORA = {"name": "lora", "rank": 8, "alpha": 16, "targets": ["query", "value"]}
TRAINING = {"precision": half(), "base_dropout": 0.0}
GATE = {"rates": (1e-3, 5e-3, 2.5e-2), "epochs": 2}
"""The gate alone learns; frozen experts, and their heads."""
WARM = {"rates": (1e-4, 5e-4, 2.5e-3), "epochs": 2}
"""Gate and heads learn, and experts from where their runs left them."""
NEW = {"rates": (7e-4, 1.5e-3, 3e-3), "epochs": 5}
"""Everything is learned from nothing, in as many epochs as the own experts took."""
FIXED = {"rates": (), "epochs": 1}


def _of(kind: Mapping[str, Any], name: str, **settings: Any) -> dict[str, Any]:
    return {**kind, "mixture": {"name": name, "baselines": False, **settings}}


# New ones have ranks at which they hold about as many numbers as three own experts, 221,184; HydraLoRA's B from experts
# is E times theirs. CoMoL's dropout would hold a core for every token.
METHODS: dict[str, dict[str, Any]] = {
    "separate": {**NEW, "rates": (1.5e-3,), "experts": "separate", "recipe": LORA},
    "shared": {**NEW, "experts": "shared", "recipe": LORA | {"rank": 24, "alpha": 48}},
    "both": {**NEW, "experts": "both", "recipe": LORA | {"rank": 6, "alpha": 12}},
    "uniform": _of(FIXED, "uniform", baselines=True),
    "switch": _of(FIXED, "switch"),
    "arrow": _of(FIXED, "arrow"),
    "xlora": _of(GATE, "xlora", layerwise=True),
    "single_pass-embedding": _of(GATE, "single_pass", reader="embedding"),
    "single_pass-layer": _of(GATE, "single_pass", reader="layer", layer=2),
    "single_pass-local": _of(GATE, "single_pass", reader="local"),
    "meteora": _of(GATE, "meteora"),
    "lora_mixer": _of(GATE, "lora_mixer", top_k=2),
    "smora": _of(WARM, "smora", start="experts", top_k=8),
    "comol": _of(WARM, "comol", start="experts", dropout=0.0),
    "hydralora": _of(WARM, "hydralora", start="experts"),
    "loramoe": _of(WARM, "loramoe", start="experts"),
    "mola": _of(WARM, "mola", start="experts"),
    "adamole": _of(WARM, "adamole", start="experts"),
    "mixlora": _of(NEW, "mixlora", num_experts=3, rank=3, alpha=6),
}


def _unnamed() -> dict[str, dict[str, Any]]:
    """Mixtures that nobody has written settings for above: their own defaults, over the own experts where they can."""
    named = {method["mixture"]["name"] for method in METHODS.values() if "mixture" in method}
    found = {}
    for name in sorted({*mixtures.names()} - named):
        new = issubclass(mixtures.load(name).settings_type, TrainedSpec)
        found[name] = _of(WARM, name, start="experts") if new else _of(GATE, name)
    return found


METHODS |= _unnamed()
MAIN = ("xlora", "single_pass-embedding", "early_pass")
"""Trained with every seed; so is the best other of the search that mixes the same experts."""
SEEDS = (0, 1, 2)


def mixes_experts(name: str) -> bool:
    """Whether a method is a mixture of the own experts."""
    own = METHODS[name].get("mixture")
    return own is not None and starts_from_experts(method_of(MixtureSettings(**own))[1])


@dataclass(frozen=True)
class Study:
    """Where the runs are, and how many rows they see."""

    data: Path
    runs: Path
    rows: int
    """Training rows of a task, at most."""

    def task(self, name: str) -> dict[str, Any]:
        limit = {"train": self.rows}
        return {"name": name, "data": str(self.data / name), "max_examples": limit}

    def job(self, name: str, values: dict[str, Any], seed: int, held: bool, **training: Any) -> Job:
        """A run in a folder of its settings' own, so that other settings never meet what is there."""
        own = TRAINING | training | {"evaluate_on": "holdout" if held else "validation"}
        fixed = {"base": "minilm", "device": "cpu", "seed": seed, "training": own}
        run = Run.model_validate(fixed | values)
        digest = hashlib.sha256(run.model_dump_json(exclude_defaults=True).encode()).hexdigest()[:8]
        what = f"{'search' if held else 'final'}-{training['learning_rate']}-seed{seed}-{digest}"
        return Job(self.runs / name / what, run)

    def own(self, task: str, seed: int, held: bool = False) -> Job:
        values = {"task": self.task(task), "recipe": LORA}
        times = {"learning_rate": OWN_RATES[task], "epochs": EPOCHS[task]}
        return self.job(f"own/{task}", values, seed, held, **times)

    def full(self, task: str) -> Job:
        values = {"task": self.task(task), "recipe": {"name": "full"}}
        times = {"learning_rate": FULL_RATES[task], "epochs": EPOCHS[task]}
        return self.job(f"full/{task}", values, 0, False, **times)

    def method(self, name: str, rate: float | None, seed: int, held: bool = False) -> Job:
        method = METHODS[name]
        values = {key: method[key] for key in ("experts", "recipe") if key in method}
        values["tasks"] = [self.task(task) for task in EPOCHS]
        if "mixture" in method:
            values["mixture"] = dict(method["mixture"])
            if mixes_experts(name):
                own = all_finished([self.own(task, seed, held) for task in EPOCHS])
                values["mixture"]["runs"] = [str(run.path) for run in own]
        epochs = method["epochs"] * (0.5 if held else 1)
        return self.job(name, values, seed, held, learning_rate=rate, epochs=epochs)

    def searched(self, name: str) -> dict[float, float]:
        """Mean share of the own experts' scores on the held-out rows, by rate; {} where there is nothing to choose."""
        rates = METHODS[name]["rates"]
        if len(rates) < 2:
            return {}
        own = {task: all_finished([self.own(task, 0, held=True)])[0] for task in EPOCHS}
        runs = all_finished([self.method(name, rate, 0, held=True) for rate in rates])
        shares = [
            mean(
                ratio(value_of(run.path / task, task), value_of(own[task].path, task))
                for task in own
            )
            for run in runs
        ]
        return dict(zip(rates, shares, strict=True))

    def finals(self, name: str, seeds: Sequence[int]) -> list[RunFolder]:
        """A method's runs at its best rate, seed by seed."""
        searched = self.searched(name)
        only = next(iter(METHODS[name]["rates"]), None)
        rate = max(searched, key=searched.__getitem__) if searched else only
        return all_finished([self.method(name, rate, seed) for seed in seeds])


def all_finished(jobs: Sequence[Job]) -> list[RunFolder]:
    """The folders of some runs, each begun, resumed or left as it is."""
    for number, job in enumerate(jobs):
        if not job.is_complete:
            run_job(job, told(job, number, len(jobs)))
    return [RunFolder.open(job.folder) for job in jobs]


def value_of(folder: Path, task: str) -> float:
    """The score of a run on one task."""
    return score_of(folder, find_kind(find_spec(task)).metric)["value"]


def ratio(value: float, of: float) -> float:
    """0 where there is nothing to have a share of."""
    return value / of if of else 0.0

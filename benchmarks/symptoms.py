"""Two figures of variants-*.json that were symptoms and no results, as they were and as they are: three seeds each.

    python benchmarks/symptoms.py --data ../shared/data [--only nola-was nola-now] [--seeds 0]

NOLA on WNUT17 had 14.3 ± 24.7: two seeds of three at nothing. LoRA on SQuAD had 25.9 after 188 steps, where SLoRA had
50.4. `was` is what was measured then (targets, rate); `now` what a config gives that says neither. What lies between
was tried with one seed (`TRIED`), to find what keeps them from moving: `change_over_weight` says how far they moved.
SQuAD has smaller batches than then and fewer validation rows, of as many steps. A finished run is never repeated:
interrupt it as you like. The result is results/symptoms.json, written after every row.
"""

import argparse
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import torch

from accuracy import told
from machine import half, machine
from weft.atomic import write_text
from weft.base.loading import load_base
from weft.comparison.jobs import Job, run_job, score_of
from weft.config import Run
from weft.data.reading import find_kind, find_spec
from weft.lowrank.attach import frozen_linear
from weft.storage.experts import load_expert
from weft.training.settings import completed

QV = ["query", "value"]
SETS: dict[str, Any] = {
    "wnut17": {"rows": {"train": 2000}, "training": {"epochs": 3}},
    "squad": {
        "rows": {"train": 1504, "validation": 300},
        "training": {"epochs": 1, "batch_size": 8},
    },
}
SHOWN: dict[str, dict[str, Any]] = {
    "nola-was": {"set": "wnut17", "recipe": {"name": "nola", "targets": QV}, "rate": 0.027},
    "nola-now": {"set": "wnut17", "recipe": {"name": "nola"}},
    "lora-squad-was": {"set": "squad", "recipe": {"name": "lora", "targets": QV}, "rate": 0.0081},
    "lora-squad-now": {"set": "squad", "recipe": {"name": "lora"}},
}
"""With every seed."""
TRIED: dict[str, dict[str, Any]] = {
    "nola-9e-3": {"set": "wnut17", "recipe": {"name": "nola"}, "rate": 0.009},
    "nola-was-warm": {**SHOWN["nola-was"], "training": {"warmup": 0.3}},
    "lora-squad-qv": {"set": "squad", "recipe": {"name": "lora", "targets": QV}},
    "lora-squad-qv-4.5e-3": {**SHOWN["lora-squad-was"], "rate": 0.0045},
    "slora-squad-was": {"set": "squad", "recipe": {"name": "slora", "targets": QV}, "rate": 0.0081},
}
"""With the first seed alone."""
SEEDS = (0, 1, 2)
FILE = Path("results") / "symptoms.json"


def run_of(what: str, data: Path, seed: int) -> Run:
    """One run, complete but for what a config need not say."""
    own = {**SHOWN, **TRIED}[what]
    task = {"name": own["set"], "data": str(data / own["set"])}
    training = {"precision": half(), "base_dropout": 0.0, **SETS[own["set"]]["training"]}
    rate = {"learning_rate": own["rate"]} if "rate" in own else {}
    return Run.model_validate(
        {
            "base": "minilm",
            "device": "cpu",
            "task": {**task, "max_examples": SETS[own["set"]]["rows"]},
            "recipe": own["recipe"],
            "training": {**training, **rate, **own.get("training", {})},
            "seed": seed,
        }
    )


def moved(job: Job) -> list[float]:
    """How large each map's change is beside the frozen weight: the ratio of their largest singular values."""
    base = load_base("minilm")
    expert, _ = load_expert(job.folder / "expert", base)
    found = []
    for module, adapter in expert.adapters.items():
        weight = frozen_linear(base.trunk, module).weight
        change = torch.linalg.matrix_norm(adapter.delta(weight).detach(), 2)
        found.append((change / torch.linalg.matrix_norm(weight, 2)).item())
    return found


def measured(what: str, data: Path, runs: Path, seeds: Sequence[int]) -> dict[str, Any]:
    """What one way of training scores by seed; what is missing is run."""
    scores: dict[int, Any] = {}
    changes: list[float] = []
    for seed in seeds:
        run = completed(run_of(what, data, seed)).run
        digest = hashlib.sha256(run.model_dump_json().encode()).hexdigest()[:8]
        job = Job(runs / what / f"seed{seed}-{digest}", run)
        if not job.is_complete:
            run_job(job, told(job, seed, len(seeds)))
        assert run.task is not None
        metric = find_kind(find_spec(run.task)).metric
        scores[seed] = score_of(job.folder, metric)
        changes += moved(job)
    values = [score["value"] for score in scores.values()]
    own = {**SHOWN, **TRIED}[what]["set"]
    found = {
        "what": what,
        "recipe": run.recipe.model_dump(mode="json", exclude_none=True),
        "learning_rate": run.training.learning_rate,
        "set": {"name": own, **SETS[own]},
        "metric": metric,
        "seeds": list(scores),
        "scores": list(scores.values()),
        "mean": mean(values),
        "deviation": stdev(values) if len(values) > 1 else None,
        "change_over_weight": {"median": median(changes), "largest": max(changes)},
    }
    print(what, [round(value, 4) for value in values], flush=True)
    return found


def main() -> None:
    """Run what is missing and write the result file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", default="../shared/data")
    parser.add_argument("--only", nargs="*", choices=[*SHOWN, *TRIED], help="Write nothing.")
    parser.add_argument("--seeds", nargs="*", type=int, default=list(SEEDS))
    parser.add_argument("--runs", default="runs/symptoms")
    arguments = parser.parse_args()
    data, runs = Path(arguments.data).resolve(), Path(arguments.runs)
    rows: list[dict[str, Any]] = []
    for what in arguments.only or [*SHOWN, *TRIED]:
        seeds = arguments.seeds if what in SHOWN else arguments.seeds[:1]
        rows.append(measured(what, data, runs, seeds))
        if not arguments.only:
            result = {"script": "benchmarks/symptoms.py", "rows": rows, "machine": machine("cpu")}
            write_text(FILE, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

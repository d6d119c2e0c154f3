"""Why learned gates lose what their experts know: one hypothesis a row, X-LoRA first, then every mixture of experts.

    python benchmarks/gates.py --data ../shared/data [--seeds 0 1 2] [--only hypotheses mixtures]

The three experts of `merge_scores.py` (WNUT17, SQuAD, CODAH; made here where they are missing) stay as they are; only
gates learn. A row of the first part differs in one setting from X-LoRA as published: what a task's loss counts, steps,
rate, what the head reads and how it starts, temperature, depth, whether gates are told the task, whether the likeliest
expert alone answers. By task: the share of the own expert's score that is left, the mean gate on the row's own expert
and how often it is the largest, over tokens and maps. The second part is every mixture that leaves its experts as they
were, as published and on one scale. Validation chooses nothing but what is said here. Small sets and few steps:
minutes a run. A finished run is never repeated: interrupt it as you like. The result is results/gates.json.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import yaml

from gates_runs import (
    ANSWERING,
    FIRST,
    HYPOTHESES,
    MIXTURES,
    STEPS,
    TRAINING,
    Gating,
    command_line,
    named,
)
from gates_said import said_by
from machine import machine
from merge_runs import EPOCHS, LORA, RATES, ROWS, SCORED, TASKS, Study
from weft.answering.evaluation import evaluate
from weft.atomic import write_text
from weft.comparison.comparing import examples_of, predictions_of
from weft.runs import RunFolder
from weft.storage.mixture import DESCRIPTION
from weft.tasks.scoring import mean_difference, mean_score

FILE = Path("results") / "gates.json"
PARTS = ("hypotheses", "mixtures")


def answering(run: RunFolder, settings: Mapping[str, Any]) -> RunFolder:
    """The same gates with another selection in inference, and its scores."""
    folder = run.path.with_name(f"{run.path.name}-{'-'.join(settings)}")
    if not folder.is_dir():
        draft = folder.with_name(f".{folder.name}")
        shutil.rmtree(draft, ignore_errors=True)
        shutil.copytree(run.path, draft)
        path = draft / "mixture" / DESCRIPTION
        said = yaml.safe_load(path.read_text(encoding="utf-8"))
        said["mixture"] |= settings
        path.write_text(yaml.safe_dump(said, sort_keys=False), encoding="utf-8")
        evaluate(draft, device="cpu")
        draft.rename(folder)
    return RunFolder.open(folder)


def row_of(name: str, runs: Sequence[RunFolder], study: Study) -> dict[str, Any]:
    """One row: what is left of every own expert, and what the gates said, seeds together."""
    seeds = [run.run.seed for run in runs]
    gates = [said_by(run) for run in runs]
    tasks = {}
    for task in TASKS:
        own = [study.own(task, seed) for seed in seeds]
        tasks[task] = _on_task(task, runs, own) | {
            what: {"mean": mean(values), "by_seed": values}
            for what in ("own_gate", "arg_max")
            for values in [[said[task][what] for said in gates]]
        }
    mixture = runs[0].run.mixture
    assert mixture is not None
    return {
        "name": name,
        "mixture": mixture.name,
        "seeds": seeds,
        "kept": mean(found["kept"] for found in tasks.values()),
        "least_kept": min(found["kept"] for found in tasks.values()),
        "tasks": tasks,
    }


def _on_task(task: str, runs: Sequence[RunFolder], own: Sequence[RunFolder]) -> dict[str, Any]:
    loaded = examples_of(own[0])
    rows = loaded.splits["validation"]
    ids = [row["id"] for row in rows]
    said = [predictions_of(run.path / task, ids) for run in runs]
    theirs = [predictions_of(run.path, ids) for run in own]
    metric = loaded.task.metric
    score, reference = (mean_score(loaded.task, each, rows)[metric] for each in (said, theirs))
    by_seed = [
        mean_score(loaded.task, [ours], rows, resamples=0)[metric].value
        / mean_score(loaded.task, [other], rows, resamples=0)[metric].value
        for ours, other in zip(said, theirs, strict=True)
    ]
    return {
        "metric": metric,
        "n": len(rows),
        "score": asdict(score),
        "own": asdict(reference),
        "kept": score.value / reference.value,
        "kept_by_seed": by_seed,
        "kept_spread": stdev(by_seed) if len(by_seed) > 1 else None,
        "difference": asdict(mean_difference(loaded.task, said, theirs, rows)[metric]),
    }


def rows_of(
    listed: Mapping[str, Mapping[str, Any]], gating: Gating, seeds: Sequence[int]
) -> Iterator[dict[str, Any]]:
    """The rows of one part; each is printed as soon as it is there."""
    for name, values in listed.items():
        runs = [gating.run(values, seed) for seed in seeds]
        if name in ANSWERING:
            runs = [answering(run, ANSWERING[name]) for run in runs]
        row = row_of(name, runs, gating.study)
        kept = " ".join(f"{task} {row['tasks'][task]['kept']:.3f}" for task in TASKS)
        gates = " ".join(f"{row['tasks'][task]['own_gate']['mean']:.2f}" for task in TASKS)
        largest = " ".join(f"{row['tasks'][task]['arg_max']['mean']:.2f}" for task in TASKS)
        print(f"{name}: kept {kept}; own gate {gates}; largest {largest}", flush=True)
        yield row


def main() -> None:
    """Run what is missing and write the result file."""
    given, gating = command_line(FILE, PARTS)
    listed = {"hypotheses": HYPOTHESES, "mixtures": MIXTURES}
    path = given.out
    result = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    result |= {
        "script": "benchmarks/gates.py",
        "settings": {
            "seeds": given.seeds,
            "own": LORA | {"rates": RATES, "epochs": EPOCHS, "rows": ROWS, "scored": SCORED},
            "training": TRAINING,
            "steps": STEPS,
            "first": FIRST,
            "hypotheses": named(HYPOTHESES),
            "mixtures": named(MIXTURES),
        },
    }
    result["machine"] = machine("cpu")
    # Seed after seed, so that every row is there soon, with what it says so far.
    for count in range(1, len(given.seeds) + 1):
        for part in given.only:
            for row in rows_of(listed[part], gating, given.seeds[:count]):
                kept = {own["name"]: own for own in result.get(part, [])} | {row["name"]: row}
                result[part] = [kept[name] for name in listed[part] if name in kept]
                write_text(path, json.dumps(result, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main()

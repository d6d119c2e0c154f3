"""Every mixture on WNUT17, SQuAD and CODAH: how much of each own expert's score is left, and is the task recognised?

    python benchmarks/mixture_scores.py --only own full
    python benchmarks/mixture_scores.py --only xlora meteora        (in as many processes as there are cores)
    python benchmarks/mixture_scores.py --full

Every method sees the same rows, 1,000 of a task, with a seed's own experts (LoRA, rank 8, query + value). Three rates
a method are searched on a held-out tenth of train in half the epochs, over experts that have not seen that tenth
either, by the mean share of their scores; validation is met by the final runs alone. One seed for all; three for
X-LoRA, its single pass reading the embeddings, early-pass gates and, of the others that mix the same experts, the
best of the search. Only a gate that is learned and not told the task can reach the goals. Interrupt it as you like:
the same call goes on. The result is results/mixtures.json.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean, median
from typing import Any

from machine import machine
from mixture_recognition import by_mixture, by_words, texts_of
from mixture_runs import (
    EPOCHS,
    FULL_RATES,
    LORA,
    MAIN,
    METHODS,
    OWN_RATES,
    SEEDS,
    TRAINING,
    Study,
    all_finished,
    mixes_experts,
    ratio,
    value_of,
)
from weft.answering.recognition import RECOGNITION
from weft.comparison.comparing import examples_of, predictions_of
from weft.lowrank.peft.tensors import read_tensors
from weft.model.recogniser import Recogniser
from weft.reproduction.cells import mixture_count
from weft.reproduction.published import Address, published
from weft.runs import STANDINGS, RunFolder
from weft.tasks.scoring import mean_difference, mean_score, share
from weft.training.standings import SUM

KEPT, GATE_SHARE, RECOGNISED = 0.98, 0.01, 0.99
"""The goals: share of every own expert's score, gate's share of the base, share of rows whose task is recognised."""


def measured(parts: Sequence[RunFolder], own: Sequence[RunFolder]) -> dict[str, Any]:
    """One method on one task, seeds together, beside the own experts of the same seeds."""
    loaded = examples_of(parts[0])
    task, rows = loaded.task, loaded.splits["validation"]
    ids = [row["id"] for row in rows]
    said, theirs = ([predictions_of(run.path, ids) for run in runs] for runs in (parts, own))
    score = mean_score(task, said, rows)[task.metric]
    reference = mean_score(task, theirs, rows)[task.metric].value
    hits = [row["value"] for run in parts for row in run.metrics if row["name"] == RECOGNITION]
    costs = [run.training or {} for run in parts]
    n = len(rows)
    return {
        "metric": task.metric,
        "n": n,
        "score": asdict(score),
        "by_seed": [value_of(run.path, task.spec.name) for run in parts],
        "share_of_own": ratio(score.value, reference),
        "difference_to_own": asdict(mean_difference(task, said, theirs, rows)[task.metric]),
        "recognition": asdict(share(round(mean(hits) * n), n)) if hits else None,
        "trained_parameters": costs[0]["trainable_parameters"],
        "seconds": mean(cost["seconds"] for cost in costs),
    }


def gate_costs(runs: Sequence[RunFolder]) -> dict[str, Any]:
    """What the gate of a mixture holds, the recogniser counted, and what a forward takes."""
    costs = [json.loads((run.path / STANDINGS).read_text("utf-8"))["cost"] for run in runs]
    tensors = read_tensors(runs[0].path / "mixture" / "gate.safetensors")
    count = costs[0]["gate_parameters"] + Recogniser.of(list(EPOCHS), tensors).parameters
    training = RunFolder.open(runs[0].path / next(iter(EPOCHS))).training or {}
    return {
        "gate_parameters": count,
        "gate_share_of_base": count / training["base_parameters"],
        "forward_over_base": median(cost["forward_over_base"] for cost in costs),
    }


def row_of(name: str, study: Study, seeds: Sequence[int]) -> dict[str, Any]:
    """One method in the table."""
    method, searched, runs = METHODS[name], study.searched(name), study.finals(name, seeds)
    own = {task: all_finished([study.own(task, seed) for seed in seeds]) for task in EPOCHS}
    rate = runs[0].run.training.learning_rate if method["rates"] else None
    row = {
        "method": name,
        "learning_rate": rate,
        "searched": {f"{tried:g}": value for tried, value in searched.items()},
        "on_edge": bool(searched) and rate in (min(searched), max(searched)),
        "seeds": list(seeds),
        "tasks": {
            task: measured([RunFolder.open(run.path / task) for run in runs], own[task])
            for task in EPOCHS
        },
    }
    return row | (gate_costs(runs) if "mixture" in method else {})


def alone(name: str, runs: Mapping[str, Sequence[RunFolder]], study: Study) -> dict[str, Any]:
    """A row of models that were trained for each task apart."""
    seeds = [run.run.seed for run in next(iter(runs.values()))]
    own = {task: all_finished([study.own(task, seed) for seed in seeds]) for task in runs}
    found = {task: measured(parts, own[task]) for task, parts in runs.items()}
    return {"method": name, "seeds": seeds, "tasks": found}


def summed(run: RunFolder, own: Mapping[str, Any]) -> dict[str, Any]:
    """The row of the experts' sum, which the run of the uniform gates scored beside itself."""
    rows = json.loads((run.path / STANDINGS).read_text(encoding="utf-8"))["rows"]
    tasks = {
        row["task"]: {
            **{key: row[key] for key in ("metric", "n", "score")},
            "share_of_own": ratio(row["score"]["value"], own[row["task"]]["by_seed"][0]),
        }
        for row in rows
        if row["what"] == SUM
    }
    return {"method": SUM, "seeds": [run.run.seed], "tasks": tasks}


def goals(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What was to be reached, by whom it was, and the numbers."""
    gates, seen = {}, {}
    for row in rows:
        if "mixture" not in METHODS.get(row["method"], {}):
            continue
        tasks = row["tasks"].values()
        n = sum(own["n"] for own in tasks)
        seen[row["method"]] = sum(own["recognition"]["value"] * own["n"] for own in tasks) / n
        if METHODS[row["method"]]["rates"]:
            kept = {task: own["share_of_own"] for task, own in row["tasks"].items()}
            gates[row["method"]] = {"gate_share_of_base": row["gate_share_of_base"], "kept": kept}
    small = [name for name, own in gates.items() if own["gate_share_of_base"] < GATE_SHARE]
    by = [name for name in small if min(gates[name]["kept"].values()) >= KEPT]
    knows = [name for name, value in seen.items() if value >= RECOGNISED]
    first = f"a learned gate, not told the task, under {GATE_SHARE:.0%} of the base's parameters, "
    first += f"keeps {KEPT:.0%} of each own expert's score"
    second = f"the task of {RECOGNISED:.0%} of the validation rows is recognised"
    return [
        {"goal": first, "reached": bool(by), "by": by, "numbers": gates},
        {"goal": second, "reached": bool(knows), "by": knows, "numbers": seen},
    ]


def published_counts() -> dict[str, Any]:
    """A published table's parameters of X-LoRA, reconstructed from the architectures alone."""
    study, found = published(), {}
    for base, settings in study.reconstruction.settings.items():
        own = mixture_count(base)
        said = {
            name: float(study.figure(Address(6, base, "xlora", None, metric)).value)
            for name, metric in (("all", "parameters"), ("trained", "trainable_parameters"))
        }
        printed = dict(zip(said, own.printed, strict=True))
        found[base] = {
            "settings": settings,
            "published_millions": said,
            "head_counted_twice": printed,
            "agrees": all(printed[name] // 10**6 == said[name] for name in said),
            "once": {"all": own.of, "trained": own.trained, "head": own.head},
        }
    return {"bases": found, "explanation": study.reconstruction.says}


def main() -> None:
    """Run what is missing and write the result file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", default="../shared/data")
    parser.add_argument("--runs", default="runs/mixtures")
    parser.add_argument("--out", default="results/mixtures.json")
    parser.add_argument("--rows", type=int, default=1000, help="Most training rows of a task.")
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=list(METHODS))
    parser.add_argument("--full", action="store_true", help="Full fine-tuning beside them.")
    choices = ["own", "full", *METHODS]
    parser.add_argument("--only", nargs="*", choices=choices, help="Run these now, write nothing.")
    given = parser.parse_args()
    study = Study(Path(given.data).resolve(), Path(given.runs).resolve(), given.rows)
    names = given.methods if given.only is None else [n for n in given.only if n in METHODS]
    if given.only is None or "own" in given.only:
        all_finished([study.own(task, seed) for seed in SEEDS for task in EPOCHS])
        all_finished([study.own(task, 0, held=True) for task in EPOCHS])
    if given.full or "full" in (given.only or ()):
        all_finished([study.full(task) for task in EPOCHS])
    for name in names:
        study.finals(name, SEEDS if name in MAIN else SEEDS[:1])
    if given.only is not None:
        return
    others = [n for n in names if METHODS[n]["rates"] and n not in MAIN and mixes_experts(n)]
    best = sorted(others, key=lambda name: -max(study.searched(name).values()))[:1]
    own = {task: all_finished([study.own(task, seed) for seed in SEEDS]) for task in EPOCHS}
    rows = [alone("own expert", own, study)]
    if given.full:
        full = {task: all_finished([study.full(task)]) for task in EPOCHS}
        rows.append(alone("full", full, study))
    rows += [row_of(n, study, SEEDS if n in MAIN or n in best else SEEDS[:1]) for n in names]
    if "uniform" in names:
        rows.append(summed(study.finals("uniform", SEEDS[:1])[0], rows[0]["tasks"]))
    texts = texts_of({task: runs[0] for task, runs in own.items()})
    recognition = {
        "bag of words, counted": by_words(texts, unit=False),
        "bag of words, unit length": by_words(texts, unit=True),
    }
    # It reads the bare base, so every mixture of a seed has the same.
    mixed = next((name for name in names if "mixture" in METHODS[name]), None)
    if mixed is not None:
        recognition["recogniser"] = by_mixture(study.finals(mixed, SEEDS[:1])[0], texts)
    for row in rows:
        shares = {task: round(found["share_of_own"], 3) for task, found in row["tasks"].items()}
        print(row["method"], shares, flush=True)
    result = {
        "script": "benchmarks/mixture_scores.py",
        "settings": {
            "rows": given.rows,
            "epochs": EPOCHS,
            "own": LORA | {"learning_rates": OWN_RATES},
            "full": FULL_RATES,
            "training": TRAINING,
            "methods": {name: METHODS[name] for name in names},
        },
        "rows": rows,
        "goals": goals(rows),
        "recognition": recognition,
        "published_counts": published_counts(),
        "machine": machine("cpu"),
    }
    path = Path(given.out)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(path)


if __name__ == "__main__":
    main()

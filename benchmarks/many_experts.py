"""From 2 to 25 experts on one base: which is recognised, what mixtures keep, and what an answer costs.

    python benchmarks/many_experts.py --data ../shared/data [--seeds 0] [--counts 2 5 10 25]

Twenty-five small tasks of three kinds (`many_tasks.py`), an expert each (LoRA rank 8 on query and value). Of the first
2, 5, 10 and 25 of them, mixtures of frozen experts: a switch by what a text looks like, the mean, arrow, X-LoRA on one
scale and told of tasks, single pass and early pass; gates learn so many rows of each task, however many there are.

By mixture and count: the mean share of the own experts' scores that is left and the worst one, by kind too; how many
rows are recognised, of all tasks and, because the six tasks of entity types read one text in different ways, of the
kind; steps' seconds; and the processor time of an answer beside that of the own expert, both answering the same rows in
turns, one thread. Experts whose own score is 0 have nothing to keep and are counted apart.

A finished run is never repeated: interrupt it as you like. The result is results/many.json.
"""

import argparse
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from gates_runs import ALL, RATE
from machine import half, machine
from many_tasks import kind_of, order, written
from merge_runs import LORA, trained
from weft.answering.evaluation import rows_of
from weft.answering.inference import outputs_of
from weft.atomic import write_text
from weft.config import Run
from weft.runs import RunFolder
from weft.storage.loading import LoadedRun, load_mixture_model, load_run_model
from weft.tasks.contract import Record

FILE = Path("results") / "many.json"
COUNTS = (2, 5, 10, 25)
STEPS, ROWS = 40, 2
"""Of gates, and rows of every task in each of them: as many steps as `gates.py` takes, a quarter of its rows."""
TRAINING: dict[str, dict[str, Any]] = {
    "wnut17": {"learning_rate": 1.5e-3, "epochs": 4},
    "squad": {"learning_rate": 2.7e-3, "epochs": 8},
    "swag": {"learning_rate": 1.5e-3, "epochs": 4},
}
"""Of own experts: rates of `merge_runs.py`."""
MIXTURES: dict[str, dict[str, Any]] = {
    "switch": {"mixture": {"name": "switch"}},
    "uniform": {"mixture": {"name": "uniform"}},
    "arrow": {"mixture": {"name": "arrow"}},
    "xlora": {
        "mixture": {"name": "xlora", "layerwise": True, **ALL},
        "training": {"learning_rate": RATE},
    },
    "single_pass": {
        "mixture": {"name": "single_pass", "reader": "embedding", "balance": "start"},
        "training": {"learning_rate": RATE},
    },
    "early_pass": {
        "mixture": {"name": "early_pass", "balance": "start"},
        "training": {"learning_rate": 1e-3},
    },
}
TIMED, ROUNDS = 32, 7
"""Rows that are answered in turns, and how often."""


@dataclass(frozen=True)
class Many:
    """Where the tasks and the runs are."""

    tasks: Mapping[str, Path]
    runs: Path

    def own(self, task: str, seed: int) -> RunFolder:
        """The expert of one task."""
        values = {"task": self._task(task), "recipe": LORA}
        training = {"base_dropout": 0.0, "batch_size": 16, **TRAINING[kind_of(task)]}
        return self._run(f"own/{task}", values, training, seed)

    def mixture(self, name: str, tasks: Sequence[str], seed: int) -> RunFolder:
        """A mixture of the own experts of tasks."""
        own = MIXTURES[name]
        experts = [str(self.own(task, seed).path) for task in tasks]
        values = {
            "tasks": [self._task(task) for task in tasks],
            "mixture": {**own["mixture"], "baselines": False, "runs": experts},
        }
        training = {"base_dropout": 0.0, "batch_size": ROWS, **own.get("training", {})}
        if "training" in own:
            training["max_steps"] = STEPS
        return self._run(f"{name}-{len(tasks)}", values, training, seed)

    def _run(
        self, what: str, values: Mapping[str, Any], training: Mapping[str, Any], seed: int
    ) -> RunFolder:
        fixed = {"base": "minilm", "device": "cpu", "seed": seed}
        settings = {"precision": half(), **training}
        return trained(
            self.runs / what / f"seed{seed}",
            Run.model_validate({**fixed, **values, "training": settings}),
        )

    def _task(self, task: str) -> dict[str, Any]:
        path = self.tasks[task]
        return {"name": str(path), "data": str(path.parent)}


def score_of(run: RunFolder) -> float:
    """The task's own metric on its validation rows."""
    metric = run.metrics[0]
    return float(metric["value"])


def row_of(name: str, count: int, many: Many, seeds: Sequence[int]) -> dict[str, Any]:
    """One mixture of the first `count` experts."""
    tasks = order()[:count]
    kept: dict[str, list[float]] = {}
    recognised: dict[str, list[float]] = {}
    nothing: set[str] = set()
    seconds, costs = [], []
    for seed in seeds:
        run = many.mixture(name, tasks, seed)
        for part, task in zip(run.parts(), tasks, strict=True):
            own = score_of(many.own(task, seed))
            if own == 0:
                nothing.add(task)
            else:
                kept.setdefault(task, []).append(score_of(part) / own)
            said = {row["name"]: row["value"] for row in part.metrics}
            recognised.setdefault(task, []).append(said["recognition"])
        seconds.append(float((run.parts()[0].training or {}).get("seconds", 0.0)))
        costs.append(_cost(run, many.own(tasks[0], seed)))
    shares = {task: mean(values) for task, values in kept.items()}
    by_kind = {
        kind: mean(share for task, share in shares.items() if kind_of(task) == kind)
        for kind in dict.fromkeys(map(kind_of, shares))
    }
    row = {
        "mixture": name,
        "experts": count,
        "seeds": list(seeds),
        "kept": mean(shares.values()),
        "least": min(shares.items(), key=lambda own: own[1]),
        "at_95": sum(share >= 0.95 for share in shares.values()),
        "by_kind": by_kind,
        "nothing_to_keep": sorted(nothing),
        "recognised": mean(map(mean, recognised.values())),
        "recognised_by_kind": {
            kind: mean(mean(own) for task, own in recognised.items() if kind_of(task) == kind)
            for kind in dict.fromkeys(map(kind_of, recognised))
        },
        "gate_seconds": mean(seconds),
        "cost_of_an_answer": mean(costs),
        "tasks": {task: {"kept": kept.get(task), "recognised": recognised[task]} for task in tasks},
    }
    print(
        f"{name}, {count} experts: kept {row['kept']:.3f}, worst {row['least'][1]:.3f} ({row['least'][0]}), "
        f"recognised {row['recognised']:.3f}, {row['cost_of_an_answer']:.2f} times the own expert's time",
        flush=True,
    )
    return row


def _cost(mixture: RunFolder, own: RunFolder) -> float:
    """Processor time of answering an expert's rows by the mixture over that by itself, median of ratios."""
    assert own.run.task is not None  # an expert has one
    sides = [
        load_mixture_model(mixture.path, device="cpu").runs[own.run.task.label],
        load_run_model(own.path, device="cpu"),
    ]
    asked = [
        (side, rows_of(side.run, side.card, side.model.base, "validation", max_examples=TIMED)[1])
        for side in sides
    ]
    taken = [[_seconds(*side) for side in asked] for _ in range(ROUNDS + 1)]
    # The first round makes what later ones keep.
    return statistics.median(mixed / alone for mixed, alone in taken[1:])


def _seconds(loaded: LoadedRun, records: Sequence[Record]) -> float:
    began = time.process_time()
    outputs_of(loaded, records)
    return time.process_time() - began


def main() -> None:
    """Train what is missing and write the result file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", default="../shared/data")
    parser.add_argument("--runs", default="runs/many")
    parser.add_argument("--out", type=Path, default=FILE)
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--counts", nargs="*", type=int, default=list(COUNTS))
    parser.add_argument("--mixtures", nargs="*", choices=list(MIXTURES), default=list(MIXTURES))
    given = parser.parse_args()
    torch.set_num_threads(1)
    folder = Path(given.runs).resolve()
    many = Many(written(Path(given.data).resolve(), folder / "data"), folder)
    result = json.loads(given.out.read_text(encoding="utf-8")) if given.out.is_file() else {}
    rows = {(row["mixture"], row["experts"]): row for row in result.get("rows", [])}
    for count in given.counts:
        for name in given.mixtures:
            rows[name, count] = row_of(name, count, many, given.seeds)
            own = {
                task: [score_of(many.own(task, seed)) for seed in given.seeds]
                for task in order()[:count]
            }
            result |= {
                "script": "benchmarks/many_experts.py",
                "settings": {
                    "base": "minilm",
                    "own": {"recipe": LORA, "training": TRAINING},
                    "mixtures": MIXTURES,
                    "steps": STEPS,
                    "rows_a_task": ROWS,
                    "precision": half(),
                },
                "rows": [
                    rows[key]
                    for key in sorted(rows, key=lambda key: (key[1], list(MIXTURES).index(key[0])))
                ],
                "own": result.get("own", {}) | own,
                "machine": machine("cpu"),
            }
            write_text(given.out, json.dumps(result, indent=1) + "\n")
    print(given.out)


if __name__ == "__main__":
    main()

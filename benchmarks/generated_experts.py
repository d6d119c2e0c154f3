"""Generated experts beside what costs as little: on tasks that the generator has not seen.

    python benchmarks/generated_experts.py --data ../shared/data

Fifty-one tasks (`generated_tasks.py`), one expert each: LoRA rank 2 on query and value of all-MiniLM-L6-v2, 50 steps,
five late states kept. With each of three seeds another third of the tasks is held out, generators learn from the rest,
and every held-out task is scored once by

    trained       its own expert, on all of its rows: what is imitated
    rows          trained for as many steps on the 30 rows that the generator is told
    seconds       trained on those rows for the seconds that generating takes, at least one step
    nearest       the expert whose task's vector is nearest
    mean          the mean of the experts' changes, exactly, with the mean head
    population    one expert for the rows of all other readers; of readers alone, because elsewhere the same words of
                  the same sentences are of a class in one task and not in another
    generated     the generator with our settings (canonical factors, pooled statistics)
    trained_form  the same with factors as they were trained
    own, leak     normalised as published: by statistics of the nearest expert, or of the task's own, which is a leak

Score: F1 of the class's words. Means over tasks, with a bootstrap interval over tasks, and paired differences from
`generated`. Interrupt it as you like: the same call goes on. The result is results/generated/experts.json.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import weft
from generated_tasks import write_tasks
from machine import machine
from weft.atomic import write_text
from weft.base.loading import load_base
from weft.comparison.jobs import Job, run_job
from weft.config import Run
from weft.data.reading import LoadedTask, load_task
from weft.generating.generate import read_generated
from weft.generating.layout import Layout, state_of
from weft.generating.sources import flat_expert
from weft.generating.writing import write_run
from weft.lowrank.product import stacked
from weft.runs import RunFolder

RESULT = Path("results") / "generated" / "experts.json"
SEEDS = (0, 1, 2)
STEPS, STATES, ROWS, RATE = 50, 5, 30, 5e-3
RECIPE = {"name": "lora", "rank": 2, "alpha": 4, "targets": ["query", "value"]}
GENERATOR: dict[str, Any] = {
    "channels": [8, 16, 32, 64, 64, 32, 16, 8],
    "pad": 256,
    "epochs": 60,
    "batch_size": 8,
    "learning_rate": 1e-3,
}
KINDS: dict[str, dict[str, Any]] = {
    "generated": {},
    "trained_form": {"form": "trained"},
    "own": {"statistics": "own"},
}
METHODS = (
    *("trained", "rows", "seconds", "nearest", "mean", "population"),
    *("generated", "trained_form", "own", "leak"),
)
RESAMPLES = 10_000


@dataclass(frozen=True)
class Study:
    """Where everything lies."""

    folder: Path
    tasks: dict[str, Path]
    steps: int
    generator: dict[str, Any]

    def held(self, seed: int) -> list[str]:
        """The tasks that the generators of a seed do not see: another third of every source's with each seed."""
        return [name for at, name in enumerate(self.tasks) if at % len(SEEDS) == seed]

    def seen(self, seed: int) -> list[str]:
        return [name for name in self.tasks if name not in self.held(seed)]

    def run(self, seed: int, what: str, task: str) -> Path:
        return self.folder / f"seed{seed}" / what / task

    def job(self, seed: int, what: str, task: str, steps: int, **more: Any) -> Job:
        settings: dict[str, Any] = {
            "name": str(self.tasks[task]),
            "data": str(self.tasks[task].parent),
        }
        training = {
            "max_steps": steps,
            "batch_size": 16,
            "learning_rate": RATE,
            "base_dropout": 0.0,
        }
        if what == "trained":
            training["trajectory"] = STATES
        else:
            settings["max_examples"] = {"train": ROWS}
        run = Run.model_validate(
            {
                "base": "minilm",
                "device": "cpu",
                "seed": seed,
                "task": settings | more,
                "recipe": RECIPE,
                "training": training,
            }
        )
        return Job(self.run(seed, what, task), run)


def trained(study: Study, seed: int, task: str) -> None:
    """A task's own expert."""
    run_job(study.job(seed, "trained", task, study.steps))


def learned(study: Study, seed: int, kind: str) -> None:
    """A generator of the tasks that a seed sees."""
    folder = study.folder / f"seed{seed}" / f"generator-{kind}"
    runs = [study.run(seed, "trained", task) for task in study.seen(seed)]
    if folder.exists():
        weft.learn(resume=folder, device="cpu")
    else:
        settings = {**study.generator, **KINDS[kind], "seed": seed}
        weft.learn(runs, folder, settings=settings, device="cpu")


def population(study: Study, seed: int, task: str) -> None:
    """One expert for the rows of all readers that a seed sees; the first held-out reader's name stands for it."""
    folder = study.folder / f"seed{seed}" / "population-data"
    folder.mkdir(parents=True, exist_ok=True)
    label = "B-unknown"
    for split in ("train", "validation"):
        texts = [
            (study.tasks[name].parent / f"{split}.conll")
            .read_text(encoding="utf-8")
            .replace(f"B-{name.partition('.')[2]}", label)
            for name in study.seen(seed)
            if name.startswith("reader.")
        ]
        write_text(folder / f"{split}.conll", "\n".join(texts))
    spec = {"kind": "token_classification", "format": "conll", "labels": ["O", label]}
    more = {"name": "population", "spec": spec, "data": str(folder), "max_examples": None}
    run_job(study.job(seed, "population", task, study.steps, **more))


def scored(study: Study, seed: int, task: str) -> None:
    """Every method's score on a held-out task, kept in a file of its own."""
    path = study.folder / f"seed{seed}" / "scores" / f"{task}.json"
    if path.is_file():
        return
    place, own = study.tasks[task], study.run(seed, "trained", task)
    scores = {"trained": _f1(own)}
    drawn = load_task(
        study.job(seed, "rows", task, 1).run.task,  # type: ignore[arg-type]  # it has one
        splits=["train"],
        seed=seed,
    )
    rows = [{key: row[key] for key in ("tokens", "tags")} for row in drawn.splits["train"]]
    times: dict[str, float] = {}
    for kind in (*KINDS, "leak"):
        out = study.run(seed, kind, task)
        if not out.exists():
            weft.generate(
                study.folder / f"seed{seed}" / f"generator-{'own' if kind == 'leak' else kind}",
                rows,
                task=str(place),
                out=out,
                data=place.parent,
                seed=seed,
                statistics_of=own if kind == "leak" else None,
                device="cpu",
            )
        scores[kind] = _f1(out)
        times[kind] = RunFolder(out).training["seconds"]  # type: ignore[index]  # it is complete
    summary = RunFolder(own).training
    assert summary is not None  # it is complete
    steps = max(1, round(times["generated"] / (summary["seconds"] / summary["steps"])))
    for what, count in (("rows", study.steps), ("seconds", min(steps, study.steps))):
        run_job(study.job(seed, what, task, count))
        scores[what] = _f1(study.run(seed, what, task))
    nearest = Path(read_generated(study.run(seed, "generated", task))["nearest"][0]["run"])
    made = _written(study, seed, task, "nearest", runs=[nearest], drawn=drawn)
    scores["nearest"] = _f1(made)
    everyone = [study.run(seed, "trained", name) for name in study.seen(seed)]
    scores["mean"] = _f1(_written(study, seed, task, "mean", runs=everyone, drawn=drawn))
    if task.startswith("reader."):
        first = next(name for name in study.held(seed) if name.startswith("reader."))
        alone = [study.run(seed, "population", first)]
        scores["population"] = _f1(
            _written(study, seed, task, "population-of", runs=alone, drawn=drawn)
        )
    found = {
        "task": task,
        "seed": seed,
        "scores": scores,
        "seconds": times["generated"],
        "trained_seconds": summary["seconds"],
        "steps": min(steps, study.steps),
        "nearest": nearest.name,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(found, indent=1) + "\n")


def _f1(run: Path) -> float:
    """A run's score on the validation rows, measured where it is not there."""
    found = {row["name"]: row["value"] for row in RunFolder(run).metrics}
    if "f1" not in found:
        result = weft.evaluate(run, device="cpu")
        assert not isinstance(result, list)  # of one task
        return result.scores["f1"].value
    return found["f1"]


def _written(
    study: Study, seed: int, task: str, what: str, *, runs: Sequence[Path], drawn: LoadedTask
) -> Path:
    """The mean of experts' changes, exactly, and of their heads, as an expert for another task."""
    out = study.run(seed, what, task)
    if (out / "training.json").is_file():
        return out
    base = load_base("minilm")
    states = []
    for run in runs:
        layout, vector = flat_expert(run / "expert", base, "trained")
        states.append(layout.unflatten(vector))
    modules = [name.removesuffix(".A") for name in states[0] if name.endswith(".A")]
    share = [1 / len(states)] * len(states)
    factors = {
        module: stacked([(own[f"{module}.A"], own[f"{module}.B"]) for own in states], share)
        for module in modules
    }
    heads = {
        name.removeprefix("head."): torch.stack([own[name] for own in states]).mean(0)
        for name in states[0]
        if name.startswith("head.")
    }
    state = state_of(factors, heads, "trained")
    assert Layout.of(state).length >= layout.length  # as many tensors, perhaps of more ranks
    out.mkdir(parents=True, exist_ok=True)
    write_run(
        RunFolder(out),
        state,
        drawn,
        base,
        base_name="minilm",
        precision="fp32",
        data=str(study.tasks[task].parent),
        seed=seed,
        summary={"seconds": 0.0},
    )
    return out


def settled() -> None:
    """What each process of the pool begins with: one core each, and scores are not drawn from anything."""
    torch.set_num_threads(1)


def staged(name: str, work: Callable[..., None], calls: list[tuple], workers: int) -> None:
    """Do all of a stage, saying how far it is."""
    began = time.monotonic()
    with ProcessPoolExecutor(workers, initializer=settled) as pool:
        futures = [pool.submit(work, *call) for call in calls]
        for done, future in enumerate(as_completed(futures), 1):
            future.result()
            left = (time.monotonic() - began) / done * (len(calls) - done)
            print(f"{name} {done}/{len(calls)}, {left / 60:.1f} min left", flush=True)


def summarised(
    rows: list[dict[str, Any]], method: str, against: str | None = None
) -> dict[str, Any]:
    """The mean over tasks, or of the difference from another method, with its interval."""
    values = np.array(
        [
            row["scores"][method] - (row["scores"][against] if against else 0.0)
            for row in rows
            if method in row["scores"]
        ]
    )
    draw = np.random.default_rng(0)
    means = values[draw.integers(len(values), size=(RESAMPLES, len(values)))].mean(1)
    low, high = np.quantile(means, [0.025, 0.975]).tolist()
    return {"value": float(values.mean()), "low": low, "high": high, "n": len(values)}


def main() -> None:
    """Do what is missing and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--runs", type=Path, default=Path("runs/generated"))
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--classes", type=int, default=None, help="of each source; for a try")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--epochs", type=int, default=GENERATOR["epochs"])
    parser.add_argument("--seeds", type=int, nargs="*", default=list(SEEDS))
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    settled()
    runs = arguments.runs.resolve()
    tasks = write_tasks(arguments.data, runs / "tasks", arguments.classes)
    generator = {**GENERATOR, "epochs": arguments.epochs}
    study, seeds, workers = (
        Study(runs, tasks, arguments.steps, generator),
        arguments.seeds,
        arguments.workers,
    )
    staged("experts", trained, [(study, s, t) for s in seeds for t in tasks], workers)
    # A seed may hold out no reader in a try with few classes.
    first = {s: next((t for t in study.held(s) if t.startswith("reader.")), None) for s in seeds}
    staged("populations", population, [(study, s, t) for s, t in first.items() if t], workers)
    staged("generators", learned, [(study, s, k) for s in seeds for k in KINDS], workers)
    staged("scores", scored, [(study, s, t) for s in seeds for t in study.held(s)], workers)
    rows = [
        json.loads((runs / f"seed{s}" / "scores" / f"{t}.json").read_text(encoding="utf-8"))
        for s in seeds
        for t in study.held(s)
    ]
    there = [name for name in METHODS if any(name in row["scores"] for row in rows)]
    found = {
        "script": "benchmarks/generated_experts.py",
        "machine": machine(),
        "config": {
            "base": "minilm",
            "recipe": RECIPE,
            "steps": arguments.steps,
            "learning_rate": RATE,
            "states": STATES,
            "rows": ROWS,
            "generator": generator,
            "seeds": seeds,
            "tasks": len(tasks),
            "resamples": RESAMPLES,
        },
        "methods": {name: summarised(rows, name) for name in there},
        "differences": {
            name: summarised([row for row in rows if name in row["scores"]], "generated", name)
            for name in there
            if name != "generated"
        },
        "sources": {
            source: {name: summarised(own, name) for name in there if name in own[0]["scores"]}
            for source in dict.fromkeys(row["task"].partition(".")[0] for row in rows)
            if (own := [row for row in rows if row["task"].startswith(f"{source}.")])
        },
        "seconds": float(np.mean([row["seconds"] for row in rows])),
        "trained_seconds": float(np.mean([row["trained_seconds"] for row in rows])),
        "tasks": rows,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    write_text(arguments.out, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

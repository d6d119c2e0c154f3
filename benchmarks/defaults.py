"""What nothing said gives: LoRA as it is by default, beside what it was before, at three seeds.

    python benchmarks/defaults.py --data ../shared/data

Before: query and value at 2e-3. Now: what `weft train` takes where a config says neither targets nor rate. Both are
rank 8 and train on the same rows for the same steps; nothing is searched, since a default is what is not. A seed draws
its own rows, of validation too, the same for both; differences are by seed. Interrupt it as you like: the same call
goes on. The result is results/defaults.json.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from accuracy import told
from machine import half, machine
from weft.comparison.grid import Grid, cells_of
from weft.comparison.jobs import final_jobs, run_job, score_of
from weft.config import RecipeSettings, Run, TaskSettings
from weft.data.reading import find_kind, find_spec
from weft.training.settings import completed

BEFORE, NOW = "before", "now"
TASKS: dict[str, Any] = {
    "wnut17": {"rows": {"train": 1500, "validation": 600}, "training": {"epochs": 2}},
    "squad": {"rows": {"train": 1500, "validation": 300}, "training": {"epochs": 1}},
    "swag": {"rows": {"train": 500, "validation": 400}, "training": {"epochs": 2}},
}
"""Short, so that the whole takes half an hour of one core."""


def grid_for(data: str, chosen: Sequence[str]) -> Grid:
    """The two on some sets."""
    nothing_said = completed(Run(task=TaskSettings(name="swag"), recipe=RecipeSettings())).run
    tasks = {
        name: {
            "task": {
                "name": name,
                "data": str((Path(data) / name).resolve()),
                "max_examples": entry["rows"],
            },
            "training": entry["training"],
        }
        for name, entry in TASKS.items()
        if name in chosen
    }
    recipes = {
        BEFORE: {
            "recipe": {"name": "lora", "rank": 8, "alpha": 16, "targets": ["query", "value"]},
            "learning_rates": [2e-3],
        },
        NOW: {
            "recipe": nothing_said.recipe.model_dump(),
            "learning_rates": [nothing_said.training.learning_rate],
        },
    }
    return Grid.model_validate(
        {
            "base": "minilm",
            "tasks": tasks,
            "recipes": recipes,
            "seeds": [0, 1, 2],
            "device": "cpu",
            "training": {"precision": half(), "base_dropout": 0.0},
        }
    )


def by_seed(grid: Grid, runs: Path, task: str) -> dict[str, Any]:
    """Scores of both on one set by seed, and how much higher the present one's are; what is missing is run."""
    metric = find_kind(find_spec(grid.tasks[task].task)).metric
    scores: dict[str, list[float]] = {}
    for cell in cells_of(grid):
        if cell.task != task:
            continue
        jobs = final_jobs(grid, runs, cell, grid.recipes[cell.recipe].learning_rates[0])
        for number, job in enumerate(jobs):
            run_job(job, None if job.is_complete else told(job, number, len(jobs)))
        scores[cell.recipe] = [score_of(job.folder, metric)["value"] for job in jobs]
    higher = [now - before for now, before in zip(scores[NOW], scores[BEFORE], strict=True)]
    return {"metric": metric, **scores, "higher": higher, "mean_higher": mean(higher)}


def main() -> None:
    """Run what is missing and write the result file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", default="../shared/data")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--runs", default="runs/defaults")
    arguments = parser.parse_args()
    grid = grid_for(arguments.data, arguments.tasks)
    described = grid.model_dump(mode="json")
    for name in arguments.tasks:
        described["tasks"][name]["task"]["data"] = f"<data>/{name}"
    found = {name: by_seed(grid, Path(arguments.runs), name) for name in arguments.tasks}
    result = {
        "script": "benchmarks/defaults.py",
        "grid": described,
        "tasks": found,
        "machine": machine("cpu"),
    }
    path = Path("results") / "defaults.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(path)


if __name__ == "__main__":
    main()

"""What nothing said gives: LoRA as it is by default, beside what it was before, at three seeds.

    python benchmarks/defaults.py --data ../shared/data

Before: query and value at 2e-3. Now: what `weft train` takes where a config says neither targets nor rate. Both are
rank 8 and train on the same rows for the same steps; nothing is searched, since a default is what is not. Differences
are paired by row and seed (`weft.comparison.differences`), with Holm's correction over the three sets. Interrupt it as
you like: the same call goes on. The result is results/defaults.json.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from accuracy import told
from machine import machine
from weft.comparison.comparing import Grid, compare
from weft.comparison.differences import paired_with
from weft.config import RecipeSettings, Run, TaskSettings
from weft.training.settings import completed

BEFORE, NOW = "before", "now"
TASKS: dict[str, Any] = {
    "wnut17": {"rows": {"train": 1500, "validation": 600}, "training": {"epochs": 2}},
    "squad": {"rows": {"train": 1500, "validation": 300}, "training": {"epochs": 1}},
    "swag": {"rows": {"train": 500, "validation": 400}, "training": {"epochs": 2}},
}
"""Short, so that the whole takes half an hour of one core."""


def grid_for(data: str) -> Grid:
    """The two on three sets."""
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
            "training": {"precision": "bf16", "base_dropout": 0.0},
        }
    )


def main() -> None:
    """Run what is missing and write the result file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", default="../shared/data")
    parser.add_argument("--runs", default="runs/defaults")
    arguments = parser.parse_args()
    grid, runs = grid_for(arguments.data), Path(arguments.runs)
    rows = compare(grid, runs, told=told, extend=True)
    differences = paired_with(grid, runs, rows, BEFORE)
    described = grid.model_dump(mode="json")
    for name in TASKS:
        described["tasks"][name]["task"]["data"] = f"<data>/{name}"
    told_rows = []
    for row in rows:
        difference = differences.get((row.task, row.recipe))
        told_rows.append(
            {**row.as_json(), "from_before": difference.as_json() if difference else None}
        )
        score = row.scores[row.metric]
        print(f"{row.task} {row.recipe}: {score.value:.4f} [{score.low:.4f}, {score.high:.4f}]")
    result = {
        "script": "benchmarks/defaults.py",
        "grid": described,
        "rows": told_rows,
        "machine": machine("cpu"),
    }
    path = Path("results") / "defaults.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(path)


if __name__ == "__main__":
    main()

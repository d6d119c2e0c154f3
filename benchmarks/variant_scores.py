"""Every recipe on WNUT17, the best five on SQuAD and CODAH too: own rate by search, three seeds, same budget.

    python benchmarks/variant_scores.py wnut17 --data ../shared/data
    python benchmarks/variant_scores.py squad --recipes lora pissa dora slora kasa

2,000 training rows a set (CODAH has 1,876). Four rates a recipe, spread by factors of three, are searched on a held-out
tenth of train with one seed, and a fifth where the best of them is the largest; the best is trained with three seeds
and scored once on validation. Rank 8 on query + value wherever the rank is free. Differences from plain LoRA are paired
by row and seed (`weft.comparison.differences`), with Holm's correction. Interrupt it as you like: the same call goes
on. The result is results/variants-<set>.json.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from accuracy import told
from machine import machine
from weft.comparison.comparing import Grid, Row, compare
from weft.comparison.differences import paired_with
from weft.methods.recipes import recipe_file, recipes

ROWS = 2000
SPREAD = (1, 3, 9, 27)
BEYOND = 81
"""The fifth rate, over the lowest."""
BASELINE = "lora"
TASKS: dict[str, Any] = {
    "wnut17": {"training": {"epochs": 3}},
    # Searched as long as trained: what is best after half as many steps is too high a rate here.
    "squad": {"training": {"epochs": 1.5}},
    "swag": {"training": {"epochs": 2}, "search": {"epochs": 1}},
}
LOWEST = {
    "full": 3e-5,
    "head": 1e-3,
    "inttune": 1e-3,
    "lora_xs": 1e-3,
    "lora_sb": 1e-3,
    "nola": 1e-3,
    "tinylora": 1e-3,
    "uni_lora": 1e-3,
    "vera": 1e-3,
}
"""The lowest rate tried, where it is not 3e-4; fewer trained numbers want larger steps."""
NOT_COMPARED = ("loram",)
"""Trains on another, pruned base."""


def on_query_and_value(name: str) -> dict[str, Any]:
    """A recipe where all are compared, whatever its own targets are."""
    woven = recipe_file(name).trains == "adapters"
    return {"name": name, "targets": ["query", "value"]} if woven else {"name": name}


def grid_for(task: str, names: list[str], data: str) -> Grid:
    """What is compared on one set."""
    settings = {
        "name": task,
        "data": str((Path(data) / task).resolve()),
        "max_examples": {"train": ROWS},
    }
    return Grid.model_validate(
        {
            "base": "minilm",
            "tasks": {task: {**TASKS[task], "task": settings}},
            "recipes": {
                name: {
                    "recipe": on_query_and_value(name),
                    "learning_rates": [
                        float(f"{LOWEST.get(name, 3e-4) * factor:.2g}") for factor in SPREAD
                    ],
                }
                for name in names
            },
            "seeds": [0, 1, 2],
            "device": "cpu",
            "training": {"precision": "bf16", "base_dropout": 0.0},
        }
    )


def widened(grid: Grid, rows: list[Row]) -> Grid:
    """The grid with a fifth rate for every recipe whose best is its largest."""
    recipes = dict(grid.recipes)
    for row in rows:
        own = recipes[row.recipe]
        if row.learning_rate == max(own.learning_rates):
            beyond = float(f"{min(own.learning_rates) * BEYOND:.2g}")
            rates = [*own.learning_rates, beyond]
            recipes[row.recipe] = own.model_copy(update={"learning_rates": rates})
    return grid.model_copy(update={"recipes": recipes})


def compared(grid: Grid, runs: Path, rows: list[Row]) -> list[dict[str, Any]]:
    """Each row with its difference from plain LoRA."""
    differences = paired_with(grid, runs, rows, BASELINE)
    return [
        {
            **row.as_json(),
            "from_lora": found.as_json()
            if (found := differences.get((row.task, row.recipe)))
            else None,
        }
        for row in sorted(rows, key=lambda row: -row.scores[row.metric].value)
    ]


def main() -> None:
    """Run what is missing and write the result file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("task", choices=TASKS)
    woven = [name for name in recipes.names() if recipe_file(name).trains == "adapters"]
    names = [name for name in woven if name not in NOT_COMPARED] + ["full", "head"]
    parser.add_argument("--recipes", nargs="*", choices=names, default=names)
    parser.add_argument("--only", nargs="*", choices=names, help="Run these now, write nothing.")
    parser.add_argument("--data", default="../shared/data")
    parser.add_argument("--runs", default="runs/variants")
    arguments = parser.parse_args()
    grid = grid_for(arguments.task, arguments.recipes, arguments.data)
    runs = Path(arguments.runs) / arguments.task
    rows = compare(grid, runs, recipes=arguments.only, told=told, extend=True)
    grid = widened(grid, rows)
    # The same folder, whose finished runs stay: what it holds is said anew.
    rows = compare(grid, runs, recipes=arguments.only, told=told, extend=True)
    for row in rows:
        score = row.scores[row.metric]
        print(f"{row.recipe}: {score.value:.4f} rate {row.learning_rate:g} {row.searched}")
    if arguments.only is not None:
        return
    described = grid.model_dump(mode="json")
    described["tasks"][arguments.task]["task"]["data"] = f"<data>/{arguments.task}"
    result = {
        "script": "benchmarks/variant_scores.py",
        "grid": described,
        "rows": compared(grid, runs, rows),
        "machine": machine("cpu"),
    }
    path = Path("results") / f"variants-{arguments.task}.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(path)


if __name__ == "__main__":
    main()

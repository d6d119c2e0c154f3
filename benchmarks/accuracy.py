"""Full fine-tuning against LoRA on real data, each at its own learning rate, three seeds.

    python benchmarks/accuracy.py wnut17 --data ../shared/data --runs runs/accuracy

Rates are searched on a held-out tenth of train (DESIGN: measuring); the validation split is touched once, by the final
runs. Interrupt it as you like: the same call goes on. The result is results/accuracy-<task>.json.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from machine import half, machine
from weft.comparison.comparing import Grid, Job, compare
from weft.training.loop import Event, Report

RECIPES: dict[str, Any] = {
    "full": {"recipe": {"name": "full"}, "learning_rates": [5e-5, 1e-4, 2e-4, 4e-4]},
    "lora": {
        "recipe": {"name": "lora", "rank": 8, "alpha": 16, "targets": ["query", "value"]},
        "learning_rates": [1e-3, 2e-3, 4e-3, 8e-3],
    },
    "lora-all-linear": {
        "recipe": {"name": "lora", "rank": 8, "alpha": 16, "targets": ["all-linear"]},
        "learning_rates": [2.5e-4, 5e-4, 1e-3, 2e-3],
    },
}
"""The embedded base has 22.7 M parameters: 73,728 are 0.3 % of it, 331,776 are 1.5 %."""

TASKS: dict[str, Any] = {
    "wnut17": {"training": {"epochs": 3}},
    "squad": {"training": {"epochs": 2}, "search": {"epochs": 1}, "search_examples": 4000},
    "swag": {"training": {"epochs": 4}, "search": {"epochs": 2}},
}


def grid_for(task: str, data: str, device: str) -> Grid:
    """What is compared on one task."""
    entry = {**TASKS[task], "task": {"name": task, "data": str((Path(data) / task).resolve())}}
    return Grid.model_validate(
        {
            "base": "minilm",
            "tasks": {task: entry},
            "recipes": RECIPES,
            "seeds": [0, 1, 2],
            "device": device,
            # Dropout inside the frozen base costs a third of the time on a CPU; it is off for every method alike.
            "training": {"precision": half(), "base_dropout": 0.0},
        }
    )


def told(job: Job, number: int, total: int) -> Report:
    """One line a run, and one every fifty steps."""
    print(f"[{number + 1}/{total}] {job.folder}", flush=True)

    def report(event: Event) -> None:
        if event.step % 50 == 0 or event.step == event.total:
            loss = ", ".join(f"{value:.3f}" for value in event.loss.values())
            print(
                f"  step {event.step}/{event.total} loss {loss} "
                f"{event.tokens_per_second:.0f} tokens/s, {event.seconds_left:.0f} s left",
                flush=True,
            )

    return report


def main() -> None:
    """Run what is missing of one task's grid and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--data", default="../shared/data")
    parser.add_argument("--runs", default="runs/accuracy")
    parser.add_argument("--recipes", nargs="*", choices=RECIPES, default=None)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    arguments = parser.parse_args()
    grid = grid_for(arguments.task, arguments.data, arguments.device)
    rows = compare(
        grid, Path(arguments.runs) / arguments.task, recipes=arguments.recipes, told=told
    )
    for row in rows:
        score = row.scores[row.metric]
        print(
            f"{row.task} {row.recipe}: {row.metric} {score.value:.4f} [{score.low:.4f}, {score.high:.4f}] "
            f"seeds {row.by_seed} rate {row.learning_rate:g} searched {row.searched}"
        )
    if arguments.recipes is None:
        described = grid.model_dump(mode="json")
        described["tasks"][arguments.task]["task"]["data"] = f"<data>/{arguments.task}"
        result = {
            "script": "benchmarks/accuracy.py",
            "grid": described,
            "rows": [row.as_json() for row in rows],
            "machine": machine(arguments.device),
        }
        path = Path("results") / f"accuracy-{arguments.task}.json"
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main()

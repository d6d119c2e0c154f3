"""Every recipe on WNUT17, the best five on SQuAD and CODAH too: own rate by search, three seeds, same budget.

    python benchmarks/variant_scores.py wnut17 --data ../shared/data
    python benchmarks/variant_scores.py squad --recipes lora pissa dora slora kasa

2,000 training rows a set (CODAH has 1,876). Four rates a recipe, spread by factors of three, are searched on a held-out
tenth of train with one seed, and up to two more where the best of them is the largest or the smallest; the best is
trained with three seeds and scored once on validation. A rate that one seed survived can be beyond what others do:
where one of the three has learnt less of its own training rows than the head alone does, the next lower rate is taken
and the row says what was left (`beyond`). Rank 8 on query + value wherever the rank is free. Differences from plain
LoRA are paired by row and seed (`weft.comparison.differences`), with Holm's correction. Interrupt it as you like: the
same call goes on. The result is results/variants-<set>.json; `--recipes` measures these and LoRA anew, and keeps the
file's other rows with the machine and the precision that they were measured with.
"""

import argparse
import json
import math
from collections.abc import Mapping
from pathlib import Path
from statistics import NormalDist, mean
from typing import Any

from accuracy import told
from machine import half, machine
from weft.atomic import write_text
from weft.comparison.comparing import Grid, Row, Unfinished, compare
from weft.comparison.differences import paired_with
from weft.comparison.jobs import final_jobs
from weft.methods.recipes import recipe_file, recipes
from weft.runs import RunFolder
from weft.tasks.scoring import LEVEL, RESAMPLES, holm

Beyond = dict[str, dict[str, list[float]]]
"""By recipe and rate: the scores by seed of rates that are too high for one of them; none where one diverged."""

ROWS = 2000
SPREAD = (1, 3, 9, 27)
NORMAL = NormalDist()
WIDENED = 2
"""Rates that are tried beyond these."""
BASELINE, HEAD = "lora", "head"
TASKS: dict[str, Any] = {
    "wnut17": {"training": {"epochs": 3}},
    # Searched as long as trained: what is best after half as many steps is too high a rate here.
    "squad": {"training": {"epochs": 1.5}},
    "swag": {"training": {"epochs": 2}, "search": {"epochs": 1}},
}
LOWEST = {
    "adalora": 1e-3,
    "altlora": 0.3,
    "full": 3e-5,
    "head": 1e-3,
    "increlora": 1e-3,
    "inttune": 1e-3,
    "lora_plus": 1e-4,
    "lora_xs": 1e-3,
    "lora_sb": 1e-3,
    "nola": 1e-3,
    "tinylora": 1e-3,
    "uni_lora": 1e-3,
    "vera": 1e-3,
}
"""The lowest rate tried, where it is not 3e-4; fewer trained numbers want larger steps."""
FINAL = "final"
"""The folder of what is scored, beside that of the searches."""
NOT_COMPARED = ("loram",)
"""Trains on another, pruned base."""


def lowest_of(name: str) -> float:
    """The lowest rate that is tried of a recipe at first."""
    return LOWEST.get(name, 3e-4)


def rounded(rate: float) -> float:
    """A rate as it is tried and told: two digits."""
    return float(f"{rate:.2g}")


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
                    "learning_rates": [rounded(lowest_of(name) * factor) for factor in SPREAD],
                }
                for name in names
            },
            "seeds": [0, 1, 2],
            "device": "cpu",
            "training": {"precision": half(), "base_dropout": 0.0},
        }
    )


def widened(grid: Grid, rows: list[Row], beyond: Beyond) -> Grid:
    """The grid with another rate for every recipe whose best is its largest or its smallest."""
    recipes = dict(grid.recipes)
    for row in rows:
        own = recipes[row.recipe]
        rates = sorted(own.learning_rates)
        if len(rates) >= len(SPREAD) + WIDENED or row.recipe in beyond:
            continue
        if row.learning_rate == rates[-1]:
            rates.append(rounded(3 * rates[-1]))
        elif row.learning_rate == rates[0]:
            rates.insert(0, rounded(rates[0] / 3))
        recipes[row.recipe] = own.model_copy(update={"learning_rates": rates})
    return grid.model_copy(update={"recipes": recipes})


def lowered(grid: Grid, runs: Path, rows: list[Row], beyond: Beyond) -> Grid:
    """The grid without the rates at which a seed has learnt less than the head alone; `beyond` gains them."""
    losses = {row.recipe: [last_loss(run) for run in final_runs(grid, runs, row)] for row in rows}
    head = max(losses[HEAD])
    recipes = dict(grid.recipes)
    for row in rows:
        if max(losses[row.recipe]) <= head:
            continue
        own = recipes[row.recipe]
        lower = [rate for rate in own.learning_rates if rate < row.learning_rate]
        if lower:
            scores = beyond.setdefault(row.recipe, {})
            scores[f"{row.learning_rate:g}"] = row.by_seed
            recipes[row.recipe] = own.model_copy(update={"learning_rates": lower})
    return grid.model_copy(update={"recipes": recipes})


def without_lost(grid: Grid, stopped: Unfinished, beyond: Beyond) -> Grid:
    """The grid without rates at which a seed diverged; `beyond` gains them.

    Raises:
        Unfinished: If something else failed, or a recipe has no lower rate.
    """
    recipes = dict(grid.recipes)
    for job in stopped.failed:
        rate, name = job.run.training.rate, job.run.recipe.name
        if not job.is_lost or rate is None:
            raise stopped
        own = recipes[name]
        lower = [other for other in own.learning_rates if other < rate]
        if FINAL in job.folder.parts and rate in own.learning_rates:
            if not lower:
                raise stopped
            beyond.setdefault(name, {})[f"{rate:g}"] = []
            recipes[name] = own.model_copy(update={"learning_rates": lower})
    if recipes == grid.recipes:
        raise stopped
    return grid.model_copy(update={"recipes": recipes})


def final_runs(grid: Grid, runs: Path, row: Row) -> list[RunFolder]:
    """The runs behind a row, seed by seed."""
    jobs = final_jobs(grid, runs, row.cell, row.learning_rate)
    return [RunFolder.open(job.folder) for job in jobs]


def last_loss(run: RunFolder) -> float:
    """The mean training loss over the last third of a run; infinite where it is no number any more."""
    lines = [json.loads(line) for line in run.log.read_text(encoding="utf-8").splitlines()]
    losses = [mean(line["loss"].values()) for line in lines if "loss" in line]
    found = mean(losses[-max(1, len(losses) // 3) :])
    return found if math.isfinite(found) else math.inf


def compared(
    grid: Grid, runs: Path, rows: list[Row], beyond: Beyond, old: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Each row with its difference from plain LoRA, old ones among them; p corrected for all."""
    # What is measured a few at a time is corrected together: more resamples than these few would need.
    family = len(rows) + len(old)
    differences = paired_with(grid, runs, rows, BASELINE, family=family)
    own = machine("cpu")
    found = [
        {
            **row.as_json(),
            "beyond": beyond.get(row.recipe, {}),
            "machine": own,
            "precision": grid.training["precision"],
            "from_lora": difference.as_json()
            if (difference := differences.get((row.task, row.recipe)))
            else None,
        }
        for row in rows
    ] + old
    apart = {row["recipe"]: row["from_lora"] for row in found if row["from_lora"]}
    corrected = holm({name: chance(difference) for name, difference in apart.items()})
    for name, difference in apart.items():
        difference["p_corrected"] = corrected[name]
    return sorted(found, key=lambda row: -row["scores"][row["metric"]]["value"])


def chance(difference: Mapping[str, float]) -> float:
    """The p value of a difference; by a normal distribution as wide as its interval where 1,000 resamples end.

    No more were drawn for rows that were measured a few at a time: of them no p was below 0.002, which no correction
    for so many rows leaves beyond noise, however large the difference.
    """
    if difference["p"] > 2 / (RESAMPLES + 1):
        return difference["p"]
    width = (difference["high"] - difference["low"]) / 2 / NORMAL.inv_cdf((1 + LEVEL) / 2)
    return min(difference["p"], 2 * NORMAL.cdf(-abs(difference["value"]) / width))


def kept(path: Path, names: list[str]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The grid's recipes and the rows of a result file, without those that are measured anew."""
    if not path.is_file():
        return {}, []
    found = json.loads(path.read_text(encoding="utf-8"))
    rows = [
        {
            "beyond": {},
            "machine": found["machine"],
            "precision": found["grid"]["training"]["precision"],
            **row,
        }
        for row in found["rows"]
        if row["recipe"] not in names
    ]
    return {row["recipe"]: found["grid"]["recipes"][row["recipe"]] for row in rows}, rows


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
    path = Path("results") / f"variants-{arguments.task}.json"
    # What the others are held against, and what a seed has to learn at least.
    names = sorted({*arguments.recipes, BASELINE, HEAD})
    grid = grid_for(arguments.task, names, arguments.data)
    runs = Path(arguments.runs) / arguments.task
    beyond: Beyond = {}
    while True:
        # The same folder, whose finished runs stay: what it holds is said anew.
        try:
            rows = compare(grid, runs, recipes=arguments.only, told=told, extend=True)
        except Unfinished as stopped:
            grid = without_lost(grid, stopped, beyond)
            continue
        other = widened(grid, rows, beyond)
        if other == grid and arguments.only is None:
            other = lowered(grid, runs, rows, beyond)
        if other == grid:
            break
        grid = other
    for row in rows:
        score = row.scores[row.metric]
        print(f"{row.recipe}: {score.value:.4f} rate {row.learning_rate:g} {row.searched}")
    if arguments.only is not None:
        return
    described = grid.model_dump(mode="json")
    described["tasks"][arguments.task]["task"]["data"] = f"<data>/{arguments.task}"
    recipes_before, rows_before = kept(path, names)
    described["recipes"] |= recipes_before
    result = {
        "script": "benchmarks/variant_scores.py",
        "grid": described,
        "rows": compared(grid, runs, rows, beyond, rows_before),
        "machine": machine("cpu"),
    }
    write_text(path, json.dumps(result, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main()

"""STS benchmark by vectors: the bare base, LoRA on all linear maps, full fine-tuning; own rate by search, three seeds.

    python benchmarks/embedding_scores.py --data ../shared/data

The score is Spearman's correlation of cosine similarity with what people said. The base is a sentence encoder already,
trained on a billion pairs (its page on the hub lists them), so the question is what 640 scored pairs add. Bare, it is
mean-pooled as an expert starts from it. Four rates a method, searched on a held-out tenth of train with one seed; the
best is trained with three seeds and scored once on validation. Intervals are bootstrap over rows, 95 %; the difference
from the bare base is paired by row, and its interval holds the spread over seeds as far as three can show it. Interrupt
it as you like: the same call goes on. The result is results/embeddings.json.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from accuracy import told
from machine import machine
from weft.answering.evaluation import predictions
from weft.answering.inference import padding_id
from weft.atomic import write_text
from weft.base.loading import load_base
from weft.comparison.comparing import Grid, compare, examples_of, predictions_of
from weft.comparison.jobs import final_jobs
from weft.model.expert import Expert
from weft.model.head import Head
from weft.model.model import Model
from weft.runs import RunFolder
from weft.tasks.contract import Example, Prediction, Task
from weft.tasks.scoring import mean_difference, score

RESULT = Path("results") / "embeddings.json"
TASK = "stsb_embedding"
SEEDS = [0, 1, 2]
ROWS = 640
RECIPES: dict[str, Any] = {
    "lora-all-linear": {
        "recipe": {"name": "lora", "rank": 8, "alpha": 16, "targets": ["all-linear"]},
        "learning_rates": [1e-4, 3e-4, 1e-3, 3e-3],
    },
    "full": {"recipe": {"name": "full"}, "learning_rates": [1e-5, 3e-5, 1e-4, 3e-4]},
}


def grid_for(data: str) -> Grid:
    """What is compared."""
    settings = {
        "name": TASK,
        "data": str((Path(data) / "stsb").resolve()),
        "max_examples": {"train": ROWS},
    }
    return Grid.model_validate(
        {
            "base": "minilm",
            "tasks": {TASK: {"task": settings, "training": {"epochs": 1, "batch_size": 32}}},
            "recipes": RECIPES,
            "seeds": SEEDS,
            "device": "cpu",
            "training": {"precision": "fp32", "base_dropout": 0.0},
        }
    )


def bare(task: Task, examples: list[Example]) -> list[Prediction]:
    """What the base says that nobody trained."""
    base = load_base("minilm")
    model = Model(base)
    model.add(Expert(TASK, {}, Head(task.spec.kind, base, task.num_labels, seed=0)))
    return predictions(
        model,
        task,
        examples,
        [task.encode(example, base.tokenizer) for example in examples],
        head=TASK,
        kind=task.spec.kind,
        members=(),
        pad_id=padding_id(base),
        device="cpu",
    )


def main() -> None:
    """Run what is missing and write the result file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", default="../shared/data")
    parser.add_argument("--runs", default="runs/embeddings")
    arguments = parser.parse_args()
    grid, runs = grid_for(arguments.data), Path(arguments.runs)
    rows = compare(grid, runs, told=told, extend=True)
    folders = {
        row.recipe: [job.folder for job in final_jobs(grid, runs, row.cell, row.learning_rate)]
        for row in rows
    }
    loaded = examples_of(RunFolder.open(folders[rows[0].recipe][0]))
    task, examples = loaded.task, loaded.splits["validation"]
    untrained = bare(task, examples)
    found = []
    for row in rows:
        ids = [example["id"] for example in examples]
        said = [predictions_of(folder, ids) for folder in folders[row.recipe]]
        apart = mean_difference(task, said, [untrained] * len(said), examples)
        found.append({**row.as_json(), "from_base": asdict(apart[row.metric])})
    described = grid.model_dump(mode="json")
    described["tasks"][TASK]["task"]["data"] = "<data>/stsb"
    scores = {name: asdict(value) for name, value in score(task, untrained, examples).items()}
    result = {
        "script": "benchmarks/embedding_scores.py",
        "grid": described,
        "base": {"n": len(examples), "scores": scores},
        "rows": found,
        "machine": machine("cpu"),
    }
    write_text(RESULT, json.dumps(result, indent=1) + "\n")
    print(f"base: {scores[task.metric]}")
    for row in found:
        print(f"{row['recipe']}: {row['scores'][task.metric]} from base {row['from_base']}")
    print(RESULT)


if __name__ == "__main__":
    main()

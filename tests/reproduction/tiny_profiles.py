"""A profile that runs in seconds: a tiny random base, a handful of rows, three steps a run."""

from pathlib import Path
from typing import Any

from weft.reproduction.profiles import BaseEntry, MergeRow, MixtureRow, Profile, profile

SHORT: dict[str, Any] = {"epochs": 1, "max_steps": 3, "batch_size": 4, "early_stopping": None}
ROWS, SCORED = 10, 8


def tiny(base: Path) -> Profile:
    """Two sets, two recipes, one of them with two rates, a mixture and a merge."""
    own = profile("demo")
    sizes = {"study": SHORT, "own": SHORT, "search": {}, "train": ROWS, "validation": SCORED}
    # The tiny tokenizer spells most words out.
    longer = {"task": {"max_length": 128, "truncate": True}}
    tasks = {
        "wnut17": own.tasks["wnut17"].model_copy(update=sizes),
        "swag": own.tasks["swag"].model_copy(update=sizes | longer),
    }
    recipes = {
        name: row.model_copy(update={"learning_rates": [1e-3, 1e-2] if name == "lora" else [1e-3]})
        for name, row in own.recipes.items()
        if name != "lora-all-linear"
    }
    gates = MixtureRow(
        experts="lora",
        settings={"layerwise": True, "width": 4},
        training={"max_steps": 2, "batch_size": 4},
        cost=1.5,
    )
    return own.model_copy(
        update={
            "tasks": tasks,
            "bases": {str(base): BaseEntry(stands_for="distilbert", difference="it is tiny")},
            "recipes": recipes,
            "mixtures": {"xlora": gates},
            "merges": {"ties": MergeRow(experts="lora", settings={"density": 0.5})},
            "training": {"base_dropout": 0.0},
            "seeds": 2,
        }
    )

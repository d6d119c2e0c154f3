"""Every recipe trains five kinds of task on the embedded base, held against a guess that looks at no input.

    python benchmarks/variant_kinds.py
    python benchmarks/variant_kinds.py --recipes lora dora --again

One run a recipe: an expert for each of five kinds that an encoder serves, all in the same batches; of embeddings see
`embedding_scores.py`. A causal language model does not fit a BERT base; every recipe trains one on a tiny GPT-2 in
`make test`. Rows are made from a seed: `choices`, `spans` and `entities` are the demo's sets; `order` (which of giver
and receiver is named first) and `fill` (masked words) hold the sentences of `entities`. Rates are the recipe's own;
heads share one.

The guess says the commonest answer of train: class, choice, tag (entity F1 0), word behind a mask, or for spans as many
first words as answers mostly have. Score, guess and their paired difference (bootstrap over rows, 95 %) go to
results/variants-kinds.json. Interrupt it as you like: the same call goes on with the recipes that are missing.
"""

import argparse
import json
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from machine import machine
from variant_scores import NOT_COMPARED, on_query_and_value
from weft.answering.prediction import predict
from weft.atomic import write_text
from weft.comparison.comparing import predictions_of
from weft.config import RecipeSettings, to_yaml
from weft.data.formats import read_rows
from weft.data.generated import write_demo_data
from weft.data.reading import load_task
from weft.demo.demonstration import GUESSES
from weft.methods.recipes import recipe_file, recipes, resolve
from weft.runs import RunFolder
from weft.tasks.contract import Example, Prediction, Task, TaskSpec
from weft.tasks.kinds.sequence_classification import SequenceClassification
from weft.tasks.scoring import paired_difference, score
from weft.training.loop import train

RESULT = Path("results") / "variants-kinds.json"
RECIPES = [
    name
    for name in recipes.names()
    if recipe_file(name).trains == "adapters" and name not in NOT_COMPARED
]
BASE = "minilm"
SEED = 0
SIZES = {"choices": (640, 200), "spans": (960, 200), "entities": (960, 200)}
"""Rows in train and validation: 80 steps for choices, whose rows are four sequences each, and 120 for the others."""
TRAINING: dict[str, Any] = {
    "epochs": 2,
    "batch_size": 16,
    "head_learning_rate": 3e-3,
    "precision": "bf16",
    "base_dropout": 0.0,
}
SETTINGS: dict[str, Any] = {
    "base": BASE,
    "seed": SEED,
    "rows": {name: list(sizes) for name, sizes in SIZES.items()},
    "training": TRAINING,
}
"""What a kept result must agree with."""


def write_tasks(folder: Path) -> list[dict[str, str]]:
    """Write all five sets into `folder`; what a run's `tasks` say of them."""
    write_demo_data(folder, SEED, SIZES)
    for name, kind in (("order", "sequence_classification"), ("fill", "masked_lm")):
        (folder / name).mkdir()
        spec = TaskSpec(name=name, kind=kind, format="jsonl", max_length=64)
        (folder / f"{name}.yaml").write_text(to_yaml(spec), encoding="utf-8")
    for split in ("train", "validation"):
        sentences = [row for row, _ in read_rows(folder / "entities" / f"{split}.conll")]
        for name in ("order", "fill"):
            lines = [
                json.dumps({"text": " ".join(row["tokens"]), "label": _first_named(row["tags"])})
                for row in sentences
            ]
            (folder / name / f"{split}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return [
        {"name": str(path), "data": str(folder / path.stem.removeprefix("demo_"))}
        for path in sorted(folder.glob("*.yaml"))
    ]


def _first_named(tags: Sequence[str]) -> str:
    return next(tag for tag in tags if tag != "O").removeprefix("B-")


def measure(name: str, folder: Path) -> dict[str, Any]:
    """Train one recipe on all kinds in an empty folder; by kind its score, the guess's, and how much higher it is."""
    recipe = RecipeSettings.model_validate(on_query_and_value(name))
    rate = resolve(recipe).learning_rate
    run = {
        "base": BASE,
        "tasks": write_tasks(folder),
        "recipe": recipe.model_dump(),
        "training": {**TRAINING, "learning_rate": rate},
        "seed": SEED,
        "device": "cpu",
    }
    started = time.perf_counter()
    parts = train(run, out=folder / "run").parts()
    seconds = round(time.perf_counter() - started)
    return {"learning_rate": rate, "seconds": seconds, "kinds": dict(map(_measured, parts))}


def _measured(part: RunFolder) -> tuple[str, dict[str, Any]]:
    """The kind of one task, and how its expert did."""
    settings = part.run.task
    assert settings is not None
    loaded = load_task(settings, splits=["train", "validation"], seed=SEED)
    kind, task = loaded.task.spec.kind, loaded.task
    answers, examples = loaded.splits["train"], loaded.splits["validation"]
    if kind == "masked_lm":
        return kind, _compared(*_hidden_words(part, answers, examples))
    said = predictions_of(part.path, [example["id"] for example in examples])
    return kind, _compared(task, said, answers, examples)


def _hidden_words(
    part: RunFolder, train: Sequence[Example], examples: Sequence[Example]
) -> tuple[Task, list[Prediction], Sequence[Example], Sequence[Example]]:
    """One hidden word of each validation row as a classification: task, answers, train, rows."""
    rng = random.Random(SEED)
    inputs, rows = [], []
    for example in examples:
        words = example["text"].split()
        at = rng.randrange(len(words))
        rows.append({"id": example["id"], "label": words[at]})
        words[at] = "[MASK]"
        inputs.append({"id": example["id"], "text": " ".join(words)})
    said = [
        {"id": found["id"], "label": found["masks"][0]["tokens"][0]["token"]}
        for found in predict(part.path, inputs, device="cpu")
    ]
    known = [{"id": "", "label": word} for row in train for word in row["text"].split()]
    labels = sorted({row["label"] for row in (*rows, *said, *known)})
    spec = TaskSpec(name="fill", kind="sequence_classification")
    return SequenceClassification(spec, labels), said, known, rows


def _compared(
    task: Task, said: list[Prediction], train: Sequence[Example], examples: Sequence[Example]
) -> dict[str, Any]:
    # A class is guessed as a choice is: the commonest label.
    guess = GUESSES.get(task.spec.kind, GUESSES["multiple_choice"])(train)
    guessed = [guess(example) for example in examples]
    metric = task.metric
    return {
        "metric": metric,
        "score": asdict(score(task, said, examples)[metric]),
        "guess": score(task, guessed, examples, resamples=0)[metric].value,
        "difference": asdict(paired_difference(task, said, guessed, examples)[metric]),
    }


def kept() -> dict[str, Any]:
    """What the result file says of each recipe under these very settings."""
    if not RESULT.is_file():
        return {}
    found = json.loads(RESULT.read_text(encoding="utf-8"))
    return found["recipes"] if found["settings"] == SETTINGS else {}


def write(rows: dict[str, Any]) -> None:
    """Write the result file, recipes in the registry's order."""
    result = {
        "script": "benchmarks/variant_kinds.py",
        "settings": SETTINGS,
        "recipes": {name: rows[name] for name in RECIPES if name in rows},
        "machine": machine("cpu"),
    }
    write_text(RESULT, json.dumps(result, indent=1) + "\n")


def main() -> None:
    """Run what is missing and write the result file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--recipes", nargs="*", choices=RECIPES, default=RECIPES)
    parser.add_argument("--again", action="store_true", help="Train anew what is already there.")
    arguments = parser.parse_args()
    for name in arguments.recipes:
        found = None if arguments.again else kept().get(name)
        if found is None:
            with tempfile.TemporaryDirectory() as made:
                found = {**measure(name, Path(made)), "commit": machine("cpu")["commit"]}
            # Read again: another process may have added recipes meanwhile.
            write({**kept(), name: found})
        told = [
            f"{kind} {own['score']['value']:.3f} (guess {own['guess']:.3f}, "
            f"at least {own['difference']['low']:+.3f})"
            for kind, own in found["kinds"].items()
        ]
        print(f"{name}: {', '.join(told)}, {found['seconds']} s", flush=True)
    print(RESULT)


if __name__ == "__main__":
    main()

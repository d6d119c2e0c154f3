"""What experts did to their base: the reports of results/analysis/, a folder for each group of questions.

    python benchmarks/analysis.py --data ../shared/data [--seeds 0 1 2] [--only weights states probes ...]

On WNUT17, SQuAD and CODAH: LoRA on query and value, LoRA on all linear maps, and full training, each at the rate that
results/accuracy-*.json found for it; the experts on query and value merged, and mixed by two gates. All seeds are asked
about weights, costs and gates; states and probes, which read texts layer by layer, of every way as well. Rows are few
(`merge_runs.py`), so that scores are below those of docs/results/accuracy.md. A finished run is never repeated and a
question that is answered is not asked again: interrupt it as you like.
"""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gates_runs import RATE, Gating
from machine import machine
from merge_runs import LORA, ROWS, SCORED, SEEDS, TASKS, Study
from merge_scores import merged
from weft.analysis.analyze import analyze
from weft.atomic import make_folder, write_text
from weft.reporting.writers import FIGURES
from weft.runs import RunFolder
from weft.scoped import listening

FOLDER = Path("results") / "analysis"
WAYS: dict[str, tuple[Mapping[str, Any], Mapping[str, float]]] = {
    "all-linear": (
        LORA | {"targets": ["all-linear"]},
        {"wnut17": 1e-3, "squad": 2e-3, "swag": 5e-4},
    ),
    "full": ({"name": "full"}, {"wnut17": 2e-4, "squad": 2e-4, "swag": 5e-5}),
}
"""How a task is trained beside LoRA on query and value, and its rates."""
MERGE = "soups"
"""Keeps the most of the task that it keeps least of (docs/results/merges.md)."""
MIXTURES: dict[str, Mapping[str, Any]] = {
    "early_pass": {"mixture": {"name": "early_pass"}, "training": {"learning_rate": 1e-3}},
    "xlora": {
        "mixture": {"name": "xlora", "layerwise": True, "balance": "none"},
        "training": {"learning_rate": RATE},
    },
}


@dataclass(frozen=True)
class Part:
    """Questions that are asked together, and of whom."""

    questions: tuple[str, ...]
    of: tuple[str, ...] = ("query-value", *WAYS)


PARTS = {
    "weights": Part(
        ("sizes", "spectra", "amplification", "intruders", "subspaces", "interference", "whole"),
        ("query-value", *WAYS, "merge"),
    ),
    "states": Part(("cka", "svcca", "geometry", "displacement", "contribution", "space", "lens")),
    "needed": Part(("directions", "leftout"), ("query-value", "all-linear")),
    "costs": Part(("forgetting", "similarity", "merging"), ("query-value", *WAYS)),
    "gates": Part(("gates", "specialisation"), tuple(MIXTURES)),
    "probes": Part(("structure", "probes", "gravity"), ("query-value", *WAYS, *MIXTURES)),
    "dimension": Part(("dimension", "ranks"), ("query-value",)),
}


def runs_of(way: str, study: Study, seed: int) -> list[RunFolder]:
    """The runs of one way and one seed, trained or merged where they are not there."""
    if way in WAYS:
        recipe, rates = WAYS[way]
        return [study.other(way, recipe, rates[task], task, seed) for task in TASKS]
    own = [study.own(task, seed) for task in TASKS]
    if way == "merge":
        return merged(study, f"tasks-{MERGE}-seed{seed}", own, MERGE).parts()
    if way in MIXTURES:
        return [Gating(study, study.runs / "mixtures").run(MIXTURES[way], seed)]
    return own


def timed(part: str, name: str, begun: float) -> None:
    """A line for each question as it begins."""
    print(f"{time.monotonic() - begun:6.0f} s  {part}: {name}", flush=True)


def ask(name: str, study: Study, seeds: Sequence[int], data: Path) -> None:
    """One part's report, and how it was made beside it."""
    part, folder = PARTS[name], FOLDER / name
    runs = [run.path for way in part.of for seed in seeds for run in runs_of(way, study, seed)]
    begun = time.monotonic()
    made = study.runs / "reports" / name
    found = analyze(
        runs,
        part.questions,
        out=made,
        data=data,
        progress=lambda _, __, question: timed(name, question, begun),
    )
    for path in [*found.files, *sorted((made / FIGURES).iterdir())]:
        place = folder / path.relative_to(made)
        make_folder(place.parent)
        place.write_bytes(path.read_bytes())
    settings = {
        "script": "benchmarks/analysis.py",
        "questions": part.questions,
        "of": part.of,
        "seeds": list(seeds),
        "rows": ROWS,
        "scored": SCORED,
        "machine": machine("cpu"),
    }
    write_text(folder / "settings.json", json.dumps(settings, indent=1) + "\n")


def main() -> None:
    """Every part that is asked for."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--data", type=Path, default=Path("../shared/data"))
    asked.add_argument("--runs", type=Path, default=Path("runs/analysis"))
    asked.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    asked.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    args = asked.parse_args()
    study = Study(args.data.resolve(), args.runs.resolve())
    with listening(lambda words: print(f"          {words}", flush=True)):
        for name in args.only:
            ask(name, study, args.seeds, args.data)


if __name__ == "__main__":
    main()

"""What every recipe costs beside plain LoRA: parameters, time and memory of a training step, time to build.

    python benchmarks/variants.py --data ../shared/data

Embedded base, WNUT17, batch 16, rank 8 on query + value where the rank is free, otherwise each recipe's own defaults.
Recipe and plain LoRA train side by side in one process and one thread, on the same maps, step by step on the same rows,
by processor time; one ratio is the median over steps, the other that of the sums, in which steps that are seldom (a
rank that grows, singular values taken anew) have their share. LoRAM's base is the whole one here, for what a pruned one
saves depends on how much is pruned. Memory is that of a fresh process for each. Building is timed on maps of
BERT-large's shape, where decompositions of W0 cost the most. Interrupt it as you like: the same call goes on.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from machine import machine
from weft.config import RecipeSettings, Run
from weft.methods.recipes import recipe_file, recipes, resolve
from weft.model.expert import make_adapters
from weft.training.assembly import Session, assemble
from weft.training.finishing import peak_memory_mib
from weft.training.settings import completed
from weft.training.stepping import Stepper

WARM_UP = 5
RANK = 8
"""Where a recipe has none of its own."""
SHAPES = {"query": (1024, 1024), "ffn_in": (4096, 1024)}
"""Maps of BERT-large by role."""


def session_of(recipe: dict[str, Any], data: str, steps: int, precision: str) -> Session:
    """A training of one recipe, ready to step."""
    run = Run.model_validate(
        {
            "base": "minilm",
            "task": {
                "name": "wnut17",
                "data": f"{data}/wnut17",
                "max_examples": {"train": 16 * (steps + WARM_UP), "validation": 8},
            },
            "recipe": recipe,
            "training": {"max_steps": steps + WARM_UP, "precision": precision},
            "device": "cpu",
        }
    )
    session = assemble(completed(run), torch.device("cpu"))
    torch.manual_seed(0)
    return session


def plain_beside(name: str) -> dict[str, Any]:
    """Plain LoRA on the maps that a recipe adapts."""
    return {"name": "lora", "targets": resolve(RecipeSettings(name=name)).settings.targets}


def step_seconds(session: Session, stepper: Stepper, step: int) -> float:
    """How long one optimizer step takes, by the processor's clock: other programs do not change it."""
    started = time.process_time()
    stepper.step(session.learners, step)
    return time.process_time() - started


def build_seconds(name: str) -> dict[str, float]:
    """Seconds to start one adapter by map, on BERT-large's shapes."""
    recipe = resolve(RecipeSettings(name=name))
    rank = getattr(recipe.spec, "rank", RANK)
    found = {}
    for role, shape in SHAPES.items():
        weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)) / 32
        times = []
        for _ in range(3):
            started = time.perf_counter()
            make_adapters(
                recipe,
                {"map": weight},
                {"map": rank},
                torch.Generator().manual_seed(0),
                torch.float32,
            )
            times.append(time.perf_counter() - started)
        found[role] = round(statistics.median(times), 4)
    return found


def measure(name: str, data: str, steps: int, precision: str) -> dict[str, Any]:
    """One recipe beside plain LoRA."""
    sessions = {"lora": session_of(plain_beside(name), data, steps, precision)}
    sessions["own"] = session_of({"name": name}, data, steps, precision)
    steppers = {side: Stepper(own, Accelerator(cpu=True)) for side, own in sessions.items()}
    pairs: list[tuple[float, float]] = []
    for step in range(steps + WARM_UP):
        order = list(sessions) if step % 2 else list(reversed(sessions))
        times = {side: step_seconds(sessions[side], steppers[side], step) for side in order}
        if step >= WARM_UP:
            pairs.append((times["own"], times["lora"]))
    own_seconds, plain_seconds = zip(*pairs, strict=True)
    ratios = [own / plain for own, plain in pairs]
    low, _, high = statistics.quantiles(ratios, n=4)
    expert = sessions["own"].learners[0].experts[0][0]
    return {
        "recipe": name,
        "adapter_parameters": expert.adapter_parameters(),
        "seconds_per_step": round(statistics.median(own_seconds), 4),
        "step_over_lora": round(statistics.median(ratios), 3),
        "sum_over_lora": round(sum(own_seconds) / sum(plain_seconds), 3),
        "step_over_lora_quartiles": [round(low, 3), round(high, 3)],
        "build_seconds": build_seconds(name),
    }


def peak_memory(recipe: dict[str, Any], data: str, precision: str) -> float:
    """Peak memory in MiB of a fresh process that takes ten steps."""
    own = json.dumps(recipe)
    command = [sys.executable, __file__, "--data", data, "--only", own, "--precision", precision]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.strip().splitlines()[-1])


def only(recipe: dict[str, Any], data: str, precision: str) -> None:
    """Take ten steps and print this process's peak memory."""
    session = session_of(recipe, data, 5, precision)
    stepper = Stepper(session, Accelerator(cpu=True))
    for step in range(5 + WARM_UP):
        stepper.step(session.learners, step)
    print(peak_memory_mib(torch.device("cpu")))


def main() -> None:
    """Measure what the command line asks for and write the result file."""
    woven = [name for name in recipes.names() if recipe_file(name).trains == "adapters"]
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", default="../shared/data")
    parser.add_argument("--recipes", nargs="*", default=woven, choices=woven)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--only", default=None, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    data = str(Path(arguments.data).resolve())
    torch.set_num_threads(1)
    if arguments.only:
        only(json.loads(arguments.only), data, arguments.precision)
        return
    kept = Path("runs") / f"variants-cost-{arguments.precision}-{arguments.steps}.jsonl"
    lines = kept.read_text(encoding="utf-8").splitlines() if kept.is_file() else []
    done = {row["recipe"]: row for row in map(json.loads, lines)}
    results = []
    for name in arguments.recipes:
        if name in done:
            results.append(done[name])
            continue
        result = measure(name, data, arguments.steps, arguments.precision)
        memory, plain = (
            peak_memory(recipe, data, arguments.precision)
            for recipe in ({"name": name}, plain_beside(name))
        )
        result |= {"peak_memory_mib": round(memory), "memory_over_lora": round(memory / plain, 3)}
        print(json.dumps(result), flush=True)
        kept.parent.mkdir(exist_ok=True)
        with kept.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")
        results.append(result)
    path = Path("results") / "variants-cost-cpu.json"
    written = {
        "script": "benchmarks/variants.py",
        "settings": {
            "steps": arguments.steps,
            "precision": arguments.precision,
            "batch_size": 16,
            "built": {role: list(shape) for role, shape in SHAPES.items()},
        },
        "results": results,
        "machine": machine("cpu"),
    }
    path.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    print(path)


if __name__ == "__main__":
    main()

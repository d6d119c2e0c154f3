"""Forward overhead of routed experts over the bare base, the crossover of the paths, and the cost of loading experts.

    python benchmarks/overhead.py

Embedded base, real text: a batch of 32 sequences of 64 tokens. Peers: PEFT's active
adapter and its mixed batch (`adapter_names`). All sides alternate within one process; figures are medians of ratios.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import AutoModel

from machine import machine
from weft.base.loading import Base, load_base
from weft.config import RecipeSettings
from weft.lowrank.pool import along
from weft.lowrank.route import Route
from weft.methods.recipes import resolve
from weft.model.expert import Expert, build
from weft.model.model import Model

ROWS, TOKENS, RANK = 32, 64, 8
TARGETS = ("query", "value")
EXPERTS = 25
CROSSOVER = (1, 2, 4, 8, 16, 25)
BARE = "bare base"


def expert(name: str, base: Base, seed: int) -> Expert:
    """A LoRA of rank 8 on query and value that changes something."""
    recipe = resolve(
        RecipeSettings.model_validate({"name": "lora", "rank": RANK, "targets": TARGETS})
    )
    made = build(name, base, recipe, None, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for adapter in made.adapters.values():
            adapter.get_parameter("B").normal_(std=0.02, generator=generator)
    return made


def inputs_of(base: Base, device: str) -> dict[str, Tensor]:
    """A full batch of real text: the README's own words, over and over."""
    text = Path("README.md").read_text(encoding="utf-8") * 20
    ids = base.tokenizer(text, add_special_tokens=False)["input_ids"]
    while len(ids) < ROWS * TOKENS:
        ids = ids * 2
    batch = torch.tensor(ids[: ROWS * TOKENS]).view(ROWS, TOKENS)
    return {
        "input_ids": batch.to(device),
        "attention_mask": torch.ones_like(batch).to(device),
        "token_type_ids": torch.zeros_like(batch).to(device),
    }


def seconds(call: Callable[[], Any], device: str) -> float:
    """How long one call takes."""
    started = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def compare(sides: dict[str, Callable[[], Any]], rounds: int, device: str) -> dict[str, float]:
    """Median over rounds of each side's time over the bare base's in the same round."""
    ratios: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 3):
        times = {name: seconds(call, device) for name, call in sides.items()}
        if number >= 3:
            for name, value in times.items():
                ratios[name].append(value / times[BARE])
    return {name: round(statistics.median(values), 4) for name, values in ratios.items()}


def load_times(base: Base, count: int = 512) -> dict[str, float]:
    """Milliseconds to add the 2nd and the last of `count` experts, medians over neighbours."""
    model = Model(base)
    made = [expert(f"load-{number}", base, number) for number in range(count)]
    times = []
    for one in made:
        started = time.perf_counter()
        model.add(one)
        times.append(1000 * (time.perf_counter() - started))
    for one in made:
        model.remove(one.name)
    early, late = statistics.median(times[1:6]), statistics.median(times[-5:])
    return {
        "2nd_ms": round(early, 3),
        f"{count}th_ms": round(late, 3),
        "ratio": round(late / early, 3),
    }


def measure(precision: str, device: str, rounds: int) -> dict[str, Any]:
    """Everything at one precision."""
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    base = load_base("minilm", dtype=dtype, device=device)
    bare = load_base("minilm", dtype=dtype, device=device).trunk
    inputs = inputs_of(base, device)
    model = Model(base)
    names = [f"expert-{number}" for number in range(EXPERTS)]
    for number, name in enumerate(names):
        model.add(expert(name, base, number).to(device))
    by_row = [names[row % EXPERTS] for row in range(ROWS)]
    held = model.snapshot
    one, mixed = Route.everywhere(names[0]), Route.by_sequence(by_row)
    peer = peft_model(base, names, dtype, device)
    sides: dict[str, Callable[[], Any]] = {
        BARE: lambda: bare(**inputs),
        "one LoRA": lambda: held.states(inputs, one),
        "25 experts in one batch": lambda: held.states(inputs, mixed),
        "PEFT, one LoRA": lambda: peer(**inputs),
        "PEFT, 25 experts in one batch": lambda: peer(**inputs, adapter_names=by_row),
    }

    def forced(path: str, route: Route) -> Callable[[], Tensor]:
        def call() -> Tensor:
            with along(path):
                return held.states(inputs, route)

        return call

    with torch.inference_mode():
        overhead = compare(sides, rounds, device)
        crossover = []
        for count in CROSSOVER:
            route = Route.by_sequence([names[row % count] for row in range(ROWS)])
            paths = {path: forced(path, route) for path in ("dense", "grouped", "segments")}
            found = compare({BARE: sides[BARE], **paths}, rounds // 2, device)
            crossover.append({"experts": count, "ranks": count * RANK, **found})
    load = load_times(load_base("minilm", dtype=dtype, device=device))
    return {"precision": precision, "overhead": overhead, "crossover": crossover, "load": load}


def peft_model(base: Base, names: list[str], dtype: torch.dtype, device: str) -> PeftModel:
    """The same base in PEFT with an adapter for each name."""
    folder = base.files[0].parent
    plain = AutoModel.from_pretrained(
        folder, dtype=dtype, attn_implementation=base.config._attn_implementation
    )
    config = LoraConfig(r=RANK, lora_alpha=16, target_modules=["query", "value"])
    model = get_peft_model(plain.to(device), config, adapter_name=names[0])
    for name in names[1:]:
        model.add_adapter(name, config)
    return model.eval()


def main() -> None:
    """Measure what the command line asks for and write the result file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument(
        "--precision", nargs="*", default=["fp32", "bf16"], choices=["fp32", "bf16"]
    )
    parser.add_argument("--rounds", type=int, default=31)
    arguments = parser.parse_args()
    results = []
    for precision in arguments.precision:
        results.append(measure(precision, arguments.device, arguments.rounds))
        print(json.dumps(results[-1], indent=1), flush=True)
    written = {
        "script": "benchmarks/overhead.py",
        "settings": {"rows": ROWS, "tokens": TOKENS, "rank": RANK, "rounds": arguments.rounds},
        "results": results,
        "machine": machine(arguments.device),
    }
    path = Path("results") / f"overhead-{arguments.device}.json"
    path.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    print(path)


if __name__ == "__main__":
    main()

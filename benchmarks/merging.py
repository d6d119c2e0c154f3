"""Merging: seconds and memory of every method beside PEFT's `add_weighted_adapter` of its kind and mergekit.

    python benchmarks/merging.py

25 experts of rank 8 with drawn factors on query and value of a trunk shaped as BERT-large (maps of 1024 x 1024), equal
weights. Each map is merged for itself on both sides, so a few layers are timed and `layers` says how many; the seconds
of all 24 are those times 24 / layers. mergekit merges the same experts as dense checkpoints of one layer
(`merging_mergekit.py`), so its seconds are multiplied by `layers` before they are compared. All sides alternate within
one process, and seconds are of its processor time. Memory is what the process's resident set rises
above where it stood, in one call of its own (VmHWM, reset before, with the heap given back; Linux with glibc).
"""

import argparse
import ctypes
import gc
import json
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import BertConfig, BertModel

from machine import machine
from merging_mergekit import mergekit_call, write_checkpoints
from weft.lowrank.product import Pair
from weft.methods.merges import merges

EXPERTS, RANK = 25, 8
ALL_LAYERS = 24
TARGETS = ["query", "value"]
WEIGHTS = [1 / EXPERTS] * EXPERTS
DENSITY = 0.2
MERGED = "merged"
PEER = "svd"
"""PEFT's kind that every method is compared with besides its own."""


@dataclass(frozen=True)
class Case:
    """One of our methods, and PEFT's kind that does the same."""

    name: str
    kind: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    mergekit: str | None = None
    """mergekit's method that does the same, on dense checkpoints."""

    @property
    def label(self) -> str:
        """How the result file calls it."""
        said = ", ".join(str(value) for key, value in self.settings.items() if key != "density")
        return f"{self.name} ({said})" if said else self.name


SPARSE = {"density": DENSITY}
FACTORS = {**SPARSE, "on": "factors"}
CASES = [
    Case("cat", "cat", mergekit="linear"),
    Case("svd", "svd", mergekit="linear"),
    Case("sum"),
    Case("task_arithmetic", mergekit="task_arithmetic"),
    Case("linear", "linear"),
    Case("ties", "ties_svd", SPARSE, "ties"),
    Case("ties", "ties", FACTORS),
    Case("magnitude_prune", "magnitude_prune_svd", SPARSE),
    Case("magnitude_prune", "magnitude_prune", FACTORS),
    Case("dare", "dare_linear_svd", SPARSE, "dare_linear"),
    Case("dare", "dare_linear", FACTORS),
    Case("dare", "dare_ties_svd", {**SPARSE, "then": "ties"}, "dare_ties"),
    Case("dare", "dare_ties", {**FACTORS, "then": "ties"}),
    Case("della", None, SPARSE, "della_linear"),
    Case("breadcrumbs", None, SPARSE, "breadcrumbs"),
    Case("lego"),
    Case("knots"),
    Case("tsv"),
    Case("iso_c"),
]


def peft_model(layers: int) -> PeftModel:
    """A trunk with maps of BERT-large's shape and the experts as PEFT's adapters."""
    config = BertConfig(
        vocab_size=16,
        hidden_size=1024,
        num_hidden_layers=layers,
        num_attention_heads=16,
        intermediate_size=4096,
    )
    lora = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=TARGETS)
    model = get_peft_model(
        BertModel(config, add_pooling_layer=False), lora, adapter_name="expert-0"
    )
    for number in range(1, EXPERTS):
        model.add_adapter(f"expert-{number}", lora)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_" in name:
                value.normal_(std=0.02, generator=draw)
    return model


def experts_of(model: PeftModel) -> list[dict[str, Pair]]:
    """The same factors for our side; the scale is 1."""
    found: list[dict[str, Pair]] = [{} for _ in range(EXPERTS)]
    for name, module in model.named_modules():
        if hasattr(module, "lora_A") and hasattr(module, "lora_B"):
            for number, own in enumerate(found):
                A, B = module.lora_A, module.lora_B
                assert isinstance(A, torch.nn.ModuleDict)
                assert isinstance(B, torch.nn.ModuleDict)
                adapter = f"expert-{number}"
                own[name] = A[adapter].weight.detach(), B[adapter].weight.detach()  # pyright: ignore
    return found


def ours(case: Case, experts: list[dict[str, Pair]]) -> Callable[[], Any]:
    """A call of our merge."""
    kind = merges.load(case.name)
    merge = kind(kind.settings_type(**case.settings))
    return lambda: merge.merge(experts, WEIGHTS)


def theirs(kind: str, model: PeftModel) -> Callable[[], Any]:
    """A call of PEFT's."""
    names = [f"expert-{number}" for number in range(EXPERTS)]

    def call() -> None:
        model.add_weighted_adapter(names, WEIGHTS, MERGED, kind, density=DENSITY)

    return call


def seconds(call: Callable[[], Any], model: PeftModel) -> float:
    """How long one call takes; PEFT's result is deleted afterwards."""
    started = time.process_time()
    call()
    took = time.process_time() - started
    if MERGED in model.peft_config:
        model.delete_adapter(MERGED)
    return took


def peak_mib(call: Callable[[], Any], model: PeftModel) -> float:
    """How far the resident set rises in one call."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = _status("VmRSS")
    seconds(call, model)
    return round((_status("VmHWM") - before) / 1024, 1)


def _status(key: str) -> int:
    """A line of the process's status, in KiB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))


def measure(layers: int, rounds: int, folder: Path) -> list[dict[str, Any]]:
    """Medians over rounds, each of which runs all sides once; checkpoints are written to `folder`."""
    model = peft_model(layers)
    experts = experts_of(model)
    sides = {case.label: ours(case, experts) for case in CASES}
    kinds = {case.kind for case in CASES if case.kind is not None}
    sides |= {f"PEFT {kind}": theirs(kind, model) for kind in sorted(kinds)}
    if find_spec("mergekit") is not None:
        paths = write_checkpoints(experts, folder)
        for method in sorted({case.mergekit for case in CASES if case.mergekit is not None}):
            sides[f"mergekit {method}"] = mergekit_call(method, paths, WEIGHTS, DENSITY)
    peaks = {name: peak_mib(call, model) for name, call in sides.items()}
    times: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        for name, call in sides.items():
            times[name].append(seconds(call, model))
        print(f"round {number + 1} of {rounds}", flush=True)
    return [_row(case, ours(case, experts)().error, times, peaks, layers) for case in CASES]


def _row(
    case: Case,
    error: float,
    times: dict[str, list[float]],
    peaks: dict[str, float],
    layers: int,
) -> dict[str, Any]:
    def faster(peer: str, factor: int = 1) -> float:
        pairs = zip(times[peer], times[case.label], strict=True)
        return round(statistics.median(factor * theirs / own for theirs, own in pairs), 3)

    row = {
        "method": case.label,
        "seconds": round(statistics.median(times[case.label]), 4),
        "peak_mib": peaks[case.label],
        "relative_error": round(error, 4),
        "times_faster_than_peft_svd": faster(f"PEFT {PEER}"),
        "peft_kind": case.kind,
    }
    if case.kind is not None:
        own = f"PEFT {case.kind}"
        row["peft_seconds"] = round(statistics.median(times[own]), 4)
        row["peft_peak_mib"] = peaks[own]
        row["times_faster_than_peft"] = faster(own)
    kit = f"mergekit {case.mergekit}"
    if kit in times:
        row["mergekit_method"] = case.mergekit
        row["mergekit_seconds"] = round(layers * statistics.median(times[kit]), 4)
        row["mergekit_peak_mib"] = peaks[kit]
        row["times_faster_than_mergekit"] = faster(kit, layers)
    return row


def _version(package: str) -> str | None:
    return None if find_spec(package) is None else version(package)


def main() -> None:
    """Measure and write the result file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    # PEFT warns of what it does not merge; nothing of it is here.
    warnings.simplefilter("ignore")
    with TemporaryDirectory() as folder:
        results = measure(arguments.layers, arguments.rounds, Path(folder))
    written = {
        "script": "benchmarks/merging.py",
        "settings": {
            "experts": EXPERTS,
            "rank": RANK,
            "maps": f"{' and '.join(TARGETS)}, 1024 x 1024",
            "layers": arguments.layers,
            "all_layers": ALL_LAYERS,
            "density": DENSITY,
            "rounds": arguments.rounds,
            "seconds": "processor time",
            "memory": "rise of the resident set above where it stood",
        },
        "peers": {"peft": version("peft"), "mergekit": _version("mergekit")},
        "results": results,
        "machine": machine(),
    }
    path = Path("results") / "merging-cpu.json"
    path.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()

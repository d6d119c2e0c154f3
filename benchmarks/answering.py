"""Answering many rows: `weft.predict` beside transformers and ONNX Runtime on the same expert's merged weights.

    python benchmarks/answering.py --data ../shared/data

From rows to answers, one core. Every side encodes by the task's own `encode` and decodes by its `decode`, so what
differs is how batches are made and run: weft's own (the expert folded, batches by tokens, of several sizes), a loop
over transformers' task class with the merged weights, rows sorted by length (the fastest of several batch sizes), ONNX
Runtime on the graph as `weft export --to onnx` writes it, and on the same graph with attention and the rest fused by
its own optimiser. Answers are compared before anything is timed. Processor time of the process; sides alternate;
ratios of medians, and by round.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnxruntime.transformers.fusion_options import FusionOptions
from onnxruntime.transformers.optimizer import optimize_model

import weft
from machine import machine
from weft.answering.evaluation import rows_of
from weft.answering.exported import Exported
from weft.answering.inference import TOKENS_PER_BATCH, units_of
from weft.answering.inputs import checked_input
from weft.answering.prediction import predict
from weft.model.batching import Item
from weft.model.folded import Folded
from weft.model.graph import GRAPH
from weft.storage.loading import LoadedRun, load_run_model

RESULT = Path("results") / "answering-cpu.json"
ROWS = {"squad": 48, "wnut17": 192}
BATCHES = (8, 16, 32)
"""Rows in a batch of the transformers loop; the fastest counts."""
TOKENS = (512, 2048, 4096)
"""Padded tokens of a batch that are tried beside the default."""
PEERS = ("transformers, sorted", "ONNX Runtime", "ONNX Runtime, fused")
TOLERANCE = 1e-3
"""Of probabilities, before anything is timed; labels, places and texts are equal."""


def trained(task: str, data: Path, folder: Path) -> LoadedRun:
    """A run of a few steps: time does not depend on what was learnt."""
    run = weft.train(
        {
            "base": "minilm",
            "task": {
                "name": task,
                "data": str(data / task),
                "max_examples": {"train": 64, "validation": ROWS[task]},
            },
            "recipe": {"name": "lora", "targets": ["all-linear"]},
            "training": {"max_steps": 8, "batch_size": 8, "learning_rate": 1e-3},
            "device": "cpu",
        },
        out=folder / "run",
    )
    return load_run_model(run.path, device="cpu")


def inputs_for(loaded: LoadedRun) -> list[dict[str, Any]]:
    """The validation rows without their answers."""
    rows, _ = rows_of(loaded.run, loaded.card, loaded.model.base, "validation")
    task = loaded.task
    hidden = {task.target}
    return [
        {key: value for key, value in example.items() if key not in hidden}
        for example in rows.splits["validation"]
    ]


def transformers_loop(
    loaded: LoadedRun, inputs: Sequence[Any], batch: int
) -> Callable[[], list[Any]]:
    """A loop as people write it: merged task class, sorted sequences, padding to the longest of a batch."""
    folded = Folded(loaded.model, loaded.name)
    kind, task, base = folded.head.kind, loaded.task, loaded.model.base
    model = folded.head.assembled(folded.trunk, base.pooler).eval()

    def answers() -> list[Any]:
        examples = [checked_input(task, value, at) for at, value in enumerate(inputs)]
        records = [task.encode(example, base.tokenizer) for example in examples]
        flat = [
            (row, unit.record)
            for row, record in enumerate(records)
            for unit in units_of(Item(loaded.name, task.spec.kind, loaded.members, record))
        ]
        order = sorted(range(len(flat)), key=lambda at: -len(flat[at][1]["input_ids"][0]))
        found: list[Any] = [None] * len(flat)
        with torch.inference_mode():
            for start in range(0, len(order), batch):
                chosen = order[start : start + batch]
                own = [flat[at][1] for at in chosen]
                names = [name for name in ("input_ids", "token_type_ids") if name in own[0]]
                padded = base.tokenizer.pad(
                    [{name: one[name][0] for name in names} for one in own], return_tensors="pt"
                )
                logits = kind.logits(model(**padded)).numpy()
                for at, said in zip(chosen, logits, strict=True):
                    found[at] = said[: len(flat[at][1]["input_ids"][0])]
        parts: list[list[Any]] = [[] for _ in records]
        for (row, _), said in zip(flat, found, strict=True):
            parts[row].append(said)
        return [
            task.decode(example, record, own)
            for example, record, own in zip(examples, records, parts, strict=True)
        ]

    return answers


def fused(folder: Path, config: Any) -> None:
    """ONNX Runtime's own fusions, in the graph's place."""
    options = FusionOptions("bert")
    made = optimize_model(
        str(folder / GRAPH),
        model_type="bert",
        num_heads=config.num_attention_heads,
        hidden_size=config.hidden_size,
        optimization_options=options,
        opt_level=1,
        only_onnxruntime=False,
    )
    print("fused:", {name: n for name, n in made.get_fused_operator_statistics().items() if n})
    made.save_model_to_file(str(folder / GRAPH))


def check(ours: list[Any], theirs: list[Any], name: str) -> None:
    """Refuse to time sides that answer otherwise."""

    def same(one: Any, other: Any) -> bool:
        if isinstance(one, dict):
            return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
        if isinstance(one, list):
            return len(one) == len(other) and all(map(same, one, other))
        if isinstance(one, float):
            return bool(np.isclose(one, other, rtol=0, atol=TOLERANCE))
        return one == other

    wrong = sum(not same(one, other) for one, other in zip(ours, theirs, strict=True))
    if wrong:
        raise SystemExit(f"{name} answers {wrong} of {len(ours)} rows otherwise")


def spent(call: Callable[[], Any]) -> float:
    """Processor time of one call, all threads."""
    start = time.process_time()
    call()
    return time.process_time() - start


def measure(task: str, data: Path, rounds: int) -> dict[str, Any]:
    """All sides on one task, in turns."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        loaded = trained(task, data, folder)
        inputs = inputs_for(loaded)
        for name in ("plain", "fused"):
            weft.export(folder / "run", folder / name, "onnx")
        fused(folder / "fused", loaded.model.base.config)
        plain, quick = Exported(folder / "plain"), Exported(folder / "fused")
        sides: dict[str, Callable[[], list[Any]]] = {
            "weft": lambda: predict(loaded, inputs),
            **{
                f"weft, {tokens} tokens": partial(predict, loaded, inputs, tokens_per_batch=tokens)
                for tokens in TOKENS
            },
            **{
                f"{PEERS[0]}, {batch}": transformers_loop(loaded, inputs, batch)
                for batch in BATCHES
            },
            PEERS[1]: lambda: plain.predict(inputs),
            PEERS[2]: lambda: quick.predict(inputs),
        }
        ours = sides["weft"]()
        for name, side in sides.items():
            check(ours, side(), name)
        taken: dict[str, list[float]] = {name: [] for name in sides}
        for number in range(rounds):
            for name, side in sides.items():
                taken[name].append(spent(side))
            print(task, number, {n: round(own[-1], 2) for n, own in taken.items()}, flush=True)
    medians = {name: statistics.median(own) for name, own in taken.items()}
    best = min((f"{PEERS[0]}, {batch}" for batch in BATCHES), key=medians.__getitem__)
    chosen = {PEERS[0]: best, PEERS[1]: PEERS[1], PEERS[2]: PEERS[2]}
    return {
        "task": task,
        "rows": len(inputs),
        "seconds": medians,
        "times": {peer: medians[name] / medians["weft"] for peer, name in chosen.items()},
        "times_by_round": {
            peer: [a / b for a, b in zip(taken[name], taken["weft"], strict=True)]
            for peer, name in chosen.items()
        },
        "rounds": taken,
    }


def main() -> None:
    """Measure and write the result file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=Path("..") / "shared" / "data")
    parser.add_argument("--tasks", nargs="*", default=list(ROWS), choices=ROWS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = [
        measure(task, arguments.data.resolve(), arguments.rounds) for task in arguments.tasks
    ]
    written = {
        "script": "benchmarks/answering.py",
        "settings": {
            "rounds": arguments.rounds,
            "rows": ROWS,
            "batches": BATCHES,
            "tokens": [TOKENS_PER_BATCH["cpu"], *TOKENS],
            "peers": list(PEERS),
        },
        "results": results,
        "machine": machine("cpu"),
    }
    arguments.out.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    print(arguments.out)


if __name__ == "__main__":
    main()

"""Training throughput in real (unpadded) tokens per second, against transformers' Trainer with PEFT.

    python benchmarks/throughput.py --data ../shared/data

Same base, rows, batch size, LoRA (rank 8, query + value), optimizer, schedule and threads on both sides. The peer runs
in its default (random order, dynamic padding, SDPA) and in its best configuration (grouped by length, the faster of two
attention implementations). Sides alternate within one process; the ratio is the median over rounds.
Peak memory is that of a fresh process for each side.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForTokenClassification,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

from machine import machine
from weft.base.loading import load_base
from weft.config import TaskSettings
from weft.data.encoding import cache_folder, encode_examples
from weft.data.reading import load_task
from weft.training.finishing import peak_memory_mib
from weft.training.loop import train

BATCH = 16
ROWS = {"wnut17": 960, "squad": 240}
"""Training rows of one measurement, which is one epoch over them: both sides see the same tokens."""
SEED = 0
PEERS = {"default": "random", "grouped by length": "group_by_length"}
"""Trainer's sampling strategy by what the results call it."""


class Rows(torch.utils.data.Dataset[dict[str, Any]]):
    """Encoded sequences as Trainer wants them."""

    def __init__(self, task: str, data: str) -> None:
        settings = TaskSettings(name=task, data=f"{data}/{task}", max_examples=ROWS[task])
        loaded = load_task(settings, splits=["train"], seed=SEED)
        self.base = load_base("minilm")
        records = encode_examples(
            loaded.task, loaded.splits["train"], self.base.tokenizer, cache=cache_folder()
        )
        self.num_labels = loaded.task.num_labels
        self.rows = []
        for record in records:
            for at, ids in enumerate(record["input_ids"]):
                row = {"input_ids": ids, "token_type_ids": record["token_type_ids"][at]}
                row["attention_mask"] = [1] * len(ids)
                if task == "squad":
                    row["start_positions"], row["end_positions"] = record["labels"][at]
                else:
                    row["labels"] = record["labels"][at]
                self.rows.append(row)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, at: int) -> dict[str, Any]:
        return self.rows[at]


def peer_model(task: str, rows: Rows, attention: str) -> PeftModel:
    """Transformers' task class with PEFT's LoRA on query and value."""
    folder = rows.base.files[0].parent
    torch.manual_seed(0)
    if task == "squad":
        model = AutoModelForQuestionAnswering.from_pretrained(folder, attn_implementation=attention)
        kind = "QUESTION_ANS"
    else:
        model = AutoModelForTokenClassification.from_pretrained(
            folder, num_labels=rows.num_labels, attn_implementation=attention
        )
        kind = "TOKEN_CLS"
    config = LoraConfig(r=8, lora_alpha=16, target_modules=["query", "value"], task_type=kind)
    return get_peft_model(model, config)


def peer(
    task: str, rows: Rows, strategy: str, attention: str, *, precision: str, device: str
) -> float:
    """Real tokens per second of Trainer over one measurement."""
    tokenizer = rows.base.tokenizer
    counted = {"tokens": 0}
    inner = (
        DataCollatorForTokenClassification(tokenizer)
        if task == "wnut17"
        else DataCollatorWithPadding(tokenizer)
    )

    def collate(features: list[dict[str, Any]]) -> Any:
        counted["tokens"] += sum(len(feature["input_ids"]) for feature in features)
        return inner(features)

    with tempfile.TemporaryDirectory() as out:
        arguments = TrainingArguments(
            output_dir=out,
            num_train_epochs=1,
            per_device_train_batch_size=BATCH,
            learning_rate=1e-3,
            weight_decay=0.01,
            lr_scheduler_type="linear",
            bf16=precision == "bf16",
            use_cpu=device == "cpu",
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            dataloader_pin_memory=False,
            seed=SEED,
            train_sampling_strategy=PEERS[strategy],
        )
        trainer = Trainer(
            model=peer_model(task, rows, attention),
            args=arguments,
            train_dataset=rows,
            data_collator=collate,
        )
        seconds = trainer.train().metrics["train_runtime"]
    return counted["tokens"] / seconds


def ours(task: str, data: str, precision: str, device: str) -> float:
    """Real tokens per second of weft over one measurement."""
    with tempfile.TemporaryDirectory() as out:
        folder = train(
            {
                "base": "minilm",
                "task": {
                    "name": task,
                    "data": f"{data}/{task}",
                    "max_examples": {"train": ROWS[task], "validation": 8},
                },
                "recipe": {"name": "lora", "targets": ["query", "value"]},
                "training": {
                    "epochs": 1,
                    "batch_size": BATCH,
                    "learning_rate": 1e-3,
                    "warmup": 0.0,
                    "precision": precision,
                },
                "device": device,
                "seed": SEED,
            },
            out=Path(out) / "run",
        )
        assert folder.training is not None
        return folder.training["tokens_per_second"]


def measure(task: str, data: str, precision: str, device: str, rounds: int) -> dict[str, Any]:
    """Tokens per second of every side, interleaved, and the ratios of medians."""
    rows = Rows(task, data)
    sides: dict[str, list[float]] = {"weft": []}
    peers = [("default", "sdpa")]
    peers += [("grouped by length", attention) for attention in ("sdpa", "eager")]
    sides |= {f"Trainer + PEFT, {s}, {a}": [] for s, a in peers}
    for number in range(rounds + 1):
        found = {"weft": ours(task, data, precision, device)}
        for strategy, attention in peers:
            name = f"Trainer + PEFT, {strategy}, {attention}"
            found[name] = peer(task, rows, strategy, attention, precision=precision, device=device)
        print(task, precision, {name: round(value) for name, value in found.items()}, flush=True)
        if number:  # the first round warms both sides up
            for name, value in found.items():
                sides[name].append(value)
    medians = {name: statistics.median(values) for name, values in sides.items()}
    best = max(value for name, value in medians.items() if name != "weft")
    ratios = [
        ours_ / max(sides[n][at] for n in sides if n != "weft")
        for at, ours_ in enumerate(sides["weft"])
    ]
    return {
        "task": task,
        "precision": precision,
        "tokens_per_second": medians,
        "ratio_to_default": medians["weft"] / medians["Trainer + PEFT, default, sdpa"],
        "ratio_to_best": medians["weft"] / best,
        "ratio_to_best_by_round": [round(value, 3) for value in ratios],
        "rounds": sides,
    }


def peak_memory(side: str, task: str, data: str, precision: str, device: str) -> float:
    """Peak resident memory in MiB of a fresh process that trains one side."""
    command = [sys.executable, __file__, "--data", data, "--only", side, "--tasks", task]
    command += ["--precision", precision, "--device", device]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.strip().splitlines()[-1])


def only(side: str, task: str, data: str, precision: str, device: str) -> None:
    """Train one side and print this process's peak memory."""
    if side == "weft":
        ours(task, data, precision, device)
    else:
        strategy, attention = side.split("/")
        peer(task, Rows(task, data), strategy, attention, precision=precision, device=device)
    print(peak_memory_mib(torch.device(device)))


def again(path: Path, data: str, device: str) -> None:
    """Replace weft's peak memory in a result file by that of the code as it is now."""
    written = json.loads(path.read_text(encoding="utf-8"))
    for result in written["results"]:
        memory = peak_memory("weft", result["task"], data, result["precision"], device)
        result["peak_memory_mib"]["weft"] = memory
        print(result["task"], result["precision"], result["peak_memory_mib"], flush=True)
    written["memory_measured_with"] = machine(device)
    path.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Measure what the command line asks for and write the result file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", default="../shared/data")
    parser.add_argument("--tasks", nargs="*", default=["wnut17", "squad"], choices=ROWS)
    parser.add_argument("--precision", nargs="*", default=["fp32", "bf16"])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory-only", action="store_true", help="Measure weft's memory again.")
    parser.add_argument("--only", default=None, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    data = str(Path(arguments.data).resolve())
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if arguments.only:
        only(arguments.only, arguments.tasks[0], data, arguments.precision[0], arguments.device)
        return
    path = Path("results") / f"throughput-{arguments.device}.json"
    if arguments.memory_only:
        again(path, data, arguments.device)
        return
    results = []
    for task in arguments.tasks:
        for precision in arguments.precision:
            result = measure(task, data, precision, arguments.device, arguments.rounds)
            result["peak_memory_mib"] = {
                side: peak_memory(side, task, data, precision, arguments.device)
                for side in (
                    "weft",
                    "default/sdpa",
                    "grouped by length/sdpa",
                    "grouped by length/eager",
                )
            }
            print(
                json.dumps({k: v for k, v in result.items() if k != "rounds"}, indent=1), flush=True
            )
            results.append(result)
    settings = {"batch_size": BATCH, "rows": ROWS, "rounds": arguments.rounds}
    written = {
        "script": "benchmarks/throughput.py",
        "settings": settings,
        "results": results,
        "machine": machine(arguments.device),
    }
    path.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    print(path)


if __name__ == "__main__":
    main()

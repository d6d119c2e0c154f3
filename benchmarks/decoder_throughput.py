"""Training and writing with experts on a real decoder, in tokens per second, beside Trainer + PEFT and TRL.

    python benchmarks/decoder_throughput.py --data ../shared/data [--only training writing quantised]

SmolLM2-135M-Instruct, notes from dialogues (MTS-Dialog) of at most 256 tokens, LoRA of rank 8 on query and value.
Training: the same rows, batch size, optimizer and schedule on all sides; loss on the note's tokens alone. The peers run
grouped by length; TRL (where it is installed) also packs, which lets rows look at each other. Real tokens, padding not
counted. Writing: 8 prompts by 8 experts in one batch beside 8 by one, and PEFT's `adapter_names` in transformers'
generation. Quantised: the same training, and its scores on held-out notes, on a base as it is, in int8 and in int4
(where torchao is installed). Sides alternate in one process; ratios are of medians over rounds, the first of which
warms up. Peak memory is that of a fresh process. The result is results/decoder-throughput-cpu.json.
"""

import argparse
import csv
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    Trainer,
    TrainingArguments,
)

import weft
from machine import machine
from weft.answering.generation import Generation, prompt_ids
from weft.atomic import write_text
from weft.base.loading import load_base
from weft.base.locate import locate
from weft.serving.computing.writing import Chunk, Line, Writer
from weft.storage.loading import Ground, ground_of, load_onto
from weft.training.finishing import peak_memory_mib
from weft.training.loop import train

BASE = "smollm2"
LONGEST = 256
BATCH = 8
ROWS = {"train": 64, "validation": 48}
RATE = 1e-3
EXPERTS = 8
WRITTEN = 24
"""Tokens a text."""
SEED = 0
LORA = {"name": "lora", "rank": 8, "alpha": 16, "targets": ["query", "value"]}
FILE = Path("results") / "decoder-throughput-cpu.json"
SPEC = {"kind": "causal_lm", "max_length": LONGEST, "options": {"pack": False}}


def rows_of(data: Path, split: str) -> list[dict[str, str]]:
    """The first dialogues of a split that fit, each with its note."""
    tokenizer = load_base(BASE).tokenizer
    found = []
    with (data / "mts_dialog" / f"{split}.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            prompt = f"{row['dialogue'].strip()}\n\n{row['section_header']}:"
            completion = f" {row['section_text'].strip()}"
            if len(tokenizer(prompt + completion)["input_ids"]) < LONGEST:
                found.append({"prompt": prompt, "completion": completion})
            if len(found) == ROWS[split]:
                break
    return found


def settings(data: Path, precision: str, **values: Any) -> dict[str, Any]:
    """A run of weft over the rows, once."""
    task = {"name": "notes", "spec": SPEC, "data": str(data)}
    training = {
        "epochs": 1,
        "batch_size": BATCH,
        "learning_rate": RATE,
        "warmup": 0.0,
        "precision": precision,
    }
    training |= values.pop("training", {})
    fixed = {"base": BASE, "device": "cpu", "seed": SEED, "recipe": LORA}
    return {**fixed, "task": task, "training": training, **values}


def ours(rows: Path, precision: str) -> float:
    """Real tokens per second of weft."""
    with tempfile.TemporaryDirectory() as out:
        folder = train(settings(rows, precision), out=Path(out) / "run")
        assert folder.training is not None
        return folder.training["tokens_per_second"]


def peer_model() -> PeftModel:
    """The decoder with PEFT's LoRA on query and value."""
    torch.manual_seed(SEED)
    folder, _, _ = locate(BASE, None)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    config = LoraConfig(
        r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"
    )
    return get_peft_model(model, config)


def arguments_of(out: str, precision: str) -> dict[str, Any]:
    """What both peers are told."""
    return {
        "output_dir": out,
        "num_train_epochs": 1,
        "per_device_train_batch_size": BATCH,
        "learning_rate": RATE,
        "weight_decay": 0.01,
        "lr_scheduler_type": "linear",
        "bf16": precision == "bf16",
        "use_cpu": True,
        "report_to": [],
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "seed": SEED,
    }


def encoded(rows: Sequence[dict[str, str]]) -> list[dict[str, Any]]:
    """Rows as Trainer takes them, loss on the note alone."""
    folder, _, _ = locate(BASE, None)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    found = []
    for row in rows:
        before = tokenizer(row["prompt"])["input_ids"]
        after = [*tokenizer(row["completion"])["input_ids"], tokenizer.eos_token_id]
        found.append(
            {
                "input_ids": before + after,
                "labels": [-100] * len(before) + after,
                "attention_mask": [1] * (len(before) + len(after)),
                "length": len(before) + len(after),
            }
        )
    return found


def trainer_peer(rows: Sequence[dict[str, str]], precision: str) -> float:
    """Real tokens per second of Trainer + PEFT, grouped by length."""
    folder, _, _ = locate(BASE, None)
    ready = encoded(rows)
    collator = DataCollatorForSeq2Seq(AutoTokenizer.from_pretrained(folder), padding=True)
    with tempfile.TemporaryDirectory() as out:
        told = TrainingArguments(
            **arguments_of(out, precision), train_sampling_strategy="group_by_length"
        )
        trainer = Trainer(
            model=peer_model(),
            args=told,
            train_dataset=Dataset.from_list(ready),
            data_collator=collator,
        )
        seconds = trainer.train().metrics["train_runtime"]
    return sum(row["length"] for row in ready) / seconds


def trl_peer(rows: Sequence[dict[str, str]], precision: str, *, packing: bool) -> float:
    """Real tokens per second of TRL's SFTTrainer."""
    from trl import SFTConfig, SFTTrainer  # pyright: ignore[reportMissingImports]

    tokens = sum(row["length"] for row in encoded(rows))
    with tempfile.TemporaryDirectory() as out:
        told = SFTConfig(
            **arguments_of(out, precision),
            max_length=LONGEST,
            packing=packing,
            completion_only_loss=True,
            gradient_checkpointing=False,
            **({} if packing else {"train_sampling_strategy": "group_by_length"}),
        )
        folder, _, _ = locate(BASE, None)
        trainer = SFTTrainer(
            model=peer_model(),
            args=told,
            train_dataset=Dataset.from_list(list(rows)),
            processing_class=AutoTokenizer.from_pretrained(folder),
        )
        seconds = trainer.train().metrics["train_runtime"]
    return tokens / seconds


def sides_of(rows: Sequence[dict[str, str]], folder: Path) -> dict[str, Callable[[str], float]]:
    """Every side of the training by name, from a precision to its rate."""
    found: dict[str, Callable[[str], float]] = {
        "weft": lambda precision: ours(folder, precision),
        "Trainer + PEFT": lambda precision: trainer_peer(rows, precision),
    }
    if importlib.util.find_spec("trl") is not None:
        found["TRL"] = lambda precision: trl_peer(rows, precision, packing=False)
        found["TRL, packed"] = lambda precision: trl_peer(rows, precision, packing=True)
    return found


def training(folder: Path, rows: list[dict[str, str]], rounds: int) -> list[dict[str, Any]]:
    """Rates of training by precision, sides in turns, and peak memory of each."""
    found = []
    for precision in ("fp32", "bf16"):
        sides = sides_of(rows, folder)
        told: dict[str, list[float]] = {name: [] for name in sides}
        for number in range(rounds + 1):
            for name, side in sides.items():
                value = side(precision)
                print(precision, number, name, round(value), flush=True)
                if number:
                    told[name].append(value)
        medians = {name: statistics.median(values) for name, values in told.items()}
        best = max(value for name, value in medians.items() if name != "weft")
        found.append(
            {
                "precision": precision,
                "tokens_per_second": medians,
                "ratio_to_best": medians["weft"] / best,
                "rounds": told,
                "peak_memory_mib": {name: memory(name, folder, precision) for name in sides},
            }
        )
    return found


def memory(side: str, folder: Path, precision: str) -> float:
    """Peak resident memory in MiB of a fresh process that trains one side."""
    command = [sys.executable, __file__, "--side", side, "--rows", str(folder)]
    done = subprocess.run(
        [*command, "--precision", precision], capture_output=True, text=True, check=True
    )
    return float(done.stdout.strip().splitlines()[-1])


def writers(folder: Path, rows: Path) -> list[Path]:
    """Run folders of several experts, trained for a step each."""
    found = []
    for at in range(EXPERTS):
        path = folder / f"e{at}"
        values = settings(rows, "fp32", training={"max_steps": 1}) | {"seed": at}
        train(values, out=path)
        found.append(path)
    return found


def written(ground: Ground, names: Sequence[str], prompts: Sequence[str]) -> float:
    """Tokens per second of texts that are written together, each by the expert of its place."""
    how = Generation(max_new_tokens=WRITTEN)
    base = ground.model.base
    lines = [
        Line(name, (name,), prompt_ids(base, prompt, how, "prompt"), how)
        for name, prompt in zip(names, prompts, strict=True)
    ]
    began = time.perf_counter()
    writer, held = Writer(ground), ground.model.snapshot
    with torch.inference_mode():
        writer.join(held, [Chunk([line]) for line in lines], ground)
        while writer.count:
            writer.step(held)
    return sum(len(line.written) for line in lines) / (time.perf_counter() - began)


def by_peft(model: PeftModel, names: Sequence[str], prompts: Sequence[str]) -> float:
    """The same by transformers' generation, with an adapter's name for each row."""
    folder, _, _ = locate(BASE, None)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, padding_side="left")
    inputs = tokenizer(list(prompts), return_tensors="pt", padding=True)
    began = time.perf_counter()
    with torch.inference_mode():
        out = model.generate(
            **inputs, max_new_tokens=WRITTEN, do_sample=False, adapter_names=list(names)
        )
    made = out[:, inputs["input_ids"].shape[1] :]
    tokens = sum(_length(row, tokenizer.eos_token_id) for row in made.tolist())
    return tokens / (time.perf_counter() - began)


def _length(row: list[int], end: int) -> int:
    return row.index(end) + 1 if end in row else len(row)


def writing(folder: Path, rows: list[dict[str, str]], rounds: int) -> dict[str, Any]:
    """Rates of writing by one expert, by eight in one batch, and by PEFT's eight."""
    prompts = [row["prompt"] for row in rows[:EXPERTS]]
    with tempfile.TemporaryDirectory() as out:
        runs = writers(Path(out), folder)
        ground = ground_of(runs[0], device="cpu")
        names = [load_onto(run, ground, name=run.name).name for run in runs]
        adapters = [weft.export(run, Path(out) / f"peft-{run.name}", "peft") for run in runs]
        plain = AutoModelForCausalLM.from_pretrained(locate(BASE, None)[0], dtype=torch.float32)
        peer = PeftModel.from_pretrained(plain, adapters[0], adapter_name=names[0])
        for name, adapter in list(zip(names, adapters, strict=True))[1:]:
            peer.load_adapter(adapter, adapter_name=name)
        peer.eval()
        sides = {
            "one expert": lambda: written(ground, names[:1] * EXPERTS, prompts),
            "eight experts": lambda: written(ground, names, prompts),
            "PEFT, eight": lambda: by_peft(peer, names, prompts),
        }
        told: dict[str, list[float]] = {name: [] for name in sides}
        for number in range(rounds + 1):
            for name, side in sides.items():
                value = side()
                print("writing", number, name, round(value, 1), flush=True)
                if number:
                    told[name].append(value)
    medians = {name: statistics.median(values) for name, values in told.items()}
    return {
        "tokens_per_second": medians,
        "eight_over_one": medians["eight experts"] / medians["one expert"],
        "eight_over_peft": medians["eight experts"] / medians["PEFT, eight"],
        "rounds": told,
    }


def quantised(folder: Path) -> list[dict[str, Any]]:
    """One training for each form of the base: its rate, its memory and the score on held-out notes."""
    found = []
    for bits in (None, "int8", "int4"):
        if bits and importlib.util.find_spec("torchao") is None:
            print("torchao is not installed: int8 and int4 are left out", flush=True)
            break
        with tempfile.TemporaryDirectory() as out:
            run = train(settings(folder, "fp32", quantise=bits), out=Path(out) / "run")
            assert run.training is not None
            row = {
                "base": bits or "fp32",
                "tokens_per_second": run.training["tokens_per_second"],
                "peak_memory_mib": memory(f"weft {bits or ''}".strip(), folder, "fp32"),
                "scores": run.metrics,
            }
        print(row, flush=True)
        found.append(row)
    return found


def main() -> None:
    """Measure what is asked for; parts that are not keep what the file says of them."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--data", type=Path, default=Path("../shared/data"))
    parts = ("training", "writing", "quantised")
    asked.add_argument("--only", nargs="+", choices=parts, default=list(parts))
    asked.add_argument("--rounds", type=int, default=3)
    asked.add_argument("--side", help=argparse.SUPPRESS)
    asked.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
    asked.add_argument("--precision", default="fp32", help=argparse.SUPPRESS)
    args = asked.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if args.side:
        lines = (args.rows / "train.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        if args.side.startswith("weft "):
            values = settings(args.rows, "fp32", quantise=args.side.split()[1])
            with tempfile.TemporaryDirectory() as out:
                train(values, out=Path(out) / "run")
        else:
            sides_of(rows, args.rows)[args.side](args.precision)
        print(peak_memory_mib(torch.device("cpu")))
        return
    told = json.loads(FILE.read_text(encoding="utf-8")) if FILE.is_file() else {}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        rows = {split: rows_of(args.data, split) for split in ROWS}
        for split, own in rows.items():
            lines = [json.dumps({"id": f"{split}-{at}", **row}) for at, row in enumerate(own)]
            write_text(folder / f"{split}.jsonl", "\n".join(lines) + "\n")
        for part in args.only:
            if part == "training":
                told[part] = training(folder, rows["train"], args.rounds)
            elif part == "writing":
                told[part] = writing(folder, rows["train"], args.rounds)
            else:
                told[part] = quantised(folder)
    told |= {
        "script": "benchmarks/decoder_throughput.py",
        "settings": {
            "base": BASE,
            "batch_size": BATCH,
            "rows": ROWS,
            "longest": LONGEST,
            "rounds": args.rounds,
            "experts": EXPERTS,
            "written": WRITTEN,
        },
        "machine": machine("cpu"),
    }
    write_text(FILE, json.dumps(told, indent=1) + "\n")
    print(FILE)


if __name__ == "__main__":
    main()

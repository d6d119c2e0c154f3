"""A decoder that is asked in words beside experts that were trained: score, tokens, seconds and memory of an answer.

    python benchmarks/decoder_prompting.py --data ../shared/data

WNUT17, SQuAD (a subset) and CODAH in SWAG's form. smollm2 is asked without examples, by its chat template, with four
examples drawn by a seed (three seeds), with the four nearest, with four passages of an index of the training rows, and
by a chain of thought. Beside it a LoRA on the same decoder, trained on the same words (`weft.prompting.completions`)
and asked without examples, and a LoRA on the embedded encoder with its kind's own head: as many training rows, three
seeds, each at the rate that the recipe gives by rule. All answer the same rows; intervals are bootstrap over rows,
95 %, of the mean over seeds.

Every cell is a process of its own, so memory is that process's peak: weights and all. Seconds are of answering, without
loading and without the index. Interrupt it as you like: the same call goes on, within a cell's answers too; a training
that was cut off begins anew. The result is results/decoders/prompting.json.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import weft
from machine import machine
from weft.answering.evaluation import Evaluation, rows_of
from weft.atomic import make_folder, write_text
from weft.base.loading import load_base
from weft.config import TaskSettings
from weft.data.reading import LoadedTask, load_task, sample
from weft.model.card import Card
from weft.prompting.completions import completions
from weft.prompting.prompt import ROWS_SEED, prompt
from weft.prompting.templates import template_for
from weft.runs import RunFolder
from weft.storage.experts import read_card
from weft.tasks.scoring import mean_score, score

RESULT = Path("results") / "decoders" / "prompting.json"
DECODER, ENCODER = "smollm2", "minilm"
SEEDS = (0, 1, 2)
WAYS: dict[str, dict[str, Any]] = {
    "no examples": {},
    "no examples, chat template": {"chat": True},
    "4 examples, drawn": {"shots": 4},
    "4 examples, the nearest": {"shots": 4, "nearest": True},
    "4 passages retrieved": {"retrieve": 4},
    "chain of thought": {"style": "chain", "thought_tokens": 48},
}
TRAINED = {"LoRA on the decoder": DECODER, "LoRA on the encoder": ENCODER}
DRAWN = ("4 examples, drawn", *TRAINED)
"""What a seed decides something of."""
LONG = {"wnut17": 1.0, "squad": 3.0, "swag": 0.3}
"""How long a row of each set takes beside others, for the estimate alone."""
SLOW = {
    "4 examples, the nearest": 3.0,
    "4 passages retrieved": 3.0,
    "chain of thought": 3.0,
    "LoRA on the decoder": 4.0,
    "LoRA on the encoder": 0.5,
}
"""The same of ways."""


@dataclass(frozen=True)
class Cell:
    """One way of answering one set's rows, once."""

    task: str
    way: str
    seed: int

    @property
    def name(self) -> str:
        """As a file name."""
        return f"{self.task}-{self.way.replace(',', '').replace(' ', '-')}-seed{self.seed}"

    @property
    def weight(self) -> float:
        """How long it takes beside others, roughly."""
        return LONG[self.task] * SLOW.get(self.way, 1.0)


@dataclass(frozen=True)
class Plan:
    """What is asked of how many rows."""

    data: Path
    runs: Path
    rows: int
    train_rows: int
    precision: str

    def cells(self, tasks: Sequence[str]) -> list[Cell]:
        """All, set by set."""
        return [
            Cell(task, way, seed)
            for task in tasks
            for way in (*WAYS, *TRAINED)
            for seed in (SEEDS if way in DRAWN else SEEDS[:1])
        ]

    def settings(self, task: str) -> TaskSettings:
        """Where a set's rows are."""
        return TaskSettings(name=task, data=str((self.data / task).resolve()))

    def loaded(self, task: str) -> LoadedTask:
        """The rows that are asked about."""
        settings = self.settings(task).model_copy(
            update={"max_examples": {"validation": self.rows}}
        )
        return load_task(settings, splits=["validation", "train"], seed=ROWS_SEED)

    def arguments(self) -> list[str]:
        """As the script takes them."""
        return [
            *("--data", str(self.data), "--runs", str(self.runs), "--precision", self.precision),
            *("--rows", str(self.rows), "--train-rows", str(self.train_rows)),
        ]


def trained(plan: Plan, cell: Cell) -> RunFolder:
    """The expert of a cell, trained now if it was not."""
    folder = plan.runs / "experts" / cell.name
    if folder.is_dir() and (own := RunFolder.open(folder)).is_complete:
        return own
    usual: dict[str, Any] = {
        "base": TRAINED[cell.way],
        "recipe": {"name": "lora", "rank": 8, "alpha": 16, "targets": ["all-linear"]},
        "seed": cell.seed,
        "device": "cpu",
    }
    shutil.rmtree(folder, ignore_errors=True)
    if cell.way == "LoRA on the encoder":
        task = plan.settings(cell.task).model_copy(
            update={"max_examples": {"train": plan.train_rows}}
        )
        training = {"epochs": 5, "batch_size": 16, "precision": "fp32"}
        run = {**usual, "task": task.model_dump(mode="json"), "training": training}
        return weft.train(run, out=folder)
    loaded = plan.loaded(cell.task)
    template = template_for(loaded.task.spec)(loaded.task)
    kept = sample(loaded.splits["train"], plan.train_rows, seed=cell.seed, split="train")
    rows = completions(kept, template)
    task = {"name": cell.task, "spec": {"kind": "causal_lm", "max_length": 1024}}
    training = {"epochs": 1, "batch_size": 8, "precision": plan.precision}
    # Training wants rows to look at; no choice is made by them.
    data = {"train": rows, "validation": rows[:8]}
    return weft.train({**usual, "task": task, "training": training}, out=folder, data=data)


def asked(plan: Plan, cell: Cell, base: str, settings: dict[str, Any]) -> dict[str, Any]:
    """What a decoder answers."""
    found = prompt(
        plan.settings(cell.task),
        base=base,
        max_examples=plan.rows,
        seed=cell.seed,
        out=plan.runs / "answers" / f"{cell.name}.jsonl",
        device="cpu",
        precision=plan.precision,
        **settings,
    )
    return {
        "predictions": found.predictions,
        "answers": found.n,
        **asdict(found.cost),
    }


def evaluated(plan: Plan, cell: Cell, folder: RunFolder) -> dict[str, Any]:
    """What an encoder's expert answers: of the whole split, whose rows hold those that are asked about."""
    card: Card = read_card(folder.expert)
    _, records = rows_of(folder.run, card, load_base(ENCODER), "validation")
    began = time.perf_counter()
    found = weft.evaluate(folder.path, save=False, device="cpu")
    seconds = time.perf_counter() - began
    assert isinstance(found, Evaluation)
    wanted = {row["id"] for row in plan.loaded(cell.task).splits["validation"]}
    return {
        "predictions": [row for row in found.predictions if row["id"] in wanted],
        "answers": found.n,
        "tokens_read": sum(len(ids) for record in records for ids in record["input_ids"]),
        "tokens_written": 0,
        "seconds": seconds,
    }


def answer(plan: Plan, cell: Cell) -> None:
    """Answer a cell's rows in this process and write what came of it."""
    if cell.way in WAYS:
        found = asked(plan, cell, DECODER, WAYS[cell.way])
    elif TRAINED[cell.way] == DECODER:
        found = asked(plan, cell, str(trained(plan, cell).path), {})
    else:
        found = evaluated(plan, cell, trained(plan, cell))
    # Kilobytes on Linux.
    found["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    place = plan.runs / "cells" / f"{cell.name}.json"
    make_folder(place.parent)
    write_text(place, json.dumps(found, allow_nan=False) + "\n")


def summary(plan: Plan, task: str) -> list[dict[str, Any]]:
    """A line for each way that has all its cells."""
    loaded = plan.loaded(task)
    examples = loaded.splits["validation"]
    lines = []
    for way in (*WAYS, *TRAINED):
        cells = [own for own in plan.cells([task]) if own.way == way]
        places = [plan.runs / "cells" / f"{own.name}.json" for own in cells]
        if not all(place.is_file() for place in places):
            continue
        found = [json.loads(place.read_text(encoding="utf-8")) for place in places]
        said = []
        for own in found:
            by_id = {row["id"]: row for row in own["predictions"]}
            said.append([by_id[row["id"]] for row in examples])
        scores = mean_score(loaded.task, said, examples)
        answers = sum(own["answers"] for own in found)
        each = ("tokens_read", "tokens_written", "seconds")
        lines.append(
            {
                "way": way,
                "seeds": len(cells),
                "n": len(examples),
                "metric": loaded.task.metric,
                "scores": {name: asdict(value) for name, value in scores.items()},
                "by_seed": [
                    score(loaded.task, own, examples, resamples=0)[loaded.task.metric].value
                    for own in said
                ],
                **{f"{name}_an_answer": sum(own[name] for own in found) / answers for name in each},
                "peak_mib": max(own["peak_mib"] for own in found),
            }
        )
    return lines


def write(plan: Plan, tasks: Sequence[str]) -> None:
    """Write the result file of what there is."""
    result = {
        "script": "benchmarks/decoder_prompting.py",
        "decoder": DECODER,
        "encoder": ENCODER,
        "rows": plan.rows,
        "train_rows": plan.train_rows,
        "precision": plan.precision,
        "ways": WAYS,
        "sets": {task: summary(plan, task) for task in tasks},
        "machine": machine("cpu"),
    }
    make_folder(RESULT.parent)
    write_text(RESULT, json.dumps(result, indent=1) + "\n")


def main() -> None:
    """Run what is missing and write the result file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", default="../shared/data")
    parser.add_argument("--runs", default="runs/decoder-prompting")
    parser.add_argument("--tasks", nargs="+", choices=LONG, default=list(LONG))
    parser.add_argument("--rows", type=int, default=100, help="asked about, of each set")
    parser.add_argument("--train-rows", type=int, default=128, help="of each expert")
    parser.add_argument("--precision", default="fp32", help="of the decoder")
    parser.add_argument("--cell", help="answer this one in this process; for the script itself")
    own = parser.parse_args()
    plan = Plan(Path(own.data), Path(own.runs), own.rows, own.train_rows, own.precision)
    cells = plan.cells(own.tasks)
    if own.cell:
        answer(plan, next(cell for cell in cells if cell.name == own.cell))
        return
    left = [cell for cell in cells if not (plan.runs / "cells" / f"{cell.name}.json").is_file()]
    began, done, total = time.monotonic(), 0.0, sum(cell.weight for cell in left)
    for number, cell in enumerate(left):
        passed = time.monotonic() - began
        estimate = f", {passed / done * (total - done) / 60:.0f} min left" if done else ""
        print(f"[{number + 1}/{len(left)}] {cell.name}{estimate}", flush=True)
        if cell.way in TRAINED:
            # Apart from answering, whose memory is measured.
            trained(plan, cell)
        command = [sys.executable, __file__, *plan.arguments(), "--tasks", *own.tasks]
        subprocess.run([*command, "--cell", cell.name], check=True)
        done += cell.weight
    write(plan, own.tasks)
    print(RESULT)


if __name__ == "__main__":
    main()
